// The weights of what was found: softmax of factor * score over the K candidates of a query, and its gradient.
//
//   weigh            weights (queries, K), which hold the scores before
//   weigh_backward   slopes (queries, K) = the gradient of the scores; they hold that of the weights before. With
//                    scores, `products` (queries,) = the gradient by the factor of each query's head
//
// A query belongs to SS_LANES threads of a warp. Constants: SS_LANES, SS_L2.
#include "logit.cuh"

#define SS_ALL 0xffffffffu
#define SS_THREADS 128

// Queries (B, G, of_head) with K candidates each.
struct Queries {
    long long count, of_head;
    int G, K;
};

// A thread's query. One that does not exist does what the last does, and writes nothing.
struct Asker {
    long long number;
    bool exists;
    SS_ACC factor;

    __device__ Asker(const Queries& all, SS_ACC of_all, const SS_ACC* scales) {
        number = ((long long)blockIdx.x * SS_THREADS + threadIdx.x) / SS_LANES;
        exists = number < all.count;
        if (!exists) number = all.count - 1;
        factor = factor_of(of_all, scales, (int)(number / all.of_head % all.G));
    }
};

__device__ inline SS_ACC sum_of_lanes(SS_ACC x) {
#pragma unroll
    for (int apart = SS_LANES / 2; apart; apart /= 2) x += __shfl_xor_sync(SS_ALL, x, apart);
    return x;
}

__device__ inline SS_ACC most_of_lanes(SS_ACC x) {
#pragma unroll
    for (int apart = SS_LANES / 2; apart; apart /= 2) x = fmax(x, __shfl_xor_sync(SS_ALL, x, apart));
    return x;
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
weigh(SS_ACC* weights, const SS_ACC* scales, SS_ACC factor, const Queries all) {
    const Asker asker(all, factor, scales);
    SS_ACC* const mine = weights + asker.number * all.K;
    const int lane = threadIdx.x % SS_LANES;
    const auto logit = [&](int e) { return logit_of(mine[e], asker.factor, is_near(mine[e])); };
    SS_ACC most = -infinity(), total = 0;
    for (int e = lane; e < all.K; e += SS_LANES) most = fmax(most, logit(e));
    most = most_of_lanes(most);
    for (int e = lane; asker.exists && e < all.K; e += SS_LANES) {
        const SS_ACC exponential = exp(logit(e) - most);
        total += exponential, mine[e] = exponential;
    }
    total = sum_of_lanes(total);
    const SS_ACC share = 1 / total;
    for (int e = lane; asker.exists && e < all.K; e += SS_LANES) mine[e] *= share;
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
weigh_backward(const SS_ACC* weights, SS_ACC* slopes, const SS_ACC* scores, const SS_ACC* scales, SS_ACC* products,
               SS_ACC factor, const Queries all) {
    const Asker asker(all, factor, scales);
    const long long first = asker.number * all.K;
    const int lane = threadIdx.x % SS_LANES;
    SS_ACC mean = 0, product = 0;
    for (int e = lane; e < all.K; e += SS_LANES)
        if (weights[first + e] != 0) mean += weights[first + e] * slopes[first + e];
    mean = sum_of_lanes(mean);
    for (int e = lane; e < all.K; e += SS_LANES) {
        const SS_ACC weight = weights[first + e], slope = weight != 0 ? weight * (slopes[first + e] - mean) : 0;
        if (scores && slope != 0) product += slope * clipped(scores[first + e]);
        if (asker.exists) slopes[first + e] = slope * asker.factor;
    }
    product = sum_of_lanes(product);
    if (scores && asker.exists && lane == 0) products[asker.number] = product;
}
