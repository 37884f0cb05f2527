// What consumers of search_tiles.cu do: sum what was produced down the columns of patches, and keep the best.
#ifndef SS_CONSUME_CUH
#define SS_CONSUME_CUH

#include "pairs.cuh"
#include "ring.cuh"

// --- consumers: the best of a query ---------------------------------------------------------------
// best[0 ... SS_TOPK - 1] are ranks, in order, then come as many places, and with SS_RANKED scores. A place is written
// as slot << 16 | row << 8 | column of the reach.
__device__ inline float infinite() { return __int_as_float(0x7f800000); }
__device__ inline float nothing() { return __int_as_float(0x7fffffff); }  // no number: everything is better

__device__ inline bool is_better(float x, float than) { return !(x >= than); }

// Behind those that are as good. What is better than one of them is better than all behind it.
__device__ inline void insert(float* best, float rank, float place, float score) {
    bool here = is_better(rank, best[SS_TOPK - 1]);
#pragma unroll
    for (int i = SS_TOPK - 1; i > 0; --i) {
        const bool before = is_better(rank, best[i - 1]);
        if (here) {
            best[i] = before ? best[i - 1] : rank;
            best[SS_TOPK + i] = before ? best[SS_TOPK + i - 1] : place;
            if (SS_RANKED) best[2 * SS_TOPK + i] = before ? best[2 * SS_TOPK + i - 1] : score;
        }
        here = before;
    }
    if (here) best[0] = rank, best[SS_TOPK] = place;
    if (SS_RANKED && here) best[2 * SS_TOPK] = score;
}

// The last candidate that a query kept in the pass before: what is as good and comes before it is there already.
struct Last {
    float rank;
    int place;
};

__device__ inline bool comes_behind(const Last& last, float rank, int place) {
    return SS_KEPT == SS_TOPK || rank > last.rank || (rank == last.rank && place > last.place);
}

// The queries of a consumer, a byte of each word for each of them, as registers are few.
struct Askers {
    unsigned row, column;  // of the reach: where the query's window begins; SS_NOWHERE without a query
    unsigned before_row, before_column;  // rows and columns of the window before its centre
};

#define SS_NOWHERE 255u

// Candidates that were good enough when they came: of each query SS_WAIT entries, the first come the first to go. An
// entry is a score and a place; those of a tile's queries lie side by side.
struct Queue {
    Address entries;
    const float* penalties;
};

// What waits for a consumer's queries.
struct Waiting {
    unsigned count;  // entries, a byte for each query
    unsigned next[SS_COLUMN];  // where the next one goes, in bytes
};

#define SS_ENTRIES (SS_TILE_X * SS_TILE_Y * (unsigned)sizeof(float2))

__device__ inline float2* entry_of(const Queue& queue, unsigned at, int r) {
    return shared_at<float2>(queue.entries + at) + r * SS_TILE_X;
}

// `at` or, where it lies before or behind the entries of a queue, the one from the other end: what is less than 0 is a
// large number.
__device__ inline unsigned wrapped(unsigned at, unsigned other) { return min(at, other); }

__device__ inline void push(const Queue& queue, Waiting& w, int r, float score, int place) {
    *entry_of(queue, w.next[r], r) = {score, __int_as_float(place)};
    w.count += 1u << 8 * r;
    w.next[r] = wrapped(w.next[r] + SS_ENTRIES, w.next[r] - (SS_WAIT - 1) * SS_ENTRIES);
}

__device__ inline float2 pop(const Queue& queue, Waiting& w, int r) {
    const unsigned first = w.next[r] - byte_of(w.count, r) * SS_ENTRIES;
    w.count -= 1u << 8 * r;
    return *entry_of(queue, wrapped(first, first + SS_WAIT * SS_ENTRIES), r);
}

__device__ inline void begin_pass(float* best, Last* last, Waiting& w, bool first, int query) {
    w.count = 0;
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        const float *const worst = best + r * SS_BEST + SS_TOPK - 1;
        if (SS_KEPT > SS_TOPK) last[r] = {first ? -infinite() : worst[0], first ? -1 : __float_as_int(worst[SS_TOPK])};
#pragma unroll
        for (int i = 0; i < SS_BEST; ++i) best[r * SS_BEST + i] = nothing();
        w.next[r] = query * sizeof(float2);
    }
}

// `row` and `column` of the reach.
__device__ inline float rank_of(float score, int row, int column, const Askers& a, int r, const Slot& slot,
                                const float* penalties) {
    if (!SS_RANKED) return score;
    if (SS_ANCHOR == 1 && slot.own && slot.reach.y + row == 0 && slot.reach.x + column == 0) return -infinite();
    const int down = row - byte_of(a.row, r) - byte_of(a.before_row, r);
    const int across = column - byte_of(a.column, r) - byte_of(a.before_column, r);
    if (SS_ANCHOR == 2 && down == 0 && across == 0) return -infinite();
    return SS_PENALTY ? plus(score, penalties[abs(down) * SS_WINDOW_X + abs(across)]) : score;
}

