// Attention to the best candidates of patches of one pixel, in one launch: attend_best.cu, faster, on tiles of queries.
// See search_tile.cuh, and for the arrays attend_best.cuh. Tiles that are marked in `wild` are left to attend_best.cu.
//
// Constants beside those: SS_FOUND (bytes of shared memory before what is found).
#include "attend_tile.cuh"
#include "search_tile.cuh"

// Adds what a pass has found.
__device__ inline void hand_over(const Found& to, const Passed& kept) {
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        if (!(kept.role.exist >> r & 1)) continue;
        const int at = (kept.query + r * SS_TILE_X) * SS_ATTENDED + kept.first;
#pragma unroll
        for (int i = 0; i < SS_TOPK; ++i) {
            if (i >= kept.count) break;
            const float score = kept.best[r * SS_BEST + (SS_RANKED ? 2 * SS_TOPK : 0) + i];
            to.scores[at + i] = SS_L2 ? plus(score, 0.f) : __fsub_rn(0, score);  // never -0
            to.places[at + i] = __float_as_int(kept.best[r * SS_BEST + SS_TOPK + i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
attend_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_AROUND* around, const SS_ACC* scales,
             SS_SCALAR* out, SS_ACC* sums, int* places, SS_ACC* weights, SS_PLACE* offsets, int* wild, SS_ACC factor,
             double penalty, const Sizes s, const Strides strides, const Values values, const Around a, int across,
             int down) {
    extern __shared__ float4 memory[];
    __shared__ Begin slots[2 * SS_RADIUS + 1];
    char* const pool = reinterpret_cast<char*>(memory);
    float* const scores = reinterpret_cast<float*>(pool + SS_FOUND);
    const Found found = {scores, reinterpret_cast<int*>(scores + SS_EACH)};
    const Tile tile = tile_of(blockIdx.x, s, across, down);
    const auto finish = [&](const Passed& kept) {
        if (!kept.role.producer) hand_over(found, kept);
        __syncthreads();  // before the next pass begins
    };
    if (!search_tile(pool, slots, tile, q, k, around, wild, penalty, s, strides, a, finish)) return;
    const auto locate = [&](int place, int y, int x) {
        const Begin& slot = slots[place >> 16];
        return pixel_at(tile.t + slot.t, y + slot.y + (place >> 8 & 255), x + slot.x + (place & 255), s);
    };
    const Attended to = {out, sums, places, weights, offsets};
    attend_tile(found, tile, v, factor_of(factor, scales, tile.g), to, values, s, locate);
}
