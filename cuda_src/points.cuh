// A tile of queries by patches of one pixel, whose best candidates are found by tensor cores: for search_points.cu and
// attend_points.cu.
//
// A block has a tile of SS_TILE_X x SS_TILE_Y queries of one frame and head, a warp 16 x 2 of them, a thread one. All
// pixels of k that they look at in a slot are in shared memory. Two passes go through the windows, row by row. In each,
// a warp multiplies its queries by the pixels of a row (multiply.cuh). That gives their scores but for a doubt, of
// which the most is known. So the first pass finds a number that the best SS_TOPK of a query do not exceed: there are
// as many pieces of its windows of which the least does not. The second notes each candidate that may not exceed it.
// These are few more than SS_TOPK. Only they are scored, in the way and order of search.cu: what is found is the same,
// bit for bit, however tensor cores round.
//
// A tile whose queries look at too many pixels is left: it counts itself in wild[0], and marks itself behind.
//
// Constants: those of search.cu, SS_TILE_X (16) and SS_TILE_Y, SS_PIECES of a row of a window, SS_BLOCKS of a
// multiprocessor, and those of staged.cuh and reach.cuh.
#ifndef SS_POINTS_CUH
#define SS_POINTS_CUH

#include "multiply.cuh"
#include "pairs.cuh"

#define SS_WAIT 12  // rows with candidates that a query may note
#define SS_BITS ((SS_WINDOW_X + 2) / 2 * 2)  // columns of a window, if they are taken in pairs
#define SS_OF_WARP (4 * SS_STRIPS + 1 - SS_WINDOW_X % 2)  // pairs; a window of even size may be read one pair too far
#define SS_OUTSIDE (!SS_SLIDE || SS_ZEROS)  // whether candidates may lie outside of the frame

// --- the first pass: what the best do not exceed --------------------------------------------------
// The window of a thread in a slot: where it begins in the region and in the frame, and where its products do. They are
// read in pairs, so that it begins one column earlier if its own first is the second of a pair (`late`).
struct View {
    int row, column, y, x;
    float2* products;
    bool late, own;  // own: in the query's own frame
    float doubt, beside;  // by how much a product is off; what it is where nothing is
};

// What products of a pair of columns stand for: halves of scores without the square of the query, or whole scores.
__device__ inline float2 values(const View& view, int y, int j, const Sizes& s) {
    float2 found = view.products[j / 2 * SS_COLUMNS];
    if (SS_OUTSIDE) {
        const bool row = (unsigned)y < (unsigned)s.kH;
        if (!row || (unsigned)(view.x + j) >= (unsigned)s.kW) found.x = view.beside;
        if (!row || (unsigned)(view.x + j + 1) >= (unsigned)s.kW) found.y = view.beside;
    }
    return found;
}

// Whether column j is one of the window.
__device__ inline bool is_seen(const View& view, int j) {
    return j == 0 ? !view.late : j == SS_WINDOW_X ? view.late : j < SS_WINDOW_X;
}

// Keeps the least SS_TOPK.
__device__ inline void keep_least(float* kept, float x) {
#pragma unroll
    for (int i = SS_TOPK - 1; i > 0; --i) kept[i] = fminf(kept[i], fmaxf(kept[i - 1], x));
    kept[0] = fminf(kept[0], x);
}

__device__ inline void bound_row(float* kept, const View& view, int y, const Sizes& s) {
    const int piece = (SS_BITS / 2 + SS_PIECES - 1) / SS_PIECES * 2;
    float least = infinite();
#pragma unroll
    for (int j = 0; j < SS_BITS; j += 2) {
        const float2 found = values(view, y, j, s);
        least = fminf(least, is_seen(view, j) ? found.x : infinite());
        least = fminf(least, is_seen(view, j + 1) ? found.y : infinite());
        if ((j + 2) % piece && j + 2 < SS_BITS) continue;
        keep_least(kept, view.doubt < infinite() ? least + view.doubt : infinite());
        least = infinite();
    }
}

// --- the second pass: those that may not exceed it ------------------------------------------------
// Rows of windows with candidates to be scored: slot, row and column in the region of the first (4, 6 and 6 bits), and
// a bit for each, that of the first the highest of SS_BITS.
struct Noted {
    unsigned* of_threads;
    int count;

    __device__ unsigned& row(int i) const { return of_threads[i * SS_THREADS + threadIdx.x]; }
};

#define SS_MASK ((1u << SS_BITS) - 1)