// Lets in what waits of query r, one of each thread at a time, as far as it is still good enough, until no thread has a
// count of which `many` has a bit.
__device__ inline void let_in(float* best, const Last& last, const Queue& queue, Waiting& w, const Askers& a, int r,
                              unsigned many, const Slot& slot) {
#pragma unroll 1
    while (__any_sync(SS_ALL, w.count & many & 255u << 8 * r)) {
        if (byte_of(w.count, r) == 0) continue;
        const float2 entry = pop(queue, w, r);
        const float score = entry.x < infinite() ? entry.x : infinite();
        const int place = __float_as_int(entry.y);
        const float rank = rank_of(score, place >> 8 & 255, place & 255, a, r, slot, queue.penalties);
        if (comes_behind(last, rank, place)) insert(best, rank, entry.y, score);
    }
}

// The same for each of a consumer's queries.
__device__ inline void let_in(float* best, const Last* last, const Queue& queue, Waiting& w, const Askers& a,
                              unsigned many, const Slot& slot) {
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) let_in(best + r * SS_BEST, last[r], queue, w, a, r, many, slot);
}

// From sums along rows to scores of SS_COLUMN queries, one below the other.
__device__ inline void sums_down(const float* rows, float* scores) {
    float pair[SS_COLUMN / 2 + SS_PAIRS + 2];
#pragma unroll
    for (int i = 0; i < SS_COLUMN / 2 + (SS_PATCH - 1) / 2; ++i) pair[i] = plus(rows[2 * i], rows[2 * i + 1]);
#pragma unroll
    for (int i = 0; i < SS_COLUMN / 2; ++i) {
        const float last = rows[2 * (i + SS_PAIRS)];
        scores[2 * i] = even_sum(pair + i, last);
        scores[2 * i + 1] = odd_sum(pair + i, rows[2 * i + 1], last);
    }
}

#define SS_FLUSHED_BY 3  // displacements between looks at the queues
#define SS_MANY 0x04040404u  // of a count, the bit that says that not as many have room

// Bit d: whether displacement d of a step is in the window of query r.
__device__ inline unsigned candidates_of(const Askers& a, int r, const Step& step) {
    const int row = step.dy - byte_of(a.row, r), skipped = byte_of(a.column, r) - step.dx;
    const unsigned ahead = 0xffffffffu << min(max(skipped, 0), 31);
    const int end = min(max(skipped + SS_WINDOW_X, 0), 31);
    return row >= 0 && row < SS_WINDOW_Y ? ahead & ~(0xffffffffu << end) : 0;
}

// One step of what was produced, for the queries below (y, x).
__device__ inline void consume(float* best, const Last* last, Waiting& w, const Askers& a, const Queue& queue,
                               const float* sums, const Step& step, const Slot& slot, int y, int x, const Sizes& s) {
    sums += step.half * SS_SUMS + step.plane * SS_SUMS_PLANE;
    unsigned candidates[SS_COLUMN];
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) candidates[r] = candidates_of(a, r, step);
#pragma unroll 1
    for (int start = 0; start < step.n; start += SS_FLUSHED_BY) {
#pragma unroll
        for (int i = 0; i < SS_FLUSHED_BY; ++i) {
            const int d = start + i;
            if (d >= step.n) break;
            float rows[SS_COLUMN + SS_PATCH - 1], found[SS_COLUMN];
#pragma unroll
            for (int j = 0; j < SS_COLUMN + SS_PATCH - 1; ++j) rows[j] = sums[d * SS_SUMS_PLANE + j * SS_SUMS_ROW];
            sums_down(rows, found);
            const int dy = slot.reach.y + step.dy, dx = slot.reach.x + step.dx + d;
            const int place = (slot.number << 16 | step.dy << 8 | step.dx) + d;
            if (SS_SKIP == 1 && slot.own && dy == 0 && dx == 0) continue;
#pragma unroll
            for (int r = 0; r < SS_COLUMN; ++r) {
                const bool outside = !SS_ZEROS && !SS_SLIDE &&
                                     ((unsigned)(y + r + dy) >= (unsigned)s.kH || (unsigned)(x + dx) >= (unsigned)s.kW);
                if (outside || (SS_RANKED && !(found[r] < infinite()))) found[r] = infinite();
                if (!(candidates[r] & 1u << d)) continue;
                const float rank = rank_of(found[r], step.dy, step.dx + d, a, r, slot, queue.penalties);
                if (is_better(rank, best[r * SS_BEST + SS_TOPK - 1]))  // or no number, which then becomes infinite
                    push(queue, w, r, found[r], place);
            }
        }
        if (__any_sync(SS_ALL, w.count & SS_MANY)) let_in(best, last, queue, w, a, SS_MANY, slot);
    }
}

// Does the `work` of consumers with all steps of a slot, as far as they are in `part` of its reach; it is told whether
// a step is the first of them in its row. Consumers also stage rows of k, each in place of one that nobody needs.
template <class Work>
__device__ inline void consume_all(const Ring& ring, const Slot& slot, const Part& part, int thread, const Sizes& s,
                                   const Work& work) {
    Steps steps(slot.reach);
#pragma unroll 1
    for (int dy = 0; dy < slot.reach.tall; ++dy) {
#pragma unroll 1
        for (steps.begin(dy); steps.left(); steps.go_on()) {
            meet();  // producers are one step ahead
            const Step some = within(steps.now, part);
            if (some.n) work(some, steps.now.dx <= part.x);
        }
        if (dy + 2 < slot.reach.tall)
            stage(ring, dy + SS_KEPT_ROWS, slot, s.F, thread, SS_THREADS - SS_PRODUCERS);
    }
    meet();
}

#endif
