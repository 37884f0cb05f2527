// The whole-pixel search of search.cu, much faster: for tiles of queries whose windows overlap.
//
// A block has a tile of SS_TILE_X x SS_TILE_Y queries of one frame and head, that is 32 x SS_ROWS pixels with the
// margin of the patches, and looks at one displacement after the other: at one displacement, pixels are compared once
// and for all the patches that they belong to. For each slot it
//
// 1. finds the rectangle of all displacements that some query's window has (`Reach`); a tile whose rectangle is too
//    large to be worth it leaves its queries to search.cu: it counts itself in wild[0], and marks itself behind;
// 2. goes through the rectangle row by row, in even steps of up to 9 displacements. In each step *producers*, threads with
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
// The smallest and the largest displacement of queries, into `limits`: y, x, and the same negated. `exist`: a bit for
// each.
__device__ inline void widen(int* limits, const Window* windows, unsigned exist) {
    int found[4] = {0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff};
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        if (!(exist >> r & 1)) continue;
        found[0] = min(found[0], windows[r].y.first), found[1] = min(found[1], windows[r].x.first);
        found[2] = min(found[2], -windows[r].y.first), found[3] = min(found[3], -windows[r].x.first);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        for (int apart = 16; apart; apart /= 2) found[i] = min(found[i], __shfl_xor_sync(SS_ALL, found[i], apart));
        if (threadIdx.x % 32 == 0) atomicMin(limits + i, found[i]);
    }
}

__device__ inline Askers askers_of(const Window* windows, unsigned exist, const Reach& reach, int query) {
    Askers a = {0, 0, 0, 0, 0, {}};
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        const bool exists = exist >> r & 1;
        a.row |= (exists ? windows[r].y.first - reach.y : SS_NOWHERE) << 8 * r;
        a.column |= (exists ? windows[r].x.first - reach.x : 0u) << 8 * r;
        a.before_row |= (unsigned)windows[r].y.before << 8 * r;
        a.before_column |= (unsigned)windows[r].x.before << 8 * r;
        a.next[r] = query * sizeof(float2);
    }
    return a;
}

// Whether a tile's displacements in a slot are too many, or need more of k than there is memory for.
__device__ inline bool too_wide(long long tall, long long wide) {
    const long long strips = (SS_PIXELS - 1 + wide + 3) / 4;
    return tall > 255 || wide > 255 || tall * wide > (long long)SS_BUDGET * SS_WINDOW * SS_WINDOW ||
           SS_KEPT_ROWS * strips * SS_STRIP > SS_RING;
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
};

__device__ inline Role role_of(const Plane& mine, const Tile& tile, const Sizes& s) {
    Role role;
    role.producer = threadIdx.x < SS_PRODUCERS;
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
    return role;
}

__device__ inline void penalize(float* penalties) {
    for (int i = threadIdx.x; i < SS_WINDOW * SS_WINDOW; i += SS_THREADS) {
        const int rows = i / SS_WINDOW, columns = i % SS_WINDOW;  // from the centre
        penalties[i] = (float)(SS_PENALTY * (double)(rows * rows + columns * columns));
    }
}

// The windows of a consumer's queries in a slot, and the reach of the tile's, which is 0 wide if it is too large.
__device__ inline Reach find_windows(Window* windows, int* limits, const SS_AROUND* flow, const Role& role,
                                     const Sizes& s) {
    if (threadIdx.x < 4) limits[threadIdx.x] = 0x7fffffff;
    __syncthreads();
    if (!role.producer) {
#pragma unroll
        for (int r = 0; r < SS_COLUMN; ++r)
            windows[r] = window_of(flow, min(role.y + r, s.h - 1), min(role.x, s.w - 1), s);
        widen(limits, windows, role.exist);
    }
    __syncthreads();
    const long long tall = -(long long)limits[2] - limits[0] + SS_WINDOW;
    const long long wide = -(long long)limits[3] - limits[1] + SS_WINDOW;
    return {limits[0], limits[1], (int)tall, too_wide(tall, wide) ? 0 : (int)wide};
}