__device__ inline void note_row(Noted& noted, float limit, const View& view, int slot, int row, int y, const Sizes& s) {
    unsigned beyond = 0;
#pragma unroll
    for (int j = 0; j < SS_BITS; j += 2) {
        const float2 found = values(view, y, j, s);
        beyond = beyond << 1 | __float_as_uint(__fsub_rn(limit, found.x)) >> 31;
        beyond = beyond << 1 | __float_as_uint(__fsub_rn(limit, found.y)) >> 31;
    }
    const unsigned seen = ((1u << SS_WINDOW_X) - 1) << (SS_BITS - SS_WINDOW_X - view.late);
    const unsigned found = (limit < infinite() ? ~beyond : SS_MASK) & seen;
    if (found) noted.row(noted.count++) = (unsigned)(slot << 12 | row << 6 | view.column) << 16 | found;
}

__device__ inline void load_run(float* to, const Staged& from, int chunk, int pixel) {
#pragma unroll
    for (int i = 0; i < SS_RUN; i += SS_FEW) load_few(from.eight(2 * chunk + i / 8, pixel) + i % 8, to + i);
}

// `mine`: the first channels of a query.
__device__ inline float score_of(float* mine, const Staged& q, int asker, const Staged& k, int pixel) {
    float score = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < SS_CHUNKS; ++chunk) {
        float theirs[SS_RUN], sum = 0;
        if (SS_CHUNKS > 1) load_run(mine, q, chunk, asker);
        load_run(theirs, k, chunk, pixel);
#pragma unroll
        for (int f = 0; f < SS_RUN; ++f) sum = add_pair(mine[f], theirs[f], sum);
        score = plus(score, sum);
    }
    return score < infinite() ? score : infinite();
}

// Where candidates lie: slot, row and column in its region.
__device__ inline int slot_at(int place) { return place >> 12; }
__device__ inline int row_at(int place) { return place >> 6 & 63; }
__device__ inline int column_at(int place) { return place & 63; }

__device__ inline Staged staged(const Slots& slots, char* pool, int slot) {
    return {pool + (slots.held ? slots.at[slot] : 0), slots.regions[slot].pixels()};
}

// Inserts a candidate behind those that are as good. best: scores in order, and as many places.
__device__ inline void insert(float* best, bool there, float score, int place) {
    there = there && !(score >= best[SS_TOPK - 1]);
#pragma unroll
    for (int i = SS_TOPK - 1; i > 0; --i) {
        const bool before = !(score >= best[i - 1]);
        if (there) {
            best[i] = before ? best[i - 1] : score;
            best[SS_TOPK + i] = before ? best[SS_TOPK + i - 1] : __int_as_float(place);
        }
        there = there && before;
    }
    if (there) best[0] = score, best[SS_TOPK] = __int_as_float(place);
}

// Scores what a warp's queries have noted.
__device__ inline void score_noted(float* best, Noted& noted, const Slots& slots, char* pool, const Staged& own,
                                   const Asker& asker, int t, const Sizes& s) {
    const int number = asker.row * SS_TILE_X + asker.column;
    float mine[SS_RUN];
    load_run(mine, own, 0, number);
    unsigned left = 0;
    int first = 0;
#pragma unroll 1
    for (int i = 0; __any_sync(SS_ALL, left || i < noted.count);) {
        if (!left && i < noted.count) {
            const unsigned row = noted.row(i++);
            left = row & SS_MASK, first = (int)(row >> 16);
        }
        bool there = left;
        const int bit = there ? 31 - __clz(left) : 0, place = first + (there ? SS_BITS - 1 - bit : 0);
        left &= ~(1u << bit);
        const Region& region = slots.regions[slot_at(place)];
        const int y = region.y + row_at(place), x = region.x + column_at(place);
        float score = score_of(mine, own, number, staged(slots, pool, slot_at(place)),
                               row_at(place) * region.wide + column_at(place));
        if (SS_OUTSIDE && ((unsigned)y >= (unsigned)s.kH || (unsigned)x >= (unsigned)s.kW))
            score = SS_ZEROS ? 0 : infinite();
        if (SS_SKIP == 1 && y == asker.y && x == asker.x && slots.frames[slot_at(place)] == t) there = false;
        insert(best, there, score, place);
    }
    noted.count = 0;
}

// --- results --------------------------------------------------------------------------------------
// Copies n numbers by a warp, 16 bytes at a time if it can.
template <class Number> __device__ inline void copy(const Number* from, Number* to, int n) {
    const size_t places = reinterpret_cast<size_t>(from) | reinterpret_cast<size_t>(to);
    const int lane = threadIdx.x % 32, fours = places % 16 == 0 ? n / 4 : 0;
#pragma unroll 1
    for (int i = lane; i < fours; i += 32)
        reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
#pragma unroll 1
    for (int rest = 4 * fours + lane; rest < n; rest += 32) to[rest] = from[rest];
}

