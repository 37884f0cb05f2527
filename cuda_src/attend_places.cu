// The gradients of attention to the best candidates, from the places that were kept: see attend.cuh and
// attend_best.cuh.
//
//   number_places   places = where `offsets` of search.cu lead
//   attend_slopes   the gradients by q, and by the factor of each query's head (`products`); and of each candidate its
//                   weight and the gradient of its score, `slopes`; counts = how many candidates with weight there are
//                   at each pixel of k
//   fill_places     order = the candidates at each pixel, in the order of the threads; ends as in landing.cu
//   attend_landed   the gradients by k and v: each pixel adds what its candidates add, in their order
//
// Cells of cells.cuh are the pixels of k, (B, G, T, H, W). Constants beside those of attend.cuh: SS_TOPK.
#include "attend_query.cuh"
#include "cells.cuh"

__device__ inline long long pixels_of_clip(const Sizes& s) { return (long long)s.kT * s.kH * s.kW; }

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
number_places(const int* offsets, int* places, const Sizes s, long long count) {
    const long long number = thread_number();
    if (number >= count) return;
    const Query r = query_of(number / SS_TOPK, s);
    const long long y = (long long)r.y + offsets[3 * number + 1], x = (long long)r.x + offsets[3 * number + 2];
    const bool there = y >= 0 && y < s.kH && x >= 0 && x < s.kW;
    places[number] = there ? ((r.t + offsets[3 * number]) * s.kH + (int)y) * s.kW + (int)x : -1;
}

// --- queries ---------------------------------------------------------------------------------------
struct Attended {
    SS_ACC *weights, *slopes;
    int* counts;
};

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_slopes(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_SCALAR* grad, const SS_SCALAR* out,
              const int* places, const SS_ACC* scales, const SS_ACC* sums, SS_SCALAR* q_grad, SS_ACC* weights,
              SS_ACC* slopes, SS_ACC* products, int* counts, SS_ACC factor, const Sizes s, int B, int FV) {
    Asker asker;
    if (!asker_of(B, s, &asker)) return;
    const int pixels = s.kH * s.kW, here = pixel_of_query(asker, s);
    const Share& share = asker.share;
    const SS_ACC of_head = factor_of(factor, scales, share.g);
    const SS_ACC most = sums[2 * asker.number], part_of_total = 1 / sums[2 * asker.number + 1];
    SS_ACC mine[SS_NUMBERS], arrives[SS_NUMBERS_V], sum[SS_NUMBERS], by_factor = 0;
    Frame<SS_PARTS>(q, share, share.t, s.T, pixels, s.G).load(here, mine);
    Frame<SS_PARTS_V>(grad, share, share.t, s.T, pixels, s.G).load(here, arrives);
    clear<SS_NUMBERS>(sum);
    const SS_ACC mean = product_with(out, arrives, asker, here, FV, s);
    const bool writes = asker.exists && threadIdx.x % SS_LANES == 0;
    int* const counted = counts + ((long long)share.b * s.G + share.g) * pixels_of_clip(s);

#pragma unroll 2
    for (int e = 0; e < SS_TOPK; ++e) {
        const long long number = asker.number * SS_TOPK + e;
        const int place = places[number], t = place / pixels, pixel = place - t * pixels;
        SS_ACC key[SS_NUMBERS], value[SS_NUMBERS_V], score = 0, by_weight = 0;
        if (place >= 0) {
            Frame<SS_PARTS>(k, share, t, s.kT, pixels, s.G).load(pixel, key);
            Frame<SS_PARTS_V>(v, share, t, s.kT, pixels, s.G).load(pixel, value);
            score = compare(mine, key), by_weight = product<SS_NUMBERS_V>(arrives, value);
        }
        score = sum_of_lanes(score), by_weight = sum_of_lanes(by_weight);
        const bool counts_too = is_near(score);
        const SS_ACC weight = exp(logit_of(score, of_head, counts_too) - most) * part_of_total;
        const SS_ACC slope = weight != 0 && counts_too ? weight * (by_weight - mean) : 0, by_score = slope * of_head;
        if (slope != 0) by_factor += slope * clipped(score);
        if (place >= 0 && by_score != 0) add_scaled<SS_NUMBERS>(sum, SS_L2 ? 2 * by_score : by_score, key);
        if (!writes) continue;
        weights[number] = weight, slopes[number] = by_score;
        if (place >= 0 && weight != 0) atomicAdd(counted + place, 1);
    }

    if (!asker.exists) return;
    store_pixel<SS_NUMBERS>(q_grad, share, s.T, s.F, pixels, here, sum, s);
    if (products && threadIdx.x % SS_LANES == 0) products[asker.number] = by_factor;
}

// --- pixels of k -----------------------------------------------------------------------------------
extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
fill_places(const int* places, const SS_ACC* weights, int* ends, int* order, const Sizes s, long long of_clip,
            long long count) {
    const long long number = thread_number();
    if (number >= count || weights[number] == 0 || places[number] < 0) return;
    order[atomicAdd(ends + number / of_clip * pixels_of_clip(s) + places[number], 1)] = (int)number;
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_landed(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* grad, const SS_ACC* weights,
              const SS_ACC* slopes, const int* order, const int* ends, const int* counts, SS_SCALAR* k_grad,
              SS_SCALAR* v_grad, const Sizes s, int B, int FV) {
    const Grid grid = grid_of(s.kH, s.kW);
    Share share;
    if (!share_of(grid, B, s.kT, s, &share)) return;
    const Pixel at = pixel_of(grid, share.rect);
    if (at.y >= s.kH || at.x >= s.kW) return;
    const int pixels = s.kH * s.kW, here = at.y * s.kW + at.x, queries = s.h * s.w;
    const long long clip = (long long)share.b * s.G + share.g, cell = (clip * s.kT + share.t) * pixels + here;
    SS_ACC key[SS_NUMBERS], by_key[SS_NUMBERS], by_value[SS_NUMBERS_V];
    Frame<SS_PARTS>(k, share, share.t, s.kT, pixels, s.G).load(here, key);
    clear<SS_NUMBERS>(by_key), clear<SS_NUMBERS_V>(by_value);

    const int end = ends[cell];
#pragma unroll 1
    for (int n = begin_of(ends, counts, cell); n < end; ++n) {
        const int number = order[n], query = number / SS_TOPK - (int)clip * s.T * queries;
        const int t = query / queries, in_frame = query - t * queries;
        const int pixel = SS_STRIDE == 1 ? in_frame : in_frame / s.w * SS_STRIDE * s.kW + in_frame % s.w * SS_STRIDE;
        SS_ACC mine[SS_NUMBERS], arrives[SS_NUMBERS_V];
        Frame<SS_PARTS>(q, share, t, s.T, pixels, s.G).load(pixel, mine);
        Frame<SS_PARTS_V>(grad, share, t, s.T, pixels, s.G).load(pixel, arrives);
        const SS_ACC by_score = slopes[number];
        add_scaled<SS_NUMBERS_V>(by_value, weights[number], arrives);
        if (by_score == 0) continue;
#pragma unroll
        for (int c = 0; c < SS_NUMBERS; ++c)
            by_key[c] += SS_L2 ? -2 * by_score * (mine[c] - key[c]) : by_score * mine[c];
    }
    store_pixel<SS_NUMBERS>(k_grad, share, s.kT, s.F, pixels, here, by_key, s);
    store_pixel<SS_NUMBERS_V>(v_grad, share, s.kT, FV, pixels, here, by_value, s);
}
