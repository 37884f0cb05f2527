// The same as aggregate.cu, for whole places, as tiles.cuh says: homes are queries, and pixels between them.
//
// Constants beside those of tiles.cuh: SS_STAGED (as many candidates of a query as there are: their steps are sorted in
// shared memory).
#define SS_OUR_ZEROS SS_QUERY_ZEROS
#include "mean.cuh"
#include "tile_sum.cuh"

#define SS_BLOCKS (sizeof(SS_ACC) > 4 ? 1 : 3)  // of a multiprocessor

// Whether pixel `at` along an axis has one of n queries, from `first` on.
__device__ inline bool is_query(int at, int first, int n) {
    const int query = at / SS_STRIDE - first;
    return at >= 0 && at % SS_STRIDE == 0 && query >= 0 && query < n;
}

__device__ inline bool within(int y, int n) { return y >= -SS_AFTER && y < n + SS_AFTER; }

// The queries' side: their candidates from `first` on, one or all of a query's.
struct Queries {
    static const unsigned keys = SS_STAGED > 16 ? 32 : 16;
    const SS_SCALAR *q, *k;
    const SS_ACC *weights, *first_weight;  // of all; of the first home, if each pixel has a query and it is there
    const SS_OFFSET* offsets;
    const Sizes& s;
    const Strides& m;
    Tile tile;
    Steps steps;
    int b, first_candidate, count;
    // (SS_STAGED + 1, SS_HOMES), of all candidates and of none: the number of a step * keys + which of them has it
    unsigned* keyed;
    unsigned char* at;  // of each home, which of its keys is next

    __device__ Plane ours() const { return plane_of_q(q, tile.video, tile.g, tile.t, s, m); }
    __device__ Plane frame(int t) const { return plane_of_k(k, b, tile.g, t, s, m); }
    __device__ int line(int y, int n) const { return pixel_or_none(y, n); }

    typedef Mean Result;
    __device__ Mean result(int y, int x) const { return {y, x, s.qH, s.qW}; }

    __device__ bool has_query(int home) const {
        return count > 0 && is_query(home_y(tile, home), s.y0, s.h) && is_query(home_x(tile, home), s.x0, s.w);
    }

    __device__ long long index_of(int home, int n) const {
        const int y = home_y(tile, home) / SS_STRIDE - s.y0, x = home_x(tile, home) / SS_STRIDE - s.x0;
        const long long row = (((long long)b * s.G + tile.g) * s.T + tile.t - s.t0) * s.h + y;
        return (row * s.w + x) * s.K + first_candidate + n;
    }

    // The number of a candidate's step, or none without a weight or a place near the frame.
    __device__ unsigned find_number(int home, int n) const {
        const long long index = index_of(home, n);
        if (weights[index] == 0) return SS_NONE;
        const Query r = {b, tile.g, tile.t, home_y(tile, home), home_x(tile, home)};
        const Place place = place_of(offsets + 3 * index, r, s);
        if (!within(place.y.at, s.kH) || !within(place.x.at, s.kW)) return SS_NONE;
        return number_of(steps, place.frame, place.y.at - r.y, place.x.at - r.x);
    }

    __device__ unsigned key(int home) const { return keyed[home]; }
    __device__ unsigned advance(int home) { return keyed[++at[home] * SS_HOMES + home]; }

    __device__ SS_ACC weight(int home, unsigned key) const {
        if (SS_STRIDE > 1) return weights[index_of(home, key % keys)];
        const unsigned query = home / SS_COLUMNS * (s.w - SS_COLUMNS) + home;
        return first_weight[query * s.K + key % keys];
    }

    // Stages the keys: first all of them, as candidates lie in memory, and then in order.
    __device__ void start() {
        for (int i = threadIdx.x; i < SS_HOMES * SS_STAGED; i += SS_THREADS) {
            const int home = i / SS_STAGED, n = i % SS_STAGED;
            const unsigned found = has_query(home) ? find_number(home, n) : SS_NONE;
            keyed[n * SS_HOMES + home] = found == SS_NONE ? SS_NONE : found * keys + n;
        }
        __syncthreads();
        for (int home = threadIdx.x; home < SS_HOMES; home += SS_THREADS) sort_keys(keyed + home), at[home] = 0;
    }

    // Of one home: neighbours change places, the even and the odd pairs in turn.
    __device__ void sort_keys(unsigned* of) const {
        unsigned key[SS_STAGED];
#pragma unroll
        for (int n = 0; n < SS_STAGED; ++n) key[n] = of[n * SS_HOMES];
#pragma unroll
        for (int turn = 0; turn < SS_STAGED; ++turn) {
#pragma unroll
            for (int n = turn % 2; n + 1 < SS_STAGED; n += 2) {
                const unsigned low = min(key[n], key[n + 1]);
                key[n + 1] = max(key[n], key[n + 1]), key[n] = low;
            }
        }
#pragma unroll
        for (int n = 0; n < SS_STAGED; ++n) of[n * SS_HOMES] = key[n];
        of[SS_STAGED * SS_HOMES] = SS_NONE;
    }
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, SS_BLOCKS)
aggregate_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* weights, const SS_OFFSET* offsets, SS_SCALAR* out,
                int* finite, const Sizes s, const Strides m) {
    extern __shared__ __align__(16) SS_ACC memory[];
    const Tile tile = tile_of(s, s.qT, s.qH, s.qW);
    const int b = SS_STACKED ? tile.video / s.K : tile.video, first = SS_STACKED ? tile.video % s.K : 0;
    const int count = tile.t >= s.t0 && tile.t < s.t0 + s.T ? SS_STACKED ? 1 : s.K : 0;
    const Memory parts = divided(memory);
    unsigned char* at = (unsigned char*)(parts.side + (SS_STAGED + 1) * SS_HOMES);
    const Steps steps = steps_of(s.qH, s.qW, s.kH, s.kW);
    Queries side = {q, k, weights, 0, offsets, s, m, tile, steps, b, first, count, parts.side, at};
    side.first_weight = weights + side.index_of(0, 0);
    sum_tile(side, parts, out, finite, s.qT);
}