// Writes n numbers of each query, which lie together in shared memory, to where each query has `apart`.
template <class Number>
__device__ inline void write_rows(const Number* from, Number* to, int n, int apart, const Tile& tile, const Sizes& s) {
    const int wide = min(SS_TILE_X, s.w - tile.left), tall = min(SS_TILE_Y, s.h - tile.top);
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < tall; y += SS_WARPS) {
        Number* const row = to + ((clip * s.h + tile.top + y) * s.w + tile.left) * apart;
        const Number* const mine = from + y * SS_TILE_X * n;
        if (!SS_PER_FRAME) copy(mine, row, wide * n);
#pragma unroll 1
        for (int x = 0; SS_PER_FRAME && x < wide; ++x) copy(mine + x * n, row + (long long)x * apart, n);
    }
}

// --- threads --------------------------------------------------------------------------------------
// Bound of what a product may be off, from the sums of squares of a query and of the largest pixel that it meets. A
// little more, as products may be too small to be numbers. Infinite, if they are none.
__device__ inline float doubt_of(float mine, float largest) {
    const float q = sqrtf(mine), k = sqrtf(largest);
    const float found = __fmaf_rn(SS_DOUBT, SS_L2 ? (q + k) * (q + k) : q * k, 1e-35f);
    return found < infinite() ? found : infinite();
}

__device__ inline void largest_of_block(float* largest, float mine) {
    const int least = least_of_warp(-__float_as_int(mine));
    if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<int*>(largest), -least);
}

// Brings the pixels of a slot to shared memory. `measured`: finds the largest.
__device__ inline void stage_slot(Slots& slots, char* pool, int slot, const SS_SCALAR* k, const Tile& tile,
                                  bool measured, const Sizes& s, const Strides& strides) {
    __syncthreads();
    const Plane theirs = plane_of_k(k, tile.b, tile.g, slots.frames[slot], s, strides);
    const float largest = stage(staged(slots, pool, slot), slots.regions[slot], theirs, s.F);
    if (measured) largest_of_block(slots.largest + slot, largest);
    __syncthreads();
}

struct Memory {
    char* pool;
    Staged own;
    float2* products;  // of this warp
    Noted noted;
    Starts starts;
};

__device__ inline Memory memory_of(char* memory) {
    char* const queries = memory + SS_POOL;
    float2* const products = reinterpret_cast<float2*>(queries + SS_THREADS * SS_PIXEL);
    const int of_warp = SS_OF_WARP * SS_COLUMNS;
    unsigned* const noted = reinterpret_cast<unsigned*>(products + SS_WARPS * of_warp);
    int* const starts = reinterpret_cast<int*>(noted + SS_WAIT * SS_THREADS);
    return {memory, {queries, SS_THREADS}, products + threadIdx.x / 32 * of_warp, {noted, 0}, {starts}};
}

__device__ inline View view_of(const Slots& slots, const Memory& m, const Asker& asker, const Reach& reach, int slot,
                               int t) {
    const int start = m.starts.of(slot), lane = threadIdx.x % 32;
    const int begin = reach.x + 8 * (__ffs(reach.strips >> lane / 16 * 8) - 1), of_begin = column_in(start) - begin;
    const float mine = m.own.halves()[asker.row * SS_TILE_X + asker.column];
    const Region& region = slots.regions[slot];
    View view;
    view.row = asker.exists ? row_in(start) : 2 * SS_SIDE;  // a row that no warp looks at
    view.late = of_begin & 1, view.column = column_in(start) - view.late;
    view.y = region.y + view.row, view.x = region.x + view.column;
    view.products = m.products + of_begin / 2 * SS_COLUMNS + lane;
    view.own = slots.frames[slot] == t;
    view.doubt = doubt_of(2 * mine, slots.largest[slot]);
    view.beside = !SS_ZEROS ? infinite() : SS_L2 ? -mine : 0;
    return view;
}

__device__ inline Row row_of(const Staged& k, const Reach& reach, int wide, float2* products) {
    const int lane = threadIdx.x % 32, far = 2 * (lane % 4), first = reach.y * wide + reach.x;
    return {reinterpret_cast<const char*>(k.eight(0, first + lane / 4) + far), k.halves() + first + far, k.n * SS_EIGHT,
            products + lane % 4 * SS_COLUMNS + lane / 4};
}

