// The whole-pixel search of search.cu, much faster: for tiles of queries whose windows overlap.
//
// A block has a tile of SS_TILE_X x SS_TILE_Y queries of one frame and head, that is 32 x SS_ROWS pixels with the
// margin of the patches, and looks at one displacement after the other: at one displacement, pixels are compared once
// and for all the patches that they belong to. For each slot it
//
// 1. finds the rectangle of all displacements that some query's window has (`Reach`); a tile whose rectangle is too
//    large to be worth it leaves its queries to search.cu: it counts itself in wild[0], and marks itself behind;
// 2. goes through the rectangle row by row, in even steps of up to 9 displacements. In each *producers*, threads with
//    four neighbouring pixels of q in registers, compare them with pixels of k in shared memory and sum along the rows
//    of the patches; *consumers*, threads with SS_COLUMN queries one below the other, sum what was produced in the step
//    before down the columns of the patches, and keep the best.
//
// So a query meets its candidates in the order of their numbers, and among equal ones keeps the first. The order of all
// sums is that of pairs.cuh: what search.cu would give is the same, bit for bit.
//
// Arrays are those of search.cu. Constants beside its own: SS_TILE_X, SS_TILE_Y, SS_ROWS, SS_COLUMN, SS_THREADS,
// SS_CHANNELS (of a pixel at a time: 4, 8 or 16) and SS_CHUNKS of them, SS_RING bytes of shared memory for k, SS_BUDGET
// (displacements of a tile for each of the window, above which it is wild), SS_RANKED (1: some rank is not the score).
#include "consume.cuh"
#include "produce.cuh"
#include "windows.cuh"

// --- windows --------------------------------------------------------------------------------------
// The smallest of the numbers of a warp.
__device__ inline int least(int mine) {
#if __CUDA_ARCH__ >= 800
    return __reduce_min_sync(SS_ALL, mine);
#else
#pragma unroll
    for (int apart = 16; apart; apart /= 2) mine = min(mine, __shfl_xor_sync(SS_ALL, mine, apart));
    return mine;
#endif
}

// Widens the limits of the groups of a warp, of which a thread's queries are in `group`. `exist`: a bit for each.
__device__ inline void widen(Limits* limits, const Window* windows, unsigned exist, int group) {
    Limits mine = nowhere();
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r)
        if (exist >> r & 1)
            mine = both(mine, {windows[r].y.first, windows[r].x.first, -windows[r].y.first, -windows[r].x.first});
    const int last = __shfl_sync(SS_ALL, group, 31);
#pragma unroll 1
    for (int i = __shfl_sync(SS_ALL, group, 0); i <= last; ++i) {
        const Limits some = group == i ? mine : nowhere();
        const Limits all = {least(some.y), least(some.x), least(some.last_y), least(some.last_x)};
        if (threadIdx.x % 32 != 0) continue;
        atomicMin(&limits[i].y, all.y), atomicMin(&limits[i].x, all.x);
        atomicMin(&limits[i].last_y, all.last_y), atomicMin(&limits[i].last_x, all.last_x);
    }
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

// Whether a tile's displacements in a slot are too many, or need more of k than there is memory for.
__device__ inline bool too_wide(long long tall, long long wide) {
    return tall > 255 || wide > 255 || tall * wide > (long long)SS_BUDGET * SS_WINDOW * SS_WINDOW ||
           SS_KEPT_ROWS * strips_of((int)wide) * SS_STRIP > SS_RING;
}

// --- results --------------------------------------------------------------------------------------
// Where a slot's reach begins, from a query.
struct Begin {
    int t, y, x;
};

// What a tile has found, in shared memory: of each query, row by row.
struct Found {
    float* scores;
    int* offsets;  // three for each score
};

