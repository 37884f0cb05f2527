// A tile of queries whose windows overlap, and whose best candidates are found together: for search_tiles.cu and
// attend_tiles.cu.
//
// A block has a tile of SS_TILE_X x SS_TILE_Y queries of one frame and head, that is 32 x SS_ROWS pixels with the
// margin of the patches, and looks at one displacement after the other: at one displacement, pixels are compared once
// and for all the patches that they belong to. For each slot it
//
// 1. finds the rectangle of all displacements that some query's window has (`Reach`); a tile whose rectangle is too
//    large to be worth it leaves its queries, from this slot on, to search.cu or search_windows.cu: it counts itself in
//    wild[0], and marks itself behind by the number of the slot, plus 1;
// 2. goes through the rectangle row by row, in even steps of up to 9 displacements. In each *producers*, threads with
//    four neighbouring pixels of q in registers, compare them with pixels of k in shared memory and sum along the rows
//    of the patches; *consumers*, threads with SS_COLUMN queries one below the other, sum what was produced in the step
//    before down the columns of the patches, and keep the best.
//
// So a query meets its candidates in the order of their numbers, and among equal ones keeps the first. The order of all
// sums is that of pairs.cuh: what search.cu would give is the same, bit for bit.
//
// Constants beside those of search.cu: SS_TILE_X, SS_TILE_Y, SS_ROWS, SS_COLUMN, SS_THREADS,
// SS_CHANNELS (of a pixel at a time: 4, 8 or 16) and SS_CHUNKS of them, SS_FULL (1: as many as there are, else more),
// SS_RING bytes of shared memory for k, SS_HELD (type of its numbers there: float, or SS_SCALAR where floats have no
// room), SS_BUDGET (displacements of a tile for each of the window, above which it is wild), SS_RANKED (1: some rank is
// not the score).
#ifndef SS_SEARCH_TILE_CUH
#define SS_SEARCH_TILE_CUH

#include "consume.cuh"
#include "produce.cuh"
#include "roles.cuh"

// --- windows --------------------------------------------------------------------------------------
// What the windows of a consumer's queries reach. `exist`: a bit for each.
__device__ inline Limits limits_of(const Window* windows, unsigned exist) {
    Limits all = nowhere();
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r)
        if (exist >> r & 1)
            all = both(all, {windows[r].y.first, windows[r].x.first, -windows[r].y.first, -windows[r].x.first});
    return all;
}

__device__ inline Askers askers_of(const Window* windows, unsigned exist, const Reach& reach) {
    Askers a = {0, 0, 0, 0};
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        const bool exists = exist >> r & 1;
        a.row |= (exists ? windows[r].y.first - reach.y : SS_NOWHERE) << 8 * r;
        a.column |= (exists ? windows[r].x.first - reach.x : 0u) << 8 * r;
        a.before_row |= (unsigned)windows[r].y.before << 8 * r;
        a.before_column |= (unsigned)windows[r].x.before << 8 * r;
    }
    return a;
}

// --- threads --------------------------------------------------------------------------------------
// Lets in what waits of all queries of a consumer: of ranked ones nothing does at the end of a slot.
__device__ inline void let_all_in(float* best, const Last* last, Waiting& waiting, const Queue& queue) {
    const Askers nobody = {0, 0, 0, 0};
    const Slot any = {};
    if (!SS_RANKED) let_in(best, last, queue, waiting, nobody, SS_ALL, any);
}

__device__ inline void penalize(float* penalties, double penalty) {
    for (int i = threadIdx.x; i < SS_WINDOW_Y * SS_WINDOW_X; i += SS_THREADS) {
        const int rows = i / SS_WINDOW_X, columns = i % SS_WINDOW_X;  // from the centre
        penalties[i] = (float)(penalty * (double)(rows * rows + columns * columns));
    }
}

// Finds the windows of a consumer's queries in a slot, and the limits of each group's.
__device__ inline void find_windows(Window* windows, Limits* limits, const SS_AROUND* flow, const Role& role,
                                    const Sizes& s) {
    if (threadIdx.x < SS_GROUPS) limits[threadIdx.x] = nowhere();
    __syncthreads();
    if (!role.producer) {
#pragma unroll
        for (int r = 0; r < SS_COLUMN; ++r)
            windows[r] = window_of(flow, min(role.y + r, s.h - 1), min(role.x, s.w - 1), s);
        widen(limits, limits_of(windows, role.exist), role.group);
    }
    __syncthreads();
}

