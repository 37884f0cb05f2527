// Where things are: what shiftsearch/_geometry.py says, for kernels. No other formula for it in CUDA.
//
// Positions are doubles, and their sums and products are asked for one by one (__dadd_rn, __dmul_rn): a compiler that
// joined them would round elsewhere, and two backends would look at different places.
#ifndef SS_GRID_CUH
#define SS_GRID_CUH

#define SS_MOST 1073741824.0  // pixels that a search follows a flow
#define SS_AWAY 1099511627776.0  // farther than any pixel is from any other

// Position x mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2.
__device__ inline int ss_reflect(long long x, int n) {
    if (x >= 0 && x < n) return (int)x;
    if (n == 1) return 0;
    const long long period = 2LL * (n - 1);
    x %= period;
    if (x < 0) x += period;
    return (int)(x < n ? x : period - x);
}

// The same for any position, and the sign of its derivative: -1 in a mirror image, 0 where there is only one pixel.
__device__ inline double ss_mirror(double x, int n, int* sign) {
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

// Positions in [first, last] whose mirror image is y, at most one of each kind: which = 0 straight, 1 mirrored.
// The range is at most n long. What is outside of a border of zeros has no mirror image.
__device__ inline bool ss_image(int y, int n, bool zeros, int which, long long first, long long last,
                                long long* image) {
    const long long period = n > 1 ? 2LL * (n - 1) : 1;
    if (zeros || n == 1) {
        *image = n == 1 && !zeros ? first : y;
        return which == 0 && *image >= first && *image <= last;
    }
    if (which && (y == 0 || y == n - 1)) return false;  // the outermost pixels are their own images
    const long long base = which ? period - y : y, past = (first - base) % period;
    *image = past == 0 ? first : past > 0 ? first + period - past : first - past;
    return *image <= last;
}

// Frame that frame t of a clip looks at in a slot: itself, then forward in time, then backward.
__device__ inline int ss_frame(int t, int slot, int frames, int radius) {
    const int reach = t + radius > 2 * radius ? t + radius : 2 * radius;
    const int last = reach < frames - 1 ? reach : frames - 1;
    return t + slot <= last ? t + slot : last - slot;
}

__device__ inline double ss_finite(double x) { return isfinite(x) ? x : 0.0; }

// A query: batch, head, row of its video and its place n among the K kept ones.
struct Query {
    long long b, g, t, y, x, n;
};

// Query number i of an array (B, G, T, h, w, K).
__device__ inline Query ss_query(long long i, int G, int T, int h, int w, int K) {
    Query r;
    r.n = i % K, i /= K;
    r.x = i % w, i /= w;
    r.y = i % h, i /= h;
    r.t = i % T, i /= T;
    r.g = i % G, r.b = i / G;
    return r;
}

#endif
