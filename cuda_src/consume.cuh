// What consumers of search_tiles.cu do: sum what was produced down the columns of patches, and keep the best.
#ifndef SS_CONSUME_CUH
#define SS_CONSUME_CUH

#include "pairs.cuh"
#include "query_tile.cuh"

// --- consumers: the best of a query ---------------------------------------------------------------
// best[0 ... SS_TOPK - 1] are ranks, in order, then come as many places, and with SS_RANKED scores. A place is written
// as slot << 16 | row << 8 | column of the reach.
__device__ inline float infinite() { return __int_as_float(0x7f800000); }
__device__ inline float nothing() { return __int_as_float(0x7fffffff); }  // no number: everything is better

__device__ inline bool is_better(float x, float than) { return !(x >= than); }

// Behind those that are as good.
__device__ inline void insert(float* best, bool here, float rank, float place, float score) {
    here = here && is_better(rank, best[SS_TOPK - 1]);
#pragma unroll
    for (int i = SS_TOPK - 1; i > 0; --i) {
        const bool before = is_better(rank, best[i - 1]);
        if (here) {
            best[i] = before ? best[i - 1] : rank;
            best[SS_TOPK + i] = before ? best[SS_TOPK + i - 1] : place;
            if (SS_RANKED) best[2 * SS_TOPK + i] = before ? best[2 * SS_TOPK + i - 1] : score;
        }
        here = here && before;
    }
    if (here) best[0] = rank, best[SS_TOPK] = place;
    if (SS_RANKED && here) best[2 * SS_TOPK] = score;
}

// The queries of a consumer, a byte of each word for each of them, as registers are few.
struct Askers {
    unsigned row, column;  // of the reach: where the query's window begins; SS_NOWHERE without a query
    unsigned before_row, before_column;  // rows and columns of the window before its centre
    unsigned waiting;  // entries of the query's queue
};

#define SS_NOWHERE 255u

__device__ inline int byte_of(unsigned word, int r) { return word >> 8 * r & 255; }

struct Slot {
    int number;
    bool own;  // the query's own frame
    Reach reach;
};

// Candidates that were good enough when they came: [SS_WAIT][SS_COLUMN][SS_OWNERS].
struct Queue {
    float* scores;
    unsigned short* places;  // row << 8 | column of the reach
    const float* penalties;
};

// `row` and `column` of the reach.
__device__ inline float rank_of(float score, int row, int column, const Askers& a, int r, const Slot& slot,
                                const float* penalties) {
    if (!SS_RANKED) return score;
    if (SS_ANCHOR == 1 && slot.own && slot.reach.y + row == 0 && slot.reach.x + column == 0) return -infinite();
    const int down = row - byte_of(a.row, r) - byte_of(a.before_row, r);
    const int across = column - byte_of(a.column, r) - byte_of(a.before_column, r);
    if (SS_ANCHOR == 2 && down == 0 && across == 0) return -infinite();
    return SS_PENALTY != 0 ? plus(score, penalties[abs(down) * SS_WINDOW + abs(across)]) : score;
}

// All that waits of query r comes in, as far as it is still good enough.
__device__ inline void flush(float* best, const Queue& queue, int at, const Askers& a, int r, const Slot& slot) {
#pragma unroll 1
    for (int e = 0; __any_sync(SS_ALL, e < byte_of(a.waiting, r)); ++e) {
        const bool there = e < byte_of(a.waiting, r);
        const float found = there ? queue.scores[at + e * SS_QUEUE] : 0;
        const float score = found < infinite() ? found : infinite();
        const int place = there ? queue.places[at + e * SS_QUEUE] : 0;
        const float rank = there ? rank_of(score, place >> 8, place & 255, a, r, slot, queue.penalties) : score;
        insert(best, there, rank, __int_as_float(slot.number << 16 | place), score);
    }
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

// Bit d: whether displacement d of a step is in the window of query r.
__device__ inline unsigned candidates_of(const Askers& a, int r, const Step& step) {
    const int row = step.dy - byte_of(a.row, r), skipped = byte_of(a.column, r) - step.dx;
    const unsigned ahead = 0xffffffffu << min(max(skipped, 0), 31);
    const int end = min(max(skipped + SS_WINDOW, 0), 31);
    return row >= 0 && row < SS_WINDOW ? ahead & ~(0xffffffffu << end) : 0;
}

// One step of what was produced, for the queries below (y, x).
__device__ inline void consume(float* best, Askers& a, const Queue& queue, int at, const float* sums, const Step& step,
                               const Slot& slot, int y, int x, bool last, const Sizes& s) {
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
            if (SS_SKIP == 1 && slot.own && dy == 0 && dx == 0) continue;
#pragma unroll
            for (int r = 0; r < SS_COLUMN; ++r) {
                const bool outside = !SS_ZEROS && !SS_SLIDE &&
                                     ((unsigned)(y + r + dy) >= (unsigned)s.kH || (unsigned)(x + dx) >= (unsigned)s.kW);
                if (outside || (SS_RANKED && !(found[r] < infinite()))) found[r] = infinite();
                if (!(candidates[r] >> d & 1)) continue;
                const float rank = rank_of(found[r], step.dy, step.dx + d, a, r, slot, queue.penalties);
                if (is_better(rank, best[r * SS_BEST + SS_TOPK - 1])) {  // or no number, which then becomes infinite
                    const int to = at + r * SS_OWNERS + byte_of(a.waiting, r) * SS_QUEUE;
                    queue.scores[to] = found[r], queue.places[to] = step.dy << 8 | (step.dx + d);
                    a.waiting += 1u << 8 * r;
                }
            }
        }
        const int most = last && start + SS_FLUSHED_BY >= step.n ? 0 : SS_WAIT - SS_FLUSHED_BY;
#pragma unroll
        for (int r = 0; r < SS_COLUMN; ++r) {
            if (!__any_sync(SS_ALL, byte_of(a.waiting, r) > most)) continue;
            flush(best + r * SS_BEST, queue, at + r * SS_OWNERS, a, r, slot);
            a.waiting &= ~(255u << 8 * r);
        }
    }
}

#endif
