// The weights of what the queries of a tile have found: see softmax.cuh. All threads of a block call these.
#ifndef SS_WEIGH_TILE_CUH
#define SS_WEIGH_TILE_CUH

#include "softmax.cuh"
#include "windows.cuh"

// In shared memory, where each query of the tile has SS_TOPK.
__device__ inline void weigh_found(float* scores, const Weighing& how, const Tile& tile, const Sizes& s) {
#pragma unroll 1
    for (int i = threadIdx.x; i < SS_TILE_X * SS_TILE_Y; i += SS_THREADS) {
        const int y = tile.top + i / SS_TILE_X, x = tile.left + i % SS_TILE_X;
        if (y < s.h && x < s.w) become_weights(scores + i * SS_TOPK, SS_TOPK, how, number_of_query(tile, y, x, s));
    }
    __syncthreads();
}

// Whether scores, SS_TOPK of each frame, have been marked as those of a query that search.cu has to search.
__device__ inline bool is_left(const float* scores, int count) {
    bool left = false;
    for (int e = 0; SS_SUBPIXEL && e < count; e += SS_TOPK) left = left || isnan(scores[e]);
    return left;
}

// In the array, where the block has written them.
__device__ inline void weigh_written(float* scores, const Weighing& how, const Tile& tile, const Sizes& s) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < SS_TILE_X * SS_TILE_Y; i += SS_THREADS) {
        const int y = tile.top + i / SS_TILE_X, x = tile.left + i % SS_TILE_X;
        if (y >= s.h || x >= s.w) continue;
        const long long query = number_of_query(tile, y, x, s);
        if (!is_left(scores + query * s.K, s.K)) become_weights(scores + query * s.K, s.K, how, query);
    }
}

#endif
