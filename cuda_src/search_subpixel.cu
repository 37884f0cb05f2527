// The subpixel search of search.cu, much faster: for tiles of queries whose windows overlap.
//
// Candidates of a window are whole steps apart, so all of them lie equally far behind a pixel. A tile compares whole
// pixels as search_tiles.cu does, at one displacement after the other, and consumers blend the scores of four of them
// into that of the place between: see blend.cuh. A window of n candidates has n + 1 pixels along an axis, or n where
// its candidates are pixels.
//
// A score differs from that of the direct form by at most SS_TOLERANCE of itself, beside what the direct form itself
// rounds; whole places have its bits. A tile whose displacements are too many is left whole to search.cu.
//
// Arrays are those of search.cu, and those of spread.cu with SS_L2; constants those of search_tiles.cu and blend.cuh.
#include "blend.cuh"
#include "roles.cuh"
#include "weigh_tile.cuh"

#define SS_WEIGHED_HERE (SS_WEIGHED && !SS_PER_FRAME)  // before they are written

// --- windows --------------------------------------------------------------------------------------
// Notes where the windows of a consumer's queries begin in a slot, and returns what the windows of those that `exist`
// reach: the displacement before the first one, too, if that is between pixels.
__device__ inline Limits find_windows(const Notes& notes, const SS_AROUND* flow, const Role& role, const Sizes& s) {
    Limits reaches = nowhere();
#pragma unroll 1
    for (int r = 0; r < SS_COLUMN; ++r) {
        const int y = min(role.y + r, s.h - 1), x = min(role.x, s.w - 1);
        const Axis axis_y = axis_of(flow, true, y, x, s), axis_x = axis_of(flow, false, y, x, s);
        const Corner down = corner_of(axis_y, y), across = corner_of(axis_x, x);
        notes.share_y(r) = down.share, notes.share_x(r) = across.share;
        notes.begin_y(r) = __int_as_float(down.displacement), notes.begin_x(r) = __int_as_float(across.displacement);
        if (!(role.exist >> r & 1)) continue;
        reaches = both(reaches, {down.displacement - (down.share < 1), across.displacement - (across.share < 1),
                                 -down.displacement, -across.displacement});
        if (axis_y.before < 0 || axis_x.before < 0) reaches = {-SS_FAR, -SS_FAR, -SS_FAR, -SS_FAR};  // too much
    }
    return reaches;
}

__device__ inline Askers askers_of(const Notes& notes, unsigned exist, const Reach& reach) {
    Askers a = {0, 0, 0, 0};
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        const bool exists = exist >> r & 1;
        a.row |= (exists ? __float_as_int(notes.begin_y(r)) - reach.y : SS_NOWHERE) << 8 * r;
        a.column |= (exists ? __float_as_int(notes.begin_x(r)) - reach.x : 0u) << 8 * r;
    }
    return a;
}

// --- results --------------------------------------------------------------------------------------
// What it takes to find out where kept candidates are, and how good.
struct Found {
    float* scores;  // [SS_TILE_Y][SS_TILE_X][SS_TOPK]
    int* places;
    const Begin* slots;
    const SS_AROUND* around;
    const SS_SCALAR *q, *k;
};

// Position of a kept candidate of query (y, x).
__device__ inline double position_of(const Found& found, int place, bool down, const Tile& tile, int y, int x,
                                     const Sizes& s, const Around& a) {
    const SS_AROUND* const flow = flow_of(found.around, tile, place >> 16, s, a);
    const Begin& slot = found.slots[place >> 16];
    const int displacement = down ? slot.y + (place >> 8 & SS_TALLEST) : slot.x + (place & 255);
    const int at = down ? y : x;
    const Axis axis = axis_of(flow, down, y, x, s);
    return position(axis, displacement - corner_of(axis, at).displacement);
}

__device__ inline float score_directly(const Found& found, int place, const Tile& tile, int y, int x, const Sizes& s,
                                       const Strides& m, const Around& a) {
    const Plane mine = plane_of_q(found.q, tile.b, tile.g, tile.t, s, m);
    const Plane theirs = plane_of_k(found.k, tile.b, tile.g, tile.t + found.slots[place >> 16].t, s, m);
    const double there_y = position_of(found, place, true, tile, y, x, s, a);
    const double there_x = position_of(found, place, false, tile, y, x, s, a);
    return score_of({tile.b, tile.g, tile.t, y, x}, mine, theirs, spot_at(there_y), spot_at(there_x), s);
}