// One slot, step by step: while producers are at one step, consumers are at the one before.
__device__ inline void search_slot(float* state, const Last* last, Askers& askers, const Ring& ring, float* sums, const Queue& queue,
                                   const Role& role, const Slot& slot, const Plane& mine, const Plane& theirs,
                                   const Tile& tile, const Sizes& s) {
    const int from_y = tile.top - SS_MARGIN + slot.reach.y, from_x = tile.left - SS_MARGIN + slot.reach.x;
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < SS_ROWS; y += SS_THREADS / 32)
        stage(ring, y, theirs, s.F, from_y, from_x, threadIdx.x % 32, 32);
    __syncthreads();
    const int steps = (slot.reach.wide + SS_MOST_AT_ONCE - 1) / SS_MOST_AT_ONCE;  // of a row
    const int at_once = (slot.reach.wide + steps - 1) / steps;
    Step now = {0, 0, 0, 0}, before = now;
#pragma unroll 1
    for (int dy = 0, dx = 0; dy < slot.reach.tall || before.n; before = now) {
        now = {dy, dx, dy < slot.reach.tall ? min(at_once, slot.reach.wide - dx) : 0, before.half ^ 1};
        if (role.producer && now.n)
            produce_step(ring, mine, role.four, role.strip, role.line, now, from_y, from_x, state, sums, s);
        if (!role.producer) {
            if (dx == 0 && dy + 1 < slot.reach.tall)
                stage(ring, dy + SS_ROWS, theirs, s.F, from_y, from_x, role.consumer, SS_THREADS - SS_PRODUCERS);
            const float* const produced = sums + before.half * SS_SUMS + role.row * SS_SUMS_ROW + role.column;
            if (before.n)
                consume(state, last, askers, queue, produced, before, slot, role.y, role.x, dy >= slot.reach.tall, s);
        }
        dx += now.n;
        if (dx >= slot.reach.wide) dx = 0, ++dy;
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
search_tiles(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, float* scores, int* offsets,
            int* wild, const Sizes s, const Strides m, const Around a, int across, int down) {
    extern __shared__ float4 memory[];
    __shared__ int limits[4];
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
            if (!role.producer) begin_pass(state, last, kept == 0);
#pragma unroll 1
            for (int number = begin; number < (SS_PER_FRAME ? begin + 1 : a.windows); ++number) {
                const int frame = frame_of_slot(tile.t, number + SS_FIRST_SLOT, s.kT, SS_RADIUS);
                Window windows[SS_COLUMN];
                const Reach reach = find_windows(windows, limits, flow_of(around, tile, number, s, a), role, s);
                if (reach.wide == 0) {
                    if (threadIdx.x == 0) wild[1 + blockIdx.x] = 1, atomicAdd(wild, 1);
                    return;
                }
                const Slot slot = {number, frame == tile.t, reach};
                const unsigned exist = role.producer ? 0 : role.exist;
                Askers askers = askers_of(windows, exist, reach, role.row * SS_TILE_X + role.column);
                if (threadIdx.x == 0) slots[number] = {frame - tile.t, reach.y, reach.x};
                const Ring ring = {pool, (SS_PIXELS - 1 + reach.wide + 3) / 4};
                const Plane theirs = plane_of_k(k, tile.b, tile.g, frame, s, m);
                search_slot(state, last, askers, ring, sums, queue, role, slot, mine, theirs, tile, s);
            }
            const Found found = {reinterpret_cast<float*>(pool),
                                 reinterpret_cast<int*>(pool) + SS_TILE_X * SS_TILE_Y * SS_TOPK};
            const int query = role.row * SS_TILE_X + role.column, some = min(SS_TOPK, SS_KEPT - kept);
            if (!role.producer) hand_over(found, state, slots, role.exist, query, some);
            __syncthreads();
            write_results(found, tile, begin * SS_KEPT + kept, some, scores, offsets, s);
        }
    }
}