// The best `kept` of a consumer's queries, as they are written in the arrays.
__device__ inline void hand_over(const Found& to, const float* best, const Begin* slots, unsigned exist, int query,
                                 int kept) {
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        if (!(exist >> r & 1)) continue;
#pragma unroll
        for (int i = 0; i < SS_TOPK; ++i) {
            if (i >= kept) break;
            const int at = (query + r * SS_TILE_X) * SS_TOPK + i;
            const float score = best[r * SS_BEST + (SS_RANKED ? 2 * SS_TOPK : 0) + i];
            const int place = __float_as_int(best[r * SS_BEST + SS_TOPK + i]);
            const Begin& slot = slots[place >> 16];
            to.scores[at] = SS_L2 ? plus(score, 0.f) : __fsub_rn(0, score);  // never -0
            to.offsets[3 * at] = slot.t;
            to.offsets[3 * at + 1] = slot.y + (place >> 8 & 255), to.offsets[3 * at + 2] = slot.x + (place & 255);
        }
    }
}

// `some` of the `each` numbers of every query of a row, which are the first of `all` behind `row` in the array.
template <class Number>
__device__ inline void write_row(const Number* from, Number* row, int wide, int each, int some, int all) {
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < wide * each; i += 32)
        if (i % each < some) row[i / each * all + i % each] = from[i];
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

// --- threads --------------------------------------------------------------------------------------
// What a thread does: a producer has a strip of four pixels in a line of the tile, a consumer the queries below (y, x).
struct Role {
    bool producer;
    int strip, line;
    Four four;
    int consumer, owner;  // its number among all, and among those with queries
    int row, column, y, x;  // of its first query, in the tile and in the frame
    unsigned exist;  // a bit for each of its queries
    int group, from, to;  // of its queries; those of all queries that its warp works for
};

__device__ inline Role role_of(const Plane& mine, const Tile& tile, const Sizes& s) {
    Role role;
    // all threads of a warp do the same, as the compiler knows from a shuffle
    role.producer = __shfl_sync(SS_ALL, threadIdx.x / 32, 0) < SS_PRODUCERS / 32;
    role.strip = threadIdx.x % 8, role.line = threadIdx.x / 8;
    role.four = four_at(mine, tile.top + role.line - SS_MARGIN, tile.left + 4 * role.strip - SS_MARGIN);
    role.consumer = role.producer ? 0 : (int)threadIdx.x - SS_PRODUCERS;
    role.owner = min(role.consumer, SS_OWNERS - 1);
    role.column = role.owner % SS_TILE_X, role.row = role.owner / SS_TILE_X * SS_COLUMN;
    role.y = tile.top + role.row, role.x = tile.left + role.column;
    role.exist = 0;
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        const bool is_query = role.row + r < SS_TILE_Y && role.y + r < s.h && role.x < s.w;
        role.exist |= (unsigned)(role.consumer < SS_OWNERS && is_query) << r;
    }
    const int warp = threadIdx.x / 32 * 4, first = role.consumer / 32 * 32, last = min(first + 31, SS_OWNERS - 1);
    role.group = role.owner / SS_TILE_X;  // a warp of producers has four lines, which patches of queries above reach
    role.from = role.producer ? max(warp - SS_PATCH + 1, 0) / SS_COLUMN : first / SS_TILE_X;
    role.to = role.producer ? min((warp + 3) / SS_COLUMN, SS_GROUPS - 1) : last / SS_TILE_X;
    return role;
}

__device__ inline void penalize(float* penalties) {
    for (int i = threadIdx.x; i < SS_WINDOW * SS_WINDOW; i += SS_THREADS) {
        const int rows = i / SS_WINDOW, columns = i % SS_WINDOW;  // from the centre
        penalties[i] = (float)(SS_PENALTY * (double)(rows * rows + columns * columns));
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
        widen(limits, windows, role.exist, role.group);
    }
    __syncthreads();
}

// What all of a tile's windows reach, 0 wide if it is too large.
__device__ inline Reach reach_of(const Limits* limits) {
    Limits all = limits[0];
#pragma unroll
    for (int i = 1; i < SS_GROUPS; ++i) all = both(all, limits[i]);
    const long long tall = -(long long)all.last_y - all.y + SS_WINDOW;
    const long long wide = -(long long)all.last_x - all.x + SS_WINDOW;
    return {all.y, all.x, (int)tall, too_wide(tall, wide) ? 0 : (int)wide};
}

