// The same as scatter.cu, for whole places and queries at every pixel, as tiles.cuh says: homes are the places where
// candidates land, in the order of landing.cuh. The steps of those that land at one place are in order, too.
#include "landing.cuh"
#include "tiles.cuh"

#define SS_BLOCKS (sizeof(SS_ACC) > 4 ? 1 : 2)  // of a multiprocessor

// The keys' side: where each of a thread's homes is in its candidates, and the step of the next of them.
struct Places {
    const SS_SCALAR* q;
    const SS_ACC* weights;
    const int *order, *ends;
    Sizes s;
    Strides m;
    Tile tile;
    Steps steps;
    int at[SS_ROUNDS], end[SS_ROUNDS];
    unsigned number[SS_ROUNDS];

    __device__ Plane frame(int t) const { return plane_of_q(q, tile.at.video, tile.at.g, t, s, m); }
    __device__ int line(int y, int n) const { return query_line(y, n); }
    __device__ SS_ACC change(SS_ACC mine, SS_ACC theirs) const { return dphi_dk(theirs, mine); }

    __device__ SS_ACC weight(int, int i) const { return weights[order[at[i]]]; }

    __device__ void find_number(int home, int i) {
        number[i] = SS_NONE;
        if (at[i] >= end[i]) return;
        const Query r = query_of_head((unsigned)order[at[i]] / s.K, tile.at.video, tile.at.g, s);
        number[i] = number_of(steps, r.t, r.y - home_y(tile, home), r.x - home_x(tile, home));
    }

    __device__ void start(int home, int i) {
        const int y = home_y(tile, home), x = home_x(tile, home);
        at[i] = end[i] = 0;
        if (!within_reach(y, s.kH) || !within_reach(x, s.kW)) return;
        const long long cell = cell_at(((long long)tile.at.video * s.G + tile.at.g) * s.kT + tile.at.t, y, x, s);
        at[i] = begin_of(ends, cell), end[i] = ends[cell];
        find_number(home, i);
    }

    __device__ void advance(int home, int i) {
        ++at[i];
        find_number(home, i);
    }
};

extern "C" __global__ void __launch_bounds__(256, SS_BLOCKS)
scatter_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* weights, const int* order, const int* ends,
              SS_SCALAR* out, const Sizes s, const Strides m) {
    extern __shared__ __align__(16) SS_ACC memory[];
    SS_ACC* planes = memory + SS_STEPS * SS_SUMS;
    const Tile tile = tile_of(s, s.kT, s.kH, s.kW);
    const Part& at = tile.at;
    Places side = {q, weights, order, ends, s, m, tile, steps_of(s.kH, s.kW, s.qH, s.qW)};

    Values mine = no_values();
    const Plane ours = plane_of_k(k, at.video, at.g, at.t, s, m);
    if (SS_L2 && has_thread(tile)) mine = values_at(ours, ours.at(at.y, at.x), at.f);
    const Values sum = sum_of_tile<SS_ZEROS>(side, mine, tile, side.steps, memory, planes);
    if (has_thread(tile))
        store_values(numbers_of(out, at, s, s.kT, s.kH, s.kW), sum, (long long)s.kH * s.kW);
}