// One pass of a warp through a slot. state: of the first, the least that its queries have found; of the second, the
// best of those that do not exceed `most`. `last`: nothing comes behind it, or it will not be in memory any more.
template <bool second>
__device__ inline void look(float* state, float most, Memory& m, const Slots& slots, const Queries& queries,
                            const Asker& asker, int slot, bool last, int t, const Sizes& s) {
    const Reach reach = slots.reaches[slot][warp_number()];
    const View view = view_of(slots, m, asker, reach, slot, t);
    const Staged k = staged(slots, m.pool, slot);
    const int wide = slots.regions[slot].wide, itself = asker.x - view.x;
    // without tensor cores it is long enough as a loop
    const bool together = __CUDA_ARCH__ >= 800 && reach.strips == ((1u << SS_USUAL) - 1) * 0x201u;
    Row row = row_of(k, reach, wide, m.products);
    int i = reach.y - view.row;  // row of the window
#pragma unroll 1
    for (int left = reach.tall; left; --left, ++i) {
        multiply_row(row, queries, reach.strips, together);
        row.pixels += wide * SS_EIGHT, row.halves += wide;
        __syncwarp();
        if ((unsigned)i < SS_WINDOW_Y) {
            const int y = view.y + i;
            if (SS_SKIP == 1 && view.own && y == asker.y && (unsigned)itself < SS_BITS)
                (&view.products[itself / 2 * SS_COLUMNS].x)[itself % 2] = infinite();
            if (second) note_row(m.noted, most + view.doubt, view, slot, view.row + i, y, s);
            else bound_row(state, view, y, s);
        }
        if (second && __any_sync(SS_ALL, (last && left == 1) || m.noted.count == SS_WAIT))
            score_noted(state, m.noted, slots, m.pool, m.own, asker, t, s);
        __syncwarp();
    }
}

// `value` to numbers of the best, or of the least.
__device__ inline void fill(float* state, int n, float value) {
#pragma unroll
    for (int i = 0; i < n; ++i) state[i] = value;
}

// Calls `finish` with the best candidates of each query, scores in order and as many places, and the first of those
// that are kept of it. `memory` is of no more use then. False: the tile is left.
template <class Finish>
__device__ inline bool search_tile(char* memory, Slots& slots, const Tile& tile, const SS_SCALAR* q, const SS_SCALAR* k,
                                   const SS_AROUND* around, int* wild, const Sizes& s, const Strides& strides,
                                   const Around& a, const Finish& finish) {
    Memory m = memory_of(memory);
    const Asker asker = asker_of(tile, s);

    for (int i = threadIdx.x; i < SS_SLOTS * 4; i += SS_THREADS) slots.limits[i / 4][i % 4] = 0x7fffffff;
    stage(m.own, {tile.top, tile.left, SS_TILE_Y, SS_TILE_X}, plane_of_q(q, tile.b, tile.g, tile.t, s, strides), s.F);
    __syncthreads();
    find_starts(slots, m.starts, around, tile, asker, s, a);
    __syncthreads();
    if (threadIdx.x == 0) find_regions(slots, tile, s, a);
    __syncthreads();
    const bool fit = !slots.wild;
    __syncthreads();  // before some warp finds that its windows are too far apart
    if (fit) find_reaches(slots, m.starts, tile, a);
    __syncthreads();
    if (slots.wild) {
        if (threadIdx.x == 0) wild[1 + blockIdx.x] = 1, atomicAdd(wild, 1);
        return false;
    }

    Queries queries;
    load_queries(queries, m.own);
#pragma unroll 1
    for (int first = 0; first < a.windows; first += SS_PER_FRAME ? 1 : a.windows) {
        const int behind = SS_PER_FRAME ? first + 1 : a.windows;
        float state[2 * SS_TOPK];
        fill(state, SS_TOPK, infinite());
#pragma unroll 1
        for (int slot = first; slot < behind; ++slot) {
            stage_slot(slots, m.pool, slot, k, tile, true, s, strides);
            look<false>(state, 0, m, slots, queries, asker, slot, false, tile.t, s);
        }
        const float most = state[SS_TOPK - 1];
        fill(state, 2 * SS_TOPK, __int_as_float(0x7fffffff));  // no number: everything is better
#pragma unroll 1
        for (int again = first; again < behind; ++again) {
            if (!slots.held) stage_slot(slots, m.pool, again, k, tile, false, s, strides);
            look<true>(state, most, m, slots, queries, asker, again, again == behind - 1 || !slots.held, tile.t, s);
        }
        finish(state, asker, SS_PER_FRAME ? first * SS_TOPK : 0);
    }
    return true;
}

#endif