// The part of a reach that is in the windows of some groups: the same for all threads of a warp, as the compiler knows
// from shuffles.
__device__ inline Part part_of(const Reach& reach, const Limits* limits, int from, int to) {
    Limits some = nowhere();
#pragma unroll 1
    for (int i = from; i <= to; ++i) some = both(some, limits[i]);
    const bool none = some.y == nowhere().y;
    const Part part = {none ? 0 : some.y - reach.y, none ? 0 : some.x - reach.x,
                       none ? 0 : SS_WINDOW - reach.y - some.last_y, none ? 0 : SS_WINDOW - reach.x - some.last_x};
    return {__shfl_sync(SS_ALL, part.y, 0), __shfl_sync(SS_ALL, part.x, 0), __shfl_sync(SS_ALL, part.end_y, 0),
            __shfl_sync(SS_ALL, part.end_x, 0)};
}

// One slot: while producers are at one step, consumers are at the one before.
__device__ inline void search_slot(float* state, const Last* last, Waiting& waiting, const Window* windows,
                                   const Part& part, bool final, const Ring& ring, float* sums, const Queue& queue,
                                   const Role& role, const Slot& slot, const Plane& mine, const Sizes& s) {
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < SS_ROWS; y += SS_THREADS / 32)
        stage(ring, y, slot, s.F, threadIdx.x % 32, 32);
    __syncthreads();
    if (role.producer) {
        produce_all(ring, mine, role.four, role.strip, role.line, slot, part, state, sums, s);
    } else {
        const Askers askers = askers_of(windows, role.exist, slot.reach);
        const float* const produced = sums + role.row * SS_SUMS_ROW + role.column;
        consume_all(state, last, waiting, askers, queue, ring, produced, slot, part, final, role.consumer, role.y,
                    role.x, s);
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
search_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, float* scores, int* offsets,
            int* wild, const Sizes s, const Strides m, const Around a, int across, int down) {
    extern __shared__ float4 memory[];
    __shared__ Limits limits[SS_GROUPS];
    __shared__ Begin slots[2 * SS_RADIUS + 1];
    __shared__ float penalties[SS_RANKED ? SS_WINDOW * SS_WINDOW : 1];
    char* const pool = reinterpret_cast<char*>(memory);
    float* const sums = reinterpret_cast<float*>(pool + SS_RING);
    const Queue queue = {reinterpret_cast<char*>(sums + 2 * SS_SUMS), penalties};

    const Tile tile = tile_of(blockIdx.x, s, across, down);
    const Plane mine = plane_of_q(q, tile.b, tile.g, tile.t, s, m);
    const Role role = role_of(mine, tile, s);
    if (SS_RANKED) penalize(penalties);
    float state[SS_REGISTERS];  // of a producer its pixels of q, of a consumer the best of its queries
    if (role.producer) load_four(mine, role.four, 0, s.F, state);

#pragma unroll 1
    for (int begin = 0; begin < a.windows; begin += SS_PER_FRAME ? 1 : a.windows) {
        Last last[SS_COLUMN];
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
                    if (threadIdx.x == 0) wild[1 + blockIdx.x] = 1, atomicAdd(wild, 1);
                    return;
                }
                const Slot slot = {number, frame == tile.t, reach, plane_of_k(k, tile.b, tile.g, frame, s, m),
                                   tile.top - SS_MARGIN + reach.y, tile.left - SS_MARGIN + reach.x};
                if (threadIdx.x == 0) slots[number] = {frame - tile.t, reach.y, reach.x};
                const Ring ring = {pool, strips_of(reach.wide)};
                const Part part = part_of(reach, limits, role.from, role.to);
                search_slot(state, last, waiting, windows, part, number == end - 1, ring, sums, queue, role, slot, mine,
                            s);
            }
            const Found found = {reinterpret_cast<float*>(pool),
                                 reinterpret_cast<int*>(pool) + SS_TILE_X * SS_TILE_Y * SS_TOPK};
            const int some = min(SS_TOPK, SS_KEPT - kept);
            if (!role.producer) hand_over(found, state, slots, role.exist, query, some);
            __syncthreads();
            write_results(found, tile, begin * SS_KEPT + kept, some, scores, offsets, s);
        }
    }
}
