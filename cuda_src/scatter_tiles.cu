// The same as scatter.cu, for whole places, as tiles.cuh says: homes are the places where
// candidates land, in the order of cells.cuh. The steps of those that land at one place are in order, too.
#define SS_OUR_ZEROS SS_ZEROS
#include "landing.cuh"
#include "tile_sum.cuh"

#define SS_BLOCKS (sizeof(SS_ACC) > 4 ? 1 : 3)  // of a multiprocessor

// The keys' side: where each of a thread's homes is in its candidates, and the step of the next of them.
struct Places {
    static const unsigned keys = 1;
    const SS_SCALAR *q, *k;
    const SS_ACC* weights;
    const int *order, *ends, *counts;
    const Sizes& s;
    const Strides& m;
    Tile tile;
    Steps steps;
    int *at, *end;  // of each home, where its next candidate is in `order`, and where its last one ends

    __device__ Plane ours() const { return plane_of_k(k, tile.video, tile.g, tile.t, s, m); }
    __device__ Plane frame(int t) const { return plane_of_q(q, tile.video, tile.g, t, s, m); }
    __device__ int line(int y, int n) const { return query_line(y, n); }

    struct Result {
        __device__ SS_ACC of(SS_ACC sum) const { return sum; }
    };
    __device__ Result result(int, int) const { return {}; }

    __device__ unsigned key(int home) const {
        if (at[home] >= end[home]) return SS_NONE;
        const Query r = query_of_head((unsigned)order[at[home]] / s.K, tile.video, tile.g, s);
        return number_of(steps, r.t, r.y - home_y(tile, home), r.x - home_x(tile, home));
    }

    __device__ unsigned advance(int home) {
        ++at[home];
        return key(home);
    }

    __device__ SS_ACC weight(int home, unsigned) const { return weights[order[at[home]]]; }

    __device__ void start() {
        for (int home = threadIdx.x; home < SS_HOMES; home += SS_THREADS) {
            const int y = home_y(tile, home), x = home_x(tile, home);
            at[home] = end[home] = 0;
            if (!within_reach(y, s.kH) || !within_reach(x, s.kW)) continue;
            const long long cell = cell_at(((long long)tile.video * s.G + tile.g) * s.kT + tile.t, y, x, s);
            at[home] = begin_of(ends, counts, cell), end[home] = ends[cell];
        }
    }
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, SS_BLOCKS)
scatter_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* weights, const int* order, const int* ends,
              const int* counts, SS_SCALAR* out, int* finite, const Sizes s, const Strides m) {
    extern __shared__ __align__(16) SS_ACC memory[];
    const Tile tile = tile_of(s, s.kT, s.kH, s.kW);
    const Steps steps = steps_of(s.kH, s.kW, s.qH, s.qW);
    const Memory parts = divided(memory);
    int *at = (int*)parts.side, *end = at + SS_HOMES;
    Places side = {q, k, weights, order, ends, counts, s, m, tile, steps, at, end};
    sum_tile(side, parts, out, finite, s.kT);
}
