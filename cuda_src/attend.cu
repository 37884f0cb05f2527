// Attention to all places of the windows, from the side of the queries: see attend.cuh.
//
//   attend           out (B, T, G * FV, H, W) and sums
//   attend_queries   its gradients by q, and by the factor of each query's head (`products`); and `means`, the mean of
//                    the gradients of each query's weights, which attend_keys.cu needs
#include "attend_query.cuh"

// `counts`: it is not left out; `there`: it is a pixel.
struct Candidate {
    bool counts, there;
};

// Calls `visit` with each candidate, its score, and the numbers of k and v there, or 0 where nothing is.
template <class Visit>
__device__ inline void visit_candidates(const Asker& asker, const SS_ACC* q, const SS_SCALAR* k, const SS_SCALAR* v,
                                        const SS_AROUND* around, const Sizes& s, const Around& a, const Visit& visit) {
    const long long pixels = (long long)s.kH * s.kW;
#pragma unroll 1
    for (int slot = 0; slot < a.windows; ++slot) {
        const int t = frame_of(asker.share.t, slot, s);
        const Frame<SS_PARTS> keys(k, asker.share, t, s.kT, pixels, s.G);
        const Frame<SS_PARTS_V> values(v, asker.share, t, s.kT, pixels, s.G);
        const First first = window_of(asker.share, asker.at, slot, around, s, a);
#pragma unroll 1
        for (int i = 0; i < SS_WINDOW_Y; ++i) {
            const Whole y = first.y + (Whole)SS_STEP * i;
            const bool row = !SS_ZEROS || (y >= 0 && y < s.kH);
            const int line = row ? (int)y * s.kW : 0;
#pragma unroll 1
            for (int j = 0; j < SS_WINDOW_X; ++j) {
                const Whole x = first.x + (Whole)SS_STEP * j;
                const bool there = row && (!SS_ZEROS || (x >= 0 && x < s.kW));
                const Candidate c = {!is_left_out(slot, asker.at, y, x), there};
                SS_ACC key[SS_NUMBERS], value[SS_NUMBERS_V], part = 0;
                if (there) {
                    keys.load(line + (int)x, key), values.load(line + (int)x, value);
                    part = compare(q, key);
                }
                visit(c, sum_of_lanes(part), key, value);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_AROUND* around, const SS_ACC* scales,
       SS_SCALAR* out, SS_ACC* sums, SS_ACC factor, const Sizes s, const Around a, int B, int FV) {
    Asker asker;
    if (!asker_of(B, s, &asker)) return;
    const long long pixels = (long long)s.kH * s.kW;
    const int here = pixel_of_query(asker, s);
    const SS_ACC of_head = factor_of(factor, scales, asker.share.g);
    SS_ACC mine[SS_NUMBERS], sum[SS_NUMBERS_V], most = -infinity(), total = 0;
    Frame<SS_PARTS>(q, asker.share, asker.share.t, s.T, pixels, s.G).load(here, mine);
    clear<SS_NUMBERS_V>(sum);

    const auto visit = [&](const Candidate& c, SS_ACC score, const SS_ACC*, const SS_ACC* value) {
        const SS_ACC logit = logit_of(score, of_head, c.counts);
        if (logit > most) {  // what is there was scaled by a smaller one; 0 times anything is 0
            const SS_ACC rest = exp(most - logit);
#pragma unroll
            for (int n = 0; n < SS_NUMBERS_V; ++n) sum[n] = rest != 0 ? sum[n] * rest : 0;
            total *= rest, most = logit;
        }
        const SS_ACC weight = exp(logit - most);
        total += weight;
        if (c.there && weight != 0) add_scaled<SS_NUMBERS_V>(sum, weight, value);
    };
    visit_candidates(asker, mine, k, v, around, s, a, visit);

    if (!asker.exists) return;
    const SS_ACC share = 1 / total;
#pragma unroll
    for (int n = 0; n < SS_NUMBERS_V; ++n) sum[n] *= share;
    store_pixel<SS_NUMBERS_V>(out, asker.share, s.T, FV, pixels, here, sum, s);
    if (threadIdx.x % SS_LANES == 0) sums[2 * asker.number] = most, sums[2 * asker.number + 1] = total;
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_queries(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_SCALAR* grad, const SS_SCALAR* out,
               const SS_AROUND* around, const SS_ACC* scales, const SS_ACC* sums, SS_SCALAR* q_grad, SS_ACC* means,
               SS_ACC* products, SS_ACC factor, const Sizes s, const Around a, int B, int FV) {
    Asker asker;
    if (!asker_of(B, s, &asker)) return;
    const long long pixels = (long long)s.kH * s.kW;
    const int here = pixel_of_query(asker, s);
    const SS_ACC of_head = factor_of(factor, scales, asker.share.g), most = sums[2 * asker.number];
    const SS_ACC share = 1 / sums[2 * asker.number + 1];
    SS_ACC mine[SS_NUMBERS], arrives[SS_NUMBERS_V], sum[SS_NUMBERS], by_factor = 0;
    Frame<SS_PARTS>(q, asker.share, asker.share.t, s.T, pixels, s.G).load(here, mine);
    Frame<SS_PARTS_V>(grad, asker.share, asker.share.t, s.T, pixels, s.G).load(here, arrives);
    clear<SS_NUMBERS>(sum);
    const SS_ACC mean = product_with(out, arrives, asker, here, FV, s);

    const auto visit = [&](const Candidate& c, SS_ACC score, const SS_ACC* change, const SS_ACC* value) {
        const SS_ACC weight = exp(logit_of(score, of_head, c.counts) - most) * share;
        const SS_ACC by_weight = sum_of_lanes(c.there ? product<SS_NUMBERS_V>(arrives, value) : (SS_ACC)0);
        const SS_ACC slope = weight != 0 ? weight * (by_weight - mean) : 0;
        const SS_ACC by_score = c.counts ? slope * of_head : 0;
        if (slope != 0) by_factor += slope * clipped(score);
        if (c.there && by_score != 0) add_scaled<SS_NUMBERS>(sum, SS_L2 ? 2 * by_score : by_score, change);
    };
    visit_candidates(asker, mine, k, v, around, s, a, visit);

    if (!asker.exists) return;
    store_pixel<SS_NUMBERS>(q_grad, asker.share, s.T, s.F, pixels, here, sum, s);
    if (threadIdx.x % SS_LANES) return;
    means[asker.number] = mean;
    if (products) products[asker.number] = by_factor;
}