// The best of a consumer's queries, the first of which is number `query` of the tile.
__device__ inline void hand_over(const Found& to, const float* best, unsigned exist, int query) {
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        if (!(exist >> r & 1)) continue;
        const int at = (query + r * SS_TILE_X) * SS_TOPK;
#pragma unroll
        for (int i = 0; i < SS_TOPK; ++i) {
            to.scores[at + i] = best[r * SS_BEST + i];
            to.places[at + i] = __float_as_int(best[r * SS_BEST + SS_TOPK + i]);
        }
    }
}

// Moves entry e of a query's to where it belongs among those before it.
__device__ inline void sort_in(float* scores, int* places, int e, float score, int place) {
    for (; e > 0 && (score < scores[e - 1] || (score == scores[e - 1] && place < places[e - 1])); --e)
        scores[e] = scores[e - 1], places[e] = places[e - 1];
    scores[e] = score, places[e] = place;
}

// Scores what is open of a query's best, and says whether they are the best.
__device__ inline bool settle(float* scores, int* places, const Found& found, const Tile& tile, int y, int x,
                              const Sizes& s, const Strides& m, const Around& a) {
    const float last = scores[SS_TOPK - 1];
    if (places[SS_TOPK - 1] & SS_OPEN) return false;
#pragma unroll 1
    for (int e = 0; e < SS_TOPK; ++e) {
        const int place = places[e] & ~SS_OPEN;
        float score = scores[e];
        if (place != places[e]) {
            score = score_directly(found, place, tile, y, x, s, m, a);
            if (!(score < last)) return false;
        }
        sort_in(scores, places, e, score, place);
    }
    return true;
}

// What the search returns, never -0.
__device__ inline float returned(float score) { return SS_L2 ? plus(score, 0.f) : __fsub_rn(0, score); }

// All queries of a tile. What search.cu has to do is marked by scores that are no numbers.
__device__ inline void settle_tile(const Found& found, int* wild, const Weighing& how, const Tile& tile, const Sizes& s,
                                   const Strides& m, const Around& a) {
#pragma unroll 1
    for (int i = threadIdx.x; i < SS_QUERIES; i += SS_THREADS) {
        const int y = tile.top + i / SS_TILE_X, x = tile.left + i % SS_TILE_X;
        float* const scores = found.scores + i * SS_TOPK;
        if (y >= s.h || x >= s.w) continue;
        if (!settle(scores, found.places + i * SS_TOPK, found, tile, y, x, s, m, a)) {
            scores[0] = nothing();
            atomicAdd(wild, 1);
        } else if (SS_WEIGHED_HERE) {
            for (int e = 0; e < SS_TOPK; ++e) scores[e] = returned(scores[e]);
            become_weights(scores, SS_TOPK, how, number_of_query(tile, y, x, s));
        }
    }
}

// From shared memory to the arrays, where the queries of a row lie one behind the other. `first`: of the kept ones of a
// query. By a thread each, a score and how far away it is along either axis.
__device__ inline void write_results(const Found& found, const Tile& tile, int first, float* scores, float* offsets,
                                     const Sizes& s, const Around& a) {
    const int across = min(SS_TILE_X, s.w - tile.left) * SS_TOPK, all = min(SS_TILE_Y, s.h - tile.top) * across;
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
#pragma unroll 1
    for (int i = threadIdx.x; i < 3 * all; i += SS_THREADS) {
        const int what = i / all, row = i % all / across, kept = i % all % across;
        const int from = row * SS_TILE_X * SS_TOPK + kept, y = tile.top + row, x = tile.left + kept / SS_TOPK;
        const long long to = ((clip * s.h + y) * s.w + x) * s.K + first + kept % SS_TOPK;
        const int place = found.places[from];
        if (what == 0) {
            scores[to] = SS_WEIGHED_HERE ? found.scores[from] : returned(found.scores[from]);
            offsets[3 * to] = (float)found.slots[place >> 16].t;
        } else {
            const bool down = what == 1;
            offsets[3 * to + what] = away_from(down ? y : x, position_of(found, place, down, tile, y, x, s, a));
        }
    }
}

// --- threads --------------------------------------------------------------------------------------
// Shared memory behind the ring of k.
struct Memory {
    float *sums, *above;
    Notes notes;
    Queue queue;

    __device__ Memory(char* behind, int consumer) {
        sums = reinterpret_cast<float*>(behind), above = sums + 2 * SS_SUMS;
        notes = {above + SS_WINDOW_X * SS_QUERIES + consumer};
        queue = {address_of(above + SS_WINDOW_X * SS_QUERIES + SS_NOTES), 0};
    }
};

// One slot: while producers are at one step, consumers are at the one before.
__device__ inline void search_slot(float* state, Waiting& waiting, const Part& part, bool final, const Ring& ring,
                                   const Memory& memory, const Spread& spread, const Role& role, const Slot& slot,
                                   const Plane& mine, const Sizes& s) {
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < SS_KEPT_ROWS; y += SS_THREADS / 32)
        stage(ring, y, slot, s.F, threadIdx.x % 32, 32);
