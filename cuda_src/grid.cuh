// Positions: reflection, mirror images, borders and the order of frames. It is what shiftsearch/_geometry.py says, and
// no other file of CUDA has a formula for it.
//
// Positions are doubles, and their sums and products are asked for one by one (__dadd_rn, __dmul_rn): a compiler that
// joined them would round elsewhere, and two backends would look at different places.
#ifndef SS_GRID_CUH
#define SS_GRID_CUH

#define SS_MOST 1073741824.0  // pixels that a search follows a flow
#define SS_AWAY 1099511627776.0  // farther than any pixel is from any other

// Position x mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2.
__device__ inline int reflect(long long x, int n) {
    if (x >= 0 && x < n) return (int)x;
    if (n == 1) return 0;
    const long long period = 2LL * (n - 1);
    x %= period;
    if (x < 0) x += period;
    return (int)(x < n ? x : period - x);
}

// The same for any position, and the sign of its derivative: -1 in a mirror image, 0 where there is only one pixel.
__device__ inline double mirror(double x, int n, int* sign) {
    *sign = n > 1;
    if (n == 1) return 0;
    if (x >= 0 && x <= n - 1) return x;
    const double period = 2.0 * (n - 1);
    x = fmod(x, period);
    if (x < 0) x = __dadd_rn(x, period);
    if (x <= n - 1) return x;
    *sign = -1;
    return __dadd_rn(period, -x);
}

// The position in [first, last] whose mirror image is pixel y. There is at most one of each kind (mirrored: 0 or 1), as
// the range is at most n long. Outside of a border of zeros nothing has an image.
__device__ inline bool image(int y, int n, bool zeros, int mirrored, long long first, long long last,
                             long long* position) {
    const long long period = n > 1 ? 2LL * (n - 1) : 1;
    if (zeros || n == 1) {
        *position = n == 1 && !zeros ? first : y;
        return mirrored == 0 && *position >= first && *position <= last;
    }
    if (mirrored && (y == 0 || y == n - 1)) return false;  // the outermost pixels are their own images
    const long long base = mirrored ? period - y : y, past = (first - base) % period;
    *position = past == 0 ? first : past > 0 ? first + period - past : first - past;
    return *position <= last;
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
