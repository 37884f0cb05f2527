// The same as aggregate.cu, for whole places and queries at every pixel, as tiles.cuh says: homes are queries.
//
// Constants beside those of tiles.cuh: SS_STAGED (as many candidates of a query as there are, 15 at most: their steps
// are kept in shared memory, and their order in 64 bits; 0: both are found again for each).
#include "tiles.cuh"

#define SS_BLOCKS (sizeof(SS_ACC) > 4 || !SS_STAGED ? 1 : 2)  // of a multiprocessor

__device__ inline bool within(int y, int n) { return y >= -SS_AFTER && y < n + SS_AFTER; }

// The queries' side: their candidates from `first` on, one or all of a query's.
struct Queries {
    const SS_SCALAR* k;
    const SS_ACC* weights;
    const SS_OFFSET* offsets;
    Sizes s;
    Strides m;
    Tile tile;
    Steps steps;
    int b, first_candidate, count;
    unsigned* numbers;  // of the steps of all candidates, (count, SS_HOMES)
    unsigned number[SS_ROUNDS];
    int candidate[SS_ROUNDS];  // that has it
    unsigned long long later[SS_ROUNDS];  // those behind it in the order of steps, four bits for each, 15 for none

    __device__ Plane frame(int t) const { return plane_of_k(k, b, tile.at.g, t, s, m); }
    __device__ int line(int y, int n) const { return pixel_or_none(y, n); }
    __device__ SS_ACC change(SS_ACC mine, SS_ACC theirs) const { return dphi_dq(mine, theirs); }

    __device__ bool has_query(int home) const {
        const int y = home_y(tile, home) - s.y0, x = home_x(tile, home) - s.x0;
        return y >= 0 && y < s.h && x >= 0 && x < s.w;
    }

    __device__ long long index_of(int home, int n) const {
        const int y = home_y(tile, home) - s.y0, x = home_x(tile, home) - s.x0;
        const long long row = (((long long)b * s.G + tile.at.g) * s.T + tile.at.t - s.t0) * s.h + y;
        return (row * s.w + x) * s.K + first_candidate + n;
    }

    // The number of a candidate's step, or none without a weight or a place near the frame.
    __device__ unsigned find_number(int home, int n) const {
        const long long index = index_of(home, n);
        if (weights[index] == 0) return SS_NONE;
        const Query r = {b, tile.at.g, tile.at.t, home_y(tile, home), home_x(tile, home)};
        const Place place = place_of(offsets + 3 * index, r, s);
        if (!within(place.y.at, s.kH) || !within(place.x.at, s.kW)) return SS_NONE;
        return number_of(steps, place.frame, place.y.at - r.y, place.x.at - r.x);
    }

    __device__ SS_ACC weight(int home, int i) const { return weights[index_of(home, candidate[i])]; }

    __device__ void start(int home, int i) {
        candidate[i] = -1, later[i] = ~0ull;
        if (!has_query(home)) return;
        for (int n = 0; n < SS_STAGED; ++n) stage(home, i, n);
        number[i] = 0;
        advance(home, i);
    }

    // Candidate n goes behind those before it whose steps are not later.
    __device__ void stage(int home, int i, int n) {
        const unsigned mine = find_number(home, n);
        numbers[n * SS_HOMES + home] = mine;
        int bits = 0;
        for (int m = 0; m < n; ++m) bits += numbers[m * SS_HOMES + home] <= mine ? 4 : 0;
        const unsigned long long earlier = later[i] & ((1ull << bits) - 1);
        later[i] = (later[i] - earlier) << 4 | (unsigned long long)n << bits | earlier;
    }

    // To the next candidate in the order of steps, and then of candidates.
    __device__ void advance(int home, int i) {
        if (!SS_STAGED) return search(home, i);
        candidate[i] = (int)(later[i] & 15), later[i] >>= 4;
        number[i] = candidate[i] < SS_STAGED ? numbers[candidate[i] * SS_HOMES + home] : SS_NONE;
    }

    __device__ void search(int home, int i) {
        const unsigned last = number[i];
        const int before = candidate[i];
        number[i] = SS_NONE;
        for (int n = 0; n < count; ++n) {
            const unsigned other = find_number(home, n);
            const bool behind = other > last || (other == last && n > before);
            if (behind && other < number[i]) number[i] = other, candidate[i] = n;
        }
    }
};

extern "C" __global__ void __launch_bounds__(256, SS_BLOCKS)
aggregate_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* weights, const SS_OFFSET* offsets, SS_SCALAR* out,
                const Sizes s, const Strides m) {
    extern __shared__ __align__(16) SS_ACC memory[];
    SS_ACC* planes = memory + SS_STEPS * SS_SUMS;
    const Tile tile = tile_of(s, s.qT, s.qH, s.qW);
    const Part& at = tile.at;
    const int b = SS_STACKED ? at.video / s.K : at.video, first = SS_STACKED ? at.video % s.K : 0;
    unsigned* numbers = (unsigned*)(planes + SS_STEPS * SS_PLANE + 4);
    const Steps steps = steps_of(s.qH, s.qW, s.kH, s.kW);
    Queries side = {k, weights, offsets, s, m, tile, steps, b, first, SS_STACKED ? 1 : s.K, numbers, {}, {}, {}};

    const Query here = {b, at.g, at.t, 0, 0};
    Values mine = no_values(), sum = no_values();
    const Plane ours = frame_of_q(q, here, first, s, m);
    if (SS_L2 && has_thread(tile)) mine = values_at(ours, ours.at(at.y, at.x), at.f);
    if (at.t >= s.t0 && at.t < s.t0 + s.T) sum = sum_of_tile<SS_QUERY_ZEROS>(side, mine, tile, steps, memory, planes);
    if (has_thread(tile))
        store_values(numbers_of(out, at, s, s.qT, s.qH, s.qW), sum, (long long)s.qH * s.qW);
}
