// The search of search.cu for patches of one pixel, faster: see points.cuh. Arrays are those of search.cu, to which
// tiles are left that are marked in `wild`.
#include "points.cuh"
#include "weigh_tile.cuh"

// `first`: of the kept ones of a query.
__device__ inline void write_results(const float* best, void* memory, const Slots& slots, const Asker& asker,
                                     const Tile& tile, int first, float* scores, int* offsets, const Sizes& s) {
    float* const found = static_cast<float*>(memory);
    int* const ways = reinterpret_cast<int*>(found + SS_THREADS * SS_TOPK);
    const int mine = (asker.row * SS_TILE_X + asker.column) * SS_TOPK;
    __syncthreads();
    if (asker.exists) {
#pragma unroll
        for (int i = 0; i < SS_TOPK; ++i) {
            const int place = __float_as_int(best[SS_TOPK + i]);
            const Region& region = slots.regions[slot_at(place)];
            found[mine + i] = SS_L2 ? plus(best[i], 0.f) : __fsub_rn(0, best[i]);  // never -0
            ways[(mine + i) * 3] = slots.frames[slot_at(place)] - tile.t;
            ways[(mine + i) * 3 + 1] = region.y + row_at(place) - asker.y;
            ways[(mine + i) * 3 + 2] = region.x + column_at(place) - asker.x;
        }
    }
    __syncthreads();
    write_rows(found, scores + first, SS_TOPK, s.K, tile, s);
    write_rows(ways, offsets + 3 * first, 3 * SS_TOPK, 3 * s.K, tile, s);
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, SS_BLOCKS)
search_points(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, float* scores, int* offsets,
              int* wild, const SS_ACC* scales, SS_ACC* sums, SS_ACC factor, const Sizes s, const Strides strides,
              const Around a, int across, int down) {
    extern __shared__ float4 memory[];
    __shared__ Slots slots;
    const Tile tile = tile_of((int)blockIdx.x, s, across, down);
    const auto finish = [&](const float* best, const Asker& asker, int first) {
        write_results(best, memory, slots, asker, tile, first, scores, offsets, s);
    };
    char* const pool = reinterpret_cast<char*>(memory);
    const bool done = search_tile(pool, slots, tile, q, k, around, wild, s, strides, a, finish);
    if (SS_WEIGHED && done) weigh_written(scores, {factor_of(factor, scales, tile.g), sums}, tile, s);
}
