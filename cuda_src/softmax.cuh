// The softmax of a query's scores. Sums are over its candidates in their order, so that who has them, a thread or a
// warp, makes no difference.
#ifndef SS_SOFTMAX_CUH
#define SS_SOFTMAX_CUH

#include "logit.cuh"

// The sums of a query, and what its weights are multiplied by in the end.
struct Softmax {
    SS_ACC most, total, share;
};

// Makes exp(logit - most) of so many scores.
__device__ inline Softmax weigh(SS_ACC* scores, int count, SS_ACC factor) {
    Softmax found = {-infinity(), 0, 0};
#pragma unroll
    for (int e = 0; e < count; ++e) {
        scores[e] = logit_of(scores[e], factor, is_near(scores[e]));
        found.most = fmax(found.most, scores[e]);
    }
#pragma unroll
    for (int e = 0; e < count; ++e) {
        scores[e] = exp(scores[e] - found.most);
        found.total += scores[e];
    }
    found.share = 1 / found.total;
    return found;
}

// The same by a warp.
__device__ inline Softmax weigh_together(SS_ACC* scores, int count, SS_ACC factor, int lane) {
    Softmax found = {-infinity(), 0, 0};
    for (int e = lane; e < count; e += 32) scores[e] = logit_of(scores[e], factor, is_near(scores[e]));
    __syncwarp();
    for (int e = 0; e < count; ++e) found.most = fmax(found.most, scores[e]);
    __syncwarp();
    for (int e = lane; e < count; e += 32) scores[e] = exp(scores[e] - found.most);
    __syncwarp();
    for (int e = 0; e < count; ++e) found.total += scores[e];
    found.share = 1 / found.total;
    return found;
}

// --- of what a search has found: with SS_WEIGHED its scores become weights -----------------------------
// What logits are made with, and where the sums of queries are kept, or null.
struct Weighing {
    SS_ACC factor;
    SS_ACC* sums;

    __device__ void keep(const Softmax& found, long long query) const {
        if (sums) sums[2 * query] = found.most, sums[2 * query + 1] = found.total;
    }
};

__device__ inline void become_weights(SS_ACC* scores, int count, const Weighing& how, long long query) {
    const Softmax found = weigh(scores, count, how.factor);
#pragma unroll
    for (int e = 0; e < count; ++e) scores[e] *= found.share;
    how.keep(found, query);
}

// By a warp, which has written the scores, of all queries.
__device__ inline void become_weights_together(SS_ACC* scores, int count, const Weighing& how, long long query) {
    const int lane = threadIdx.x % 32;
    SS_ACC* const mine = scores + query * count;
    __syncwarp();
    const Softmax found = weigh_together(mine, count, how.factor, lane);
    __syncwarp();
    for (int e = lane; e < count; e += 32) mine[e] *= found.share;
    if (lane == 0) how.keep(found, query);
}

#endif
