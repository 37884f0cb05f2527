// out (B, qT, G * F, qH, qW) = dS/dq of form.cuh. With the product this is the weighted sum of patches of k, which is
// what aggregating means, and q is not read. With SS_STACKED there are K videos, (B, K, qT, G * F, qH, qW), one for
// each kept candidate of a query. Other arrays: video.cuh.
//
// One thread per number of `out`, in the order of channels last: neighbouring threads read one run of k. It asks which
// queries have its pixel in their patch, in a fixed order, so that nothing is added up by two threads and the sum is
// the same in every run.
#include "form.cuh"

// Along one axis: the row (or column) of queries whose patch has at distance d pixel `at` of n, straight or mirrored.
__device__ inline bool row_of_queries(int at, int n, int mirrored, long long d, int first, int rows, int* row) {
    const long long apart = SS_STRIDE * SS_SCALE, top = first * apart + d;
    long long v;
    if (!image(at, n, SS_QUERY_ZEROS, mirrored, top, top + (rows - 1) * apart, &v)) return false;
    *row = (int)((v - top) / apart);
    return (v - top) % apart == 0;
}

extern "C" __global__ void __launch_bounds__(128, 1)
aggregate(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* weights, const SS_OFFSET* offsets, SS_SCALAR* out,
          const Sizes s, long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Number p = number_of(i, s, s.qT, s.qH, s.qW);
    const int b = SS_STACKED ? p.video / s.K : p.video, first = SS_STACKED ? p.video % s.K : 0;
    const int end = SS_STACKED ? first + 1 : s.K;
    const SS_ACC mine = SS_L2 ? (SS_ACC)load(q + i) : (SS_ACC)0;

    SS_ACC sum = 0;
    const bool asked = p.t >= s.t0 && p.t < s.t0 + s.T;
    for (int m = 0; asked && m < SS_PATCH * SS_PATCH * 4; ++m) {  // each pixel of a patch, straight or mirrored
        const long long dy = patch_offset(m / 4 / SS_PATCH), dx = patch_offset(m / 4 % SS_PATCH);
        int row, column;
        if (!row_of_queries(p.y, s.qH, m % 2, dy, s.y0, s.h, &row)) continue;
        if (!row_of_queries(p.x, s.qW, m / 2 % 2, dx, s.x0, s.w, &column)) continue;
        const long long query = ((((long long)b * s.G + p.g) * s.T + p.t - s.t0) * s.h + row) * s.w + column;
        const Query r = {b, p.g, p.t, (s.y0 + row) * SS_STRIDE, (s.x0 + column) * SS_STRIDE};
        for (int n = first; n < end; ++n) {
            const long long candidate = query * s.K + n;
            if (weights[candidate] == 0) continue;
            const Place place = place_of(offsets + 3 * candidate, r, s);
            const Sample theirs = sample(frame_of_k(k, b, p.g, place.frame, s), place, dy, dx);
            if (theirs.exists) sum += weights[candidate] * dphi_dq(mine, value_of(theirs, p.f));
        }
    }
    store(out + channels_first(p, s, s.qT, s.qH, s.qW), sum);
}