// One slot: while producers are at one step, consumers are at the one before.
__device__ inline void search_slot(float* state, const Last* last, Waiting& waiting, const Window* windows,
                                   const Part& part, bool final, const Ring& ring, float* sums, const Queue& queue,
                                   const Role& role, const Slot& slot, const Plane& mine, const Sizes& s) {
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < SS_KEPT_ROWS; y += SS_THREADS / 32)
        stage(ring, y, slot, s.F, threadIdx.x % 32, 32);
    __syncthreads();
    if (role.producer) {
        produce_all(ring, mine, role.four, role.strip, role.line, slot, part, state, sums, s);
    } else {
        const Askers askers = askers_of(windows, role.exist, slot.reach);
        const float* const produced = sums + role.row * SS_SUMS_ROW + role.column;
        consume_all(ring, slot, part, role.consumer, s, [&](const Step& step, bool) {
            consume(state, last, waiting, askers, queue, produced, step, slot, role.y, role.x, s);
        });
        if (final || SS_RANKED) let_in(state, last, queue, waiting, askers, SS_ALL, slot);  // ranks are those of a slot
    }
}

// What a consumer has found in a pass.
struct Passed {
    const float* best;  // of its queries
    const Role& role;
    int query;  // the first of these queries, in the tile
    int first, count;  // of the kept ones of a query: those that it has
    bool left;  // there are slots that it did not see
};

// Calls `finish` with what each pass through the slots has found, until all that is kept is; `pool` is of no more use
// then. Notes where the reach of each slot begins. False: the tile is left, from the slot on that is marked in `wild`.
template <class Finish>
__device__ inline bool search_tile(char* pool, Begin* slots, const Tile& tile, const SS_SCALAR* q, const SS_SCALAR* k,
                                   const SS_AROUND* around, int* wild, double penalty, const Sizes& s,
                                   const Strides& m, const Around& a, const Finish& finish) {
    __shared__ Limits limits[SS_GROUPS];
    __shared__ float penalties[SS_RANKED ? SS_WINDOW_Y * SS_WINDOW_X : 1];
    float* const sums = reinterpret_cast<float*>(pool + SS_RING);
    const Queue queue = {address_of(sums + 2 * SS_SUMS), penalties};

    const Plane mine = plane_of_q(q, tile.b, tile.g, tile.t, s, m);
    const Role role = role_of(mine, tile, s);
    if (SS_RANKED) penalize(penalties, penalty);
    float state[SS_REGISTERS];  // of a producer its pixels of q, of a consumer the best of its queries
    if (role.producer) load_four(mine, role.four, 0, s.F, state);

#pragma unroll 1
    for (int begin = 0; begin < a.windows; begin += SS_PER_FRAME ? 1 : a.windows) {
        Last last[SS_COLUMN];
        int left = 0;  // the slot that is left, plus 1
#pragma unroll 1
        for (int kept = 0; kept < SS_KEPT; kept += SS_TOPK) {
            const int end = SS_PER_FRAME ? begin + 1 : a.windows, query = role.row * SS_TILE_X + role.column;
            Waiting waiting;
            if (!role.producer) begin_pass(state, last, waiting, kept == 0, query);
#pragma unroll 1
            for (int number = begin; number < end; ++number) {
                const int frame = frame_of_slot(tile.t, number + SS_FIRST_SLOT, s.kT, SS_RADIUS);
                Window windows[SS_COLUMN];
                find_windows(windows, limits, flow_of(around, tile, number, s, a), role, s);
                const Reach reach = reach_of(limits);
                if (reach.wide == 0) {
                    left = number + 1;
                    break;
                }
                const Slot slot = {number, frame == tile.t, reach, plane_of_k(k, tile.b, tile.g, frame, s, m),
                                   tile.top - SS_MARGIN + reach.y, tile.left - SS_MARGIN + reach.x};
                if (threadIdx.x == 0) slots[number] = {frame - tile.t, reach.y, reach.x};
                const Ring ring = {pool, strips_of(reach.wide)};
                const Part part = part_of(reach, limits, role.from, role.to);
                search_slot(state, last, waiting, windows, part, number == end - 1, ring, sums, queue, role, slot, mine,
                            s);
            }
            if (left == begin + 1) break;
            if (left && !role.producer) let_all_in(state, last, waiting, queue);
            finish(Passed{state, role, query, begin * SS_KEPT + kept, min(SS_TOPK, SS_KEPT - kept), left > 0});
        }
        if (left) {
            if (threadIdx.x == 0) wild[1 + blockIdx.x] = left, atomicAdd(wild, 1);
            return false;
        }
    }
    return true;
}

#endif
