// Windows of whole pixels: everything in 32 bits, unless steps are longer than any frame, and once for each query and
// slot.
//
// Constants: SS_AROUND type of flow or seeds, SS_WINDOW_Y and SS_WINDOW_X (rows and columns of a window),
// SS_EVEN_BEFORE (1: an even number of them reaches one further up or left), SS_STEP, SS_DILATION, SS_SLIDE, SS_ZEROS.
#ifndef SS_WHOLE_CUH
#define SS_WHOLE_CUH

#include "grid.cuh"

template <bool far> struct Pixels {
    typedef int type;
};
template <> struct Pixels<true> {
    typedef long long type;
};
typedef Pixels<(SS_STEP > 65536 || SS_DILATION > 65536)>::type Whole;

// As `reflect`, without a division of 64 bits.
__device__ inline int reflected(Whole x, int n) {
    if (x >= 0 && x < n) return (int)x;
    if (n == 1) return 0;
    const Whole period = 2 * (Whole)(n - 1);
    x %= period;
    if (x < 0) x += period;
    return (int)(x < n ? x : period - x);
}

// A window along one axis: the place of its first candidate, and how many come before the centre.
struct Span {
    Whole first;
    int before;
};

__device__ inline int nearest(double x) { return (int)rint(fmin(fmax(finite_or_zero(x), -SS_MOST), SS_MOST)); }
__device__ inline int nearest(float x) {
    return (int)rintf(fminf(fmaxf(isfinite(x) ? x : 0, (float)-SS_MOST), (float)SS_MOST));
}
__device__ inline int nearest(long long x) {
    const long long most = (long long)SS_MOST;
    return (int)(x < -most ? -most : x > most ? most : x);
}
__device__ inline int nearest(int x) { return min(max(x, (int)-SS_MOST), (int)SS_MOST); }

// A window of so many candidates around pixel `at` moved by flow, along an axis of n. With SS_SLIDE it slides into the
// frame.
__device__ inline Span span_around(int window, int at, SS_AROUND moved, int n) {
    const Whole step = (Whole)SS_STEP, last = window - 1;
    const int there = at + nearest(moved), centre = SS_ZEROS ? there : reflected(there, n);
    Whole before = (last + SS_EVEN_BEFORE) / 2;
    if (SS_SLIDE) {
        const Whole past = centre - (n - 1);  // behind the last pixel, if positive
        if (centre < step * before) before = max(centre, 0) / step;
        if (past + step * (last - before) > 0) before = last + (past > 0 ? (past + step - 1) / step : -(-past / step));
        before = before < 0 ? 0 : before > last ? last : before;
    }
    return {centre - step * before, (int)before};
}

#endif
