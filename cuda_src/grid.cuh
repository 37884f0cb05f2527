// Positions: reflection, mirror images, borders and the order of frames: the formulas of shiftsearch/_geometry.py.
//
// Indices of pixels are 32-bit numbers: a frame has fewer than SS_FAR pixels per side, and places are nearer than that.
// Fractional positions, and those farther away, are doubles. Sums and products of doubles are written with __dadd_rn
// and __dmul_rn: if a compiler contracted them, they would be rounded differently, and two backends would look at
// different places.
#ifndef SS_GRID_CUH
#define SS_GRID_CUH

#define SS_MOST 1073741824.0  // pixels: a search follows flow no further
#define SS_FAR (1 << 29)  // the sum of two smaller numbers fits 32 bits

// x modulo period, in [0, period). Few positions need it, and its code is long, so it is not inlined.
__device__ __noinline__ double within_period(double x, double period) {
    x = fmod(x, period);
    return x < 0 ? __dadd_rn(x, period) : x;
}

// The same for pixels, which are seldom more than one period away.
__device__ inline int within_period(int x, int period) {
    if (x < 0) x += period;
    if (x >= period) x -= period;
    if (x >= 0 && x < period) return x;
    x %= period;
    return x < 0 ? x + period : x;
}

// Pixel x mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2.
__device__ inline int reflect(int x, int n) {
    if (x >= 0 && x < n) return x;
    if (n == 1) return 0;
    const int period = 2 * (n - 1);
    x = within_period(x, period);
    return x < n ? x : period - x;
}

// The same for any position, and the sign of its derivative: -1 in a mirror image, 0 where there is only one pixel.
__device__ inline double mirror(double x, int n, int* sign) {
    *sign = n > 1;
    if (n == 1) return 0;
    if (x >= 0 && x <= n - 1) return x;
    const double period = 2.0 * (n - 1);
    x = within_period(x, period);
    if (x <= n - 1) return x;
    *sign = -1;
    return __dadd_rn(period, -x);
}

// The position in [first, last] that is shown at pixel y: mirrored (1) or not (0). There is at most one of each kind,
// as the range is at most n long. A frame with a border of zeros has no mirror images.
__device__ inline bool image(int y, int n, bool zeros, int mirrored, int first, int last, int* position) {
    if (zeros || n == 1) {
        *position = n == 1 && !zeros ? first : y;
        return mirrored == 0 && *position >= first && *position <= last;
    }
    if (mirrored && (y == 0 || y == n - 1)) return false;  // the outermost pixels are their own images
    const int period = 2 * (n - 1);
    *position = first + within_period((mirrored ? period - y : y) - first, period);
    return *position <= last;
}

// The number of kinds of positions that are shown at pixel y, up to `reach` outside the frame: pixels far from the
// border have no mirrored one.
__device__ inline int kinds_of_images(int y, int n, bool zeros, int reach) {
    return zeros || n == 1 || (y > reach && y < n - 1 - reach) ? 1 : 2;
}

// The frame that frame t of a clip is searched in for a slot: itself, then forward in time, then backward.
__device__ inline int frame_of_slot(int t, int slot, int frames, int radius) {
    const int reach = t + radius > 2 * radius ? t + radius : 2 * radius;
    const int last = reach < frames - 1 ? reach : frames - 1;
    return t + slot <= last ? t + slot : last - slot;
}

// x, or 0 if it is not finite. (`finite` is a function of C.)
__device__ inline double finite_or_zero(double x) { return isfinite(x) ? x : 0.0; }

#endif
