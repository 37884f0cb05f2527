// out (B, qT, G * F, qH, qW) = dS/dq of form.cuh. With the product this is the weighted sum of patches of k, which is
// what aggregating means, and q is not read. With SS_STACKED there are K videos, (B, K, qT, G * F, qH, qW), one for
// each kept candidate of a query. With SS_MEAN sums are divided: see mean.cuh. Other arrays: video.cuh.
//
// One thread per pixel of `out` and part of its channels. It asks which queries have its pixel in their patch, in a
// fixed order, so that nothing is added up by two threads and the sum is the same in every run.
#include "channels.cuh"
#include "form.cuh"
#include "mean.cuh"

// Along one axis: the row (or column) of queries whose patch has at distance d pixel `at` of n, straight or mirrored;
// -1 if there is none.
__device__ inline int row_of_queries(int at, int n, int mirrored, int d, int first, int rows) {
    const int apart = SS_STRIDE * SS_SCALE, top = first * apart + d;
    int v;
    if (!image(at, n, SS_QUERY_ZEROS, mirrored, top, top + (rows - 1) * apart, &v)) return -1;
    return (v - top) % apart == 0 ? (v - top) / apart : -1;
}

// What kept candidate n of query r adds at pixel (dy, dx) of its patch.
__device__ inline void add_candidate(Values& sum, const Values& mine, const SS_SCALAR* k, SS_ACC weight,
                                     const SS_OFFSET* offset, const Query& r, int dy, int dx, int f, const Sizes& s,
                                     const Strides& m) {
    const Place place = place_of(offset, r, s);
    const Plane frame = plane_of_k(k, r.b, r.g, place.frame, s, m);
    const Sample theirs = sample(frame, place, dy, dx);
    if (!theirs.exists) return;
    const Values values = values_of(frame, theirs, f);
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) sum.of[c] += weight * dphi_dq(mine.of[c], values.of[c]);
}

extern "C" __global__ void __launch_bounds__(128, SS_RESIDENT)
aggregate(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* weights, const SS_OFFSET* offsets, SS_SCALAR* out,
          const int* finite, const Sizes s, const Strides m) {
    Part p;
    if (!part_of_video(s, s.qT, s.qH, s.qW, &p)) return;
    SS_SCALAR* numbers = numbers_of(out, p, s, s.qT, s.qH, s.qW);
    const long long plane = (long long)s.qH * s.qW;
    if (SS_REPAIR && is_finite(finite, p, s, s.qT, s.qH, s.qW)) return;
    const int b = SS_STACKED ? p.video / s.K : p.video, first = SS_STACKED ? p.video % s.K : 0;
    const int end = SS_STACKED ? first + 1 : s.K;
    const Query here = {b, p.g, p.t, 0, 0};
    const Plane ours = frame_of_q(q, here, first, s, m);
    const Values mine = SS_L2 ? values_at(ours, ours.at(p.y, p.x), p.f) : no_values();

    const int reach = SS_DILATION * (SS_PATCH / 2);
    const int kinds_y = kinds_of_images(p.y, s.qH, SS_QUERY_ZEROS, reach);
    const int kinds_x = kinds_of_images(p.x, s.qW, SS_QUERY_ZEROS, reach);
    Values sum = no_values();
    const bool asked = p.t >= s.t0 && p.t < s.t0 + s.T;
    const long long frame = ((long long)b * s.G + p.g) * s.T + p.t - s.t0;
    for (int i = 0; asked && i < SS_PATCH * SS_PATCH * 4; ++i) {  // each pixel of a patch, straight or mirrored
        const int dy = patch_offset(i / 4 / SS_PATCH), dx = patch_offset(i / 4 % SS_PATCH);
        if (i % 2 >= kinds_y || i / 2 % 2 >= kinds_x) continue;
        const int row = row_of_queries(p.y, s.qH, i % 2, dy, s.y0, s.h);
        const int column = row < 0 ? -1 : row_of_queries(p.x, s.qW, i / 2 % 2, dx, s.x0, s.w);
        if (column < 0) continue;
        const Query r = {b, p.g, p.t, (s.y0 + row) * SS_STRIDE, (s.x0 + column) * SS_STRIDE};
        const long long query = (frame * s.h + row) * s.w + column;
        for (int n = first; n < end; ++n) {
            const SS_ACC weight = weights[query * s.K + n];
            if (weight == 0) continue;
            add_candidate(sum, mine, k, weight, offsets + 3 * (query * s.K + n), r, dy, dx, p.f, s, m);
        }
    }
    const Mean mean(p.y, p.x, s.qH, s.qW);
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) sum.of[c] = isfinite(sum.of[c]) ? mean.of(sum.of[c]) : sum.of[c];
    store_values(numbers, sum, plane);
}
