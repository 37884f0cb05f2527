// Positions: reflection, mirror images, borders and the order of frames. It is what shiftsearch/_geometry.py says, and
// no other file of CUDA has a formula for it.
//
// Pixels are 32-bit numbers: a side of a frame has fewer than SS_FAR of them, and so has the way to whatever is looked
// at. Positions that are fractions, and those farther away, are doubles. Sums and products of doubles are asked for one
// by one (__dadd_rn, __dmul_rn): a compiler that joined them would round elsewhere, and two backends would look at
// different places.
#ifndef SS_GRID_CUH
#define SS_GRID_CUH

#define SS_MOST 1073741824.0  // pixels that a search follows a flow
#define SS_FAR (1 << 29)  // sums and doubles of numbers that are smaller fit into 32 bits

// x without whole periods, in [0, period). Few positions need it, and it is long: there is one of it in a program.
__device__ __noinline__ double within_period(double x, double period) {
    x = fmod(x, period);
    return x < 0 ? __dadd_rn(x, period) : x;
}

// The same for pixels. Hardly any is farther away than a period.
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

// The position in [first, last] whose mirror image is pixel y. There is at most one of each kind (mirrored: 0 or 1), as
// the range is at most n long. Outside of a border of zeros nothing has an image.
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

// How many kinds of images of pixel y can lie up to `reach` outside of the frame: away from its border there is none.
__device__ inline int kinds_of_images(int y, int n, bool zeros, int reach) {
    return zeros || n == 1 || (y > reach && y < n - 1 - reach) ? 1 : 2;
}

// The frame that frame t of a clip looks at in a slot: itself, then forward in time, then backward.
__device__ inline int frame_of_slot(int t, int slot, int frames, int radius) {
    const int reach = t + radius > 2 * radius ? t + radius : 2 * radius;
    const int last = reach < frames - 1 ? reach : frames - 1;
    return t + slot <= last ? t + slot : last - slot;
}

// 0 in place of what is not finite. (`finite` itself is a function of C.)
__device__ inline double finite_or_zero(double x) { return isfinite(x) ? x : 0.0; }

#endif