#pragma unroll 1
    for (int i = threadIdx.x; i < SS_WINDOW_X * SS_QUERIES; i += SS_THREADS) memory.above[i] = 0;
    __syncthreads();
    if (role.producer) {
        produce_all(ring, mine, role.four, role.strip, role.line, slot, part, state, memory.sums, s);
    } else {
        const int query = role.row * SS_TILE_X + role.column;
        const Askers askers = askers_of(memory.notes, role.exist, slot.reach);
        const float* const produced = memory.sums + role.row * SS_SUMS_ROW + role.column;
        float* const above = memory.above + query;
        consume_all(ring, slot, part, role.consumer, s, [&](const Step& step, bool begins) {
            consume_blended(state, waiting, askers, memory.notes, above, memory.queue, produced, spread, step, slot,
                            role.y, role.x, begins, s);
        });
        const Last none[SS_COLUMN] = {};
        if (final) let_in(state, none, memory.queue, waiting, askers, SS_ALL, slot);
        // else what producers alone have would be kept, or spilled, all the time
#pragma unroll
        for (int i = SS_COLUMN * SS_BEST; i < SS_REGISTERS; ++i) state[i] = 0;
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
search_subpixel(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, const float* spread, float* scores,
                float* offsets, int* wild, const SS_ACC* scales, SS_ACC* sums, SS_ACC factor, const Sizes s,
                const Strides m, const Around a, int across, int down) {
    extern __shared__ float4 pool[];
    __shared__ Limits limits[SS_GROUPS];
    __shared__ Begin slots[2 * SS_RADIUS + 1];
    char* const rows = reinterpret_cast<char*>(pool);

    const Tile tile = tile_of(blockIdx.x, s, across, down);
    const Plane mine = plane_of_q(q, tile.b, tile.g, tile.t, s, m);
    const Role role = role_of(mine, tile, s);
    const Memory memory(rows + SS_RING, role.consumer);
    float state[SS_REGISTERS];  // of a producer its pixels of q, of a consumer the best of its queries
    Waiting waiting;
    if (role.producer) load_four(mine, role.four, 0, s.F, state);
    const Weighing weighing = {SS_WEIGHED ? factor_of(factor, scales, tile.g) : factor, sums};

#pragma unroll 1
    for (int number = 0; number < a.windows; ++number) {
        const int frame = frame_of_slot(tile.t, number + SS_FIRST_SLOT, s.kT, SS_RADIUS);
        if (threadIdx.x < SS_GROUPS) limits[threadIdx.x] = nowhere();
        __syncthreads();
        if (!role.producer)
            widen(limits, find_windows(memory.notes, flow_of(around, tile, number, s, a), role, s), role.group);
        __syncthreads();
        const Reach reach = reach_of(limits);
        if (reach.wide == 0) {
            if (threadIdx.x == 0) wild[1 + blockIdx.x] = 1, atomicAdd(wild, 1);
            return;
        }
        const int query = role.row * SS_TILE_X + role.column;
        const bool final = SS_PER_FRAME || number == a.windows - 1;
        if (!role.producer && (number == 0 || SS_PER_FRAME)) begin_pass(state, 0, waiting, true, query);
        const Slot slot = {number, frame == tile.t, reach, plane_of_k(k, tile.b, tile.g, frame, s, m),
                           tile.top - SS_MARGIN + reach.y, tile.left - SS_MARGIN + reach.x};
        if (threadIdx.x == 0) slots[number] = {frame - tile.t, reach.y, reach.x};
        const Ring ring = {rows, strips_of(reach.wide)};
        const Part part = part_of(reach, limits, role.from, role.to);
        const long long of_frame = (((long long)tile.b * s.G + tile.g) * s.kT + frame) * s.kH * (s.kW + 2 * SS_BESIDE);
        const Spread between = {reinterpret_cast<const float4*>(spread) + of_frame, s.kH, s.kW};
        search_slot(state, waiting, part, final, ring, memory, between, role, slot, mine, s);

        if (!final) continue;
        float* const best = reinterpret_cast<float*>(rows);
        const Found found = {best, reinterpret_cast<int*>(best + SS_QUERIES * SS_TOPK), slots, around, q, k};
        if (!role.producer) hand_over(found, state, role.exist, query);
        __syncthreads();
        settle_tile(found, wild, weighing, tile, s, m, a);
        __syncthreads();
        write_results(found, tile, SS_PER_FRAME ? number * SS_TOPK : 0, scores, offsets, s, a);
        if (!SS_PER_FRAME) return;
    }
    if (SS_WEIGHED) weigh_written(scores, weighing, tile, s);
}
