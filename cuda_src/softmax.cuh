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
__device__ inline void become_weights(SS_ACC* scores, int count, SS_ACC factor) {
    const Softmax found = weigh(scores, count, factor);
#pragma unroll
    for (int e = 0; e < count; ++e) scores[e] *= found.share;
}

// By a warp, which has written them.
__device__ inline void become_weights_together(SS_ACC* scores, int count, SS_ACC factor) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
    const Softmax found = weigh_together(scores, count, factor, lane);
    __syncwarp();
    for (int e = lane; e < count; e += 32) scores[e] *= found.share;
}

#endif
