// The whole-pixel search of search.cu, much faster: for tiles of queries whose windows overlap. See search_tile.cuh.
// Arrays are those of search.cu.
#include "search_tile.cuh"
#include "weigh_tile.cuh"

#define SS_IN_ONE (SS_KEPT == SS_TOPK && !SS_PER_FRAME)  // a pass finds all that is kept

// What a tile has found, in shared memory: of each query, row by row.
struct Found {
    float* scores;
    int* offsets;  // three for each score
};

// The best of a consumer's queries, as they are written in the arrays.
__device__ inline void hand_over(const Found& to, const Begin* slots, const Passed& kept) {
    const float* const best = kept.best;
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        if (!(kept.role.exist >> r & 1)) continue;
#pragma unroll
        for (int i = 0; i < SS_TOPK; ++i) {
            if (i >= kept.count) break;
            const int at = (kept.query + r * SS_TILE_X) * SS_TOPK + i;
            const float score = best[r * SS_BEST + (SS_RANKED ? 2 * SS_TOPK : 0) + i];
            const int place = __float_as_int(best[r * SS_BEST + SS_TOPK + i]);
            const Begin& slot = slots[min(place >> 16, 2 * SS_RADIUS)];  // if there is a candidate
            to.scores[at] = SS_L2 ? plus(score, 0.f) : __fsub_rn(0, score);  // never -0
            to.offsets[3 * at] = slot.t;
            to.offsets[3 * at + 1] = slot.y + (place >> 8 & 255), to.offsets[3 * at + 2] = slot.x + (place & 255);
        }
    }
}

// `some` of the `each` numbers of every query of a row, which are the first of `all` behind `row` in the array.
template <class Number>
__device__ inline void write_row(const Number* from, Number* row, int wide, int each, int some, int all) {
    const int count = wide * each, at_once = 4 * 32;
#pragma unroll 1
    for (int first = threadIdx.x % 32; first < count; first += at_once)
#pragma unroll
        for (int i = first; i < first + at_once; i += 32)
            if (i < count && (SS_IN_ONE || i % each < some)) row[SS_IN_ONE ? i : i / each * all + i % each] = from[i];
}

// To the arrays, where the queries of a row lie one behind the other: the kept ones from `first` on of each.
__device__ inline void write_results(const Found& from, const Tile& tile, int first, int kept, float* scores,
                                     int* offsets, const Sizes& s) {
    const int wide = min(SS_TILE_X, s.w - tile.left), tall = min(SS_TILE_Y, s.h - tile.top);
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < tall; y += SS_THREADS / 32) {
        const long long to = ((clip * s.h + tile.top + y) * s.w + tile.left) * s.K + first;
        const int at = y * SS_TILE_X * SS_TOPK;
        write_row(from.scores + at, scores + to, wide, SS_TOPK, kept, s.K);
        write_row(from.offsets + 3 * at, offsets + 3 * to, wide, 3 * SS_TOPK, 3 * kept, 3 * s.K);
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
search_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, float* scores, int* offsets,
            int* wild, const SS_ACC* scales, SS_ACC* sums, SS_ACC factor, double penalty, const Sizes s,
            const Strides m, const Around a, int across, int down) {
    extern __shared__ float4 memory[];
    __shared__ Begin slots[2 * SS_RADIUS + 1];
    const Tile tile = tile_of(blockIdx.x, s, across, down);
    const Weighing weighing = {SS_WEIGHED ? factor_of(factor, scales, tile.g) : factor, sums};
    const auto finish = [&](const Passed& kept) {
        float* const pool = reinterpret_cast<float*>(memory);
        const Found found = {pool, reinterpret_cast<int*>(pool) + SS_TILE_X * SS_TILE_Y * SS_TOPK};
        if (!kept.role.producer) hand_over(found, slots, kept);
        __syncthreads();
        if (SS_WEIGHED && SS_IN_ONE && !kept.left) weigh_found(found.scores, weighing, tile, s);
        write_results(found, tile, kept.first, kept.count, scores, offsets, s);
    };
    char* const rows = reinterpret_cast<char*>(memory);
    const bool done = search_tile(rows, slots, tile, q, k, around, wild, penalty, s, m, a, finish);
    if (SS_WEIGHED && !SS_IN_ONE && done) weigh_written(scores, weighing, tile, s);
}
