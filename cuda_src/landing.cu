// Where kept candidates land: how many in each cell, and which, in the order of the threads: see cells.cuh.
//
//   count_landings   counts = how many candidates land in each cell
//   fill_cells       order = the candidates of each cell; ends, where they begin, = where they end
//
// A candidate without weight lands nowhere.
#include "landing.cuh"

#define SS_THREADS 128

__device__ inline long long landing_of(const SS_OFFSET* offsets, const SS_ACC* weights, const Kept& kept,
                                       const Sizes& s) {
    if (SS_WEIGHTED && weights[kept.index] == 0) return -1;
    return cell_of(place_of(offsets + 3 * kept.index, kept.r, s), kept.r, s);
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
count_landings(const SS_OFFSET* offsets, const SS_ACC* weights, int* counts, const Sizes s, int across) {
    Item item;
    if (!item_of(across, &item)) return;
    const long long cell = landing_of(offsets, weights, kept_at(item.row, item.at, s), s);
    if (cell >= 0) atomicAdd(counts + cell, 1);
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
fill_cells(const SS_OFFSET* offsets, const SS_ACC* weights, int* ends, int* order, const Sizes s, int across) {
    Item item;
    if (!item_of(across, &item)) return;
    const Kept kept = kept_at(item.row, item.at, s);
    const long long cell = landing_of(offsets, weights, kept, s);
    if (cell >= 0) order[atomicAdd(ends + cell, 1)] = (int)kept.index;
}
