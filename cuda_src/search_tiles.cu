// The whole-pixel search of search.cu, much faster: for tiles of queries whose windows overlap.
//
// A block has a tile of SS_TILE_X x SS_TILE_Y queries of one frame and head, that is 32 x SS_ROWS pixels with the
// margin of the patches, and looks at one displacement after the other: at one displacement, pixels are compared once
// and for all the patches that they belong to. For each slot it
//
// 1. finds the rectangle of all displacements that some query's window has (`Reach`); a tile whose rectangle is too
//    large to be worth it leaves its queries to search.cu: it counts itself in wild[0], and marks itself behind;
// 2. goes through the rectangle row by row, in steps of up to 9 displacements. In each step *producers*, threads with
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
#include "clip.cuh"
#include "pairs.cuh"
#include "video.cuh"
#include "whole.cuh"

#define SS_ALL 0xffffffffu
#define SS_PIXELS 32  // of a row
#define SS_MARGIN (SS_PATCH / 2)
#define SS_STRIPS ((SS_TILE_X + 3) / 4)  // of four pixels, that hold results
#define SS_GROUPS ((SS_TILE_Y + SS_COLUMN - 1) / SS_COLUMN)
#define SS_OWNERS (SS_TILE_X * SS_GROUPS)  // consumers with queries
#define SS_PRODUCERS (8 * SS_ROWS)  // threads; the others consume

// Shared memory: a ring of rows of k, sums along rows, and candidates that wait.
#define SS_PIXEL (SS_CHUNKS * SS_CHANNELS * (int)sizeof(SS_SCALAR))
#define SS_STRIP (4 * SS_PIXEL + 16)  // with 16 bytes between: eight strips of a row lie in different banks
#define SS_KEPT_ROWS (SS_ROWS + 1)
#define SS_MOST_AT_ONCE 9
#define SS_SUMS_ROW (4 * SS_STRIPS)
#define SS_SUMS_PLANE (SS_ROWS * SS_SUMS_ROW)
#define SS_SUMS (SS_MOST_AT_ONCE * SS_SUMS_PLANE + SS_COLUMN * SS_SUMS_ROW)  // the last queries' rows end below
#define SS_WAIT 8
#define SS_QUEUE (SS_OWNERS * SS_COLUMN)

#define SS_ENTRY (2 + SS_RANKED)  // numbers of a kept candidate: rank, where it is, perhaps its score
#define SS_BEST (SS_ENTRY * SS_TOPK)
#define SS_REGISTERS (SS_COLUMN * SS_BEST > 4 * SS_CHANNELS ? SS_COLUMN * SS_BEST : 4 * SS_CHANNELS)

struct Around {
    int groups, slots, windows;
};

struct Tile {
    int b, g, t, top, left;
};

// Displacements of a tile in a slot.
struct Reach {
    int y, x, tall, wide;
};

// Displacements (dy, dx) ... (dy, dx + n - 1) of a reach, and which half of the sums they are in.
struct Step {
    int dy, dx, n, half;
};

__device__ inline Tile tile_of(int number, const Sizes& s, int across, int down) {
    const int clip = number / (across * down), in_clip = number % (across * down);
    return {clip / s.T / s.G, clip / s.T % s.G, clip % s.T, in_clip / across * SS_TILE_Y, in_clip % across * SS_TILE_X};
}

// --- k in shared memory ---------------------------------------------------------------------------
struct Ring {
    char* rows;
    int strips;  // of a row

    __device__ char* row(int y) const { return rows + y % SS_KEPT_ROWS * strips * SS_STRIP; }
};

__device__ inline char* pixel_of(char* row, int x) { return row + x * SS_PIXEL + (x >> 2) * 16; }

__device__ inline SS_SCALAR zero() { return (SS_SCALAR)0.f; }

// Row y of the pixels that a tile needs, whose first is at (from_y, from_x) of the frame, by `threads` threads.
__device__ inline void stage(const Ring& ring, int y, const Plane& k, int F, int from_y, int from_x, int thread,
                             int threads) {
    char* const row = ring.row(y);
    const int v = from_y + y, there = SS_ZEROS ? min(max(v, 0), k.H - 1) : reflect(v, k.H);
#if SS_VECTORS
    const int parts = SS_PIXEL / 16;
#pragma unroll 1
    for (int i = thread; i < ring.strips * 4 * parts; i += threads) {
        const int x = i / parts, f = i % parts * SS_FEW, u = from_x + x;
        uint4 few = {0, 0, 0, 0};
        if (f < F && (!SS_ZEROS || k.has(v, u)))
            few = *reinterpret_cast<const uint4*>(k.at(there, SS_ZEROS ? u : reflect(u, k.W)) + f);
        *reinterpret_cast<uint4*>(pixel_of(row, x) + f * sizeof(SS_SCALAR)) = few;
    }
#else
    const int width = ring.strips * 4;
#pragma unroll 1
    for (int i = thread; i < width * SS_CHUNKS * SS_CHANNELS; i += threads) {
        const int x = i % width, f = i / width, u = from_x + x;
        SS_SCALAR one = zero();
        if (f < F && (!SS_ZEROS || k.has(v, u)))
            one = k.at(there, SS_ZEROS ? u : reflect(u, k.W))[(long long)f * k.channel];
        reinterpret_cast<SS_SCALAR*>(pixel_of(row, x))[f] = one;
    }
#endif
}

// --- producers ------------------------------------------------------------------------------------
// Four pixels of q in a row, of which bit i of `there` says whether pixel i is one of the frame.
struct Four {
    int y, x;
    unsigned there;
};

__device__ inline Four four_at(const Plane& q, int y, int x) {
    Four four = {y, x, 0};
#pragma unroll
    for (int j = 0; j < 4; ++j) four.there |= (unsigned)q.has(y, x + j) << j;
    return four;
}

// Their channels from `first` on.
__device__ inline void load_four(const Plane& q, const Four& four, int first, int F, float* to) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const bool there = !SS_ZEROS || (four.there >> j & 1);
        const SS_SCALAR* const from =
            there ? q.at(reflect(four.y, q.H), reflect(four.x + j, q.W)) : q.first;
#if SS_VECTORS
#pragma unroll
        for (int f = 0; f < SS_CHANNELS; f += SS_FEW) {
            const bool exists = there && first + f < F;
            load_few(exists ? from + first + f : q.first, to + j * SS_CHANNELS + f);
#pragma unroll
            for (int i = 0; i < SS_FEW; ++i) to[j * SS_CHANNELS + f + i] = exists ? to[j * SS_CHANNELS + f + i] : 0;
        }
#else
#pragma unroll
        for (int f = 0; f < SS_CHANNELS; ++f)
            to[j * SS_CHANNELS + f] = there && first + f < F ? load(from + (long long)(first + f) * q.channel) : 0;
#endif
    }
}

__device__ inline float pixel_sum(const float* q, const float* k) {
    float sum = 0;
#pragma unroll
    for (int f = 0; f < SS_CHANNELS; ++f) sum = add_pair(q[f], k[f], sum);
    return sum;
}

// From the distances of a row of pixels, four to a lane, to sums along the rows of patches: four queries'.
__device__ inline float4 sums_along(float a0, float a1, float a2, float a3) {
    const float even[2] = {a0, a2}, own[2] = {plus(a0, a1), plus(a2, a3)};
    float pair[SS_PAIRS + 3], last[2];
#pragma unroll
    for (int i = 0; i < 2 + (SS_PATCH - 1) / 2; ++i)
        pair[i] = i < 2 ? own[i % 2] : __shfl_down_sync(SS_ALL, own[i % 2], i / 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int at = i + SS_PAIRS;
        last[i] = at < 2 ? even[at % 2] : __shfl_down_sync(SS_ALL, even[at % 2], at / 2);
    }
    return {even_sum(pair, last[0]), odd_sum(pair, a1, last[0]), even_sum(pair + 1, last[1]),
            odd_sum(pair + 1, a3, last[1])};
}

// Compares four pixels with those at n displacements, of which the first are at k, and sums along rows. `inside`: of
// pixels of k from there on, whether they are of the frame.
__device__ inline void produce(const char* k, int first, int n, const float* q, unsigned there, int u, int W,
                               bool further, float* sums, bool holds) {
    float e0[4], e1[4], e2[4];
#pragma unroll 1
    for (int block = 0; block < n + 3; block += 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int x = block + i;
            if (x >= n + 3) break;
            float theirs[SS_CHANNELS], e3 = 0;
            const SS_SCALAR* const pixel =
                reinterpret_cast<const SS_SCALAR*>(k + (first + x) * SS_PIXEL + ((first + x) >> 2) * 16);
#pragma unroll
            for (int f = 0; f < SS_CHANNELS; f += SS_FEW) load_few(pixel + f, theirs + f);
            // pixel j meets displacement x - j
            if (x < n) e0[i] = pixel_sum(q, theirs);
            if (x >= 1 && x < n + 1) e1[i] = pixel_sum(q + SS_CHANNELS, theirs);
            if (x >= 2 && x < n + 2) e2[i] = pixel_sum(q + 2 * SS_CHANNELS, theirs);
            if (x >= 3) e3 = pixel_sum(q + 3 * SS_CHANNELS, theirs);
            if (SS_ZEROS) {
                const unsigned exist = (unsigned)(u + x) < (unsigned)W ? there : 0;
                if (!(exist & 1)) e0[i] = 0;
                if (!(exist & 2)) e1[i] = 0;
                if (!(exist & 4)) e2[i] = 0;
                if (!(exist & 8)) e3 = 0;
            }
            if (x < 3) continue;
            float4 found = sums_along(e0[(i + 1) & 3], e1[(i + 2) & 3], e2[(i + 3) & 3], e3);
            if (!holds) continue;
            float4* const to = reinterpret_cast<float4*>(sums + (x - 3) * SS_SUMS_PLANE);
            if (further) {
                const float4 before = *to;
                found = {plus(before.x, found.x), plus(before.y, found.y), plus(before.z, found.z),
                         plus(before.w, found.w)};
            }
            *to = found;
        }
    }
}

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

// --- windows --------------------------------------------------------------------------------------
// The window of a query in a slot, as displacements. Without flow nothing moves.
struct Window {
    Span y, x;
};

__device__ inline Window window_of(const SS_AROUND* flow, int y, int x, const Sizes& s) {
    const long long plane = (long long)s.h * s.w, at = (long long)y * s.w + x;
    Window window = {span_around(y, flow ? flow[plane + at] : (SS_AROUND)0, s.kH),
                     span_around(x, flow ? flow[at] : (SS_AROUND)0, s.kW)};
    window.y.first -= y, window.x.first -= x;
    return window;
}

__device__ inline const SS_AROUND* flow_of(const SS_AROUND* around, const Tile& tile, int slot, const Sizes& s,
                                           const Around& a) {
    const int in_clip = slot + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - a.slots;
    if (in_clip < followed) return 0;
    const long long group = (long long)tile.b * a.groups + (a.groups > 1 ? tile.g : 0);
    return around + ((group * s.T + tile.t) * a.slots + in_clip - followed) * 2 * s.h * s.w;
}

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

__device__ inline Askers askers_of(const Window* windows, unsigned exist, const Reach& reach) {
    Askers a = {0, 0, 0, 0, 0};
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
    const long long strips = (SS_PIXELS - 1 + wide + 3) / 4;
    return tall > 255 || wide > 255 || tall * wide > (long long)SS_BUDGET * SS_WINDOW * SS_WINDOW ||
           SS_KEPT_ROWS * strips * SS_STRIP > SS_RING;
}

// --- results --------------------------------------------------------------------------------------
// Where a slot's reach begins, from a query.
struct Begin {
    int t, y, x;
};

// The best of a consumer's queries, to shared memory.
__device__ inline void hand_over(float* found, int* places, const float* best, unsigned exist, int row, int column) {
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        if (!(exist >> r & 1)) continue;
        const int to = ((row + r) * SS_TILE_X + column) * SS_TOPK;
#pragma unroll
        for (int i = 0; i < SS_TOPK; ++i) {
            found[to + i] = best[r * SS_BEST + (SS_RANKED ? 2 * SS_TOPK : 0) + i];
            places[to + i] = __float_as_int(best[r * SS_BEST + SS_TOPK + i]);
        }
    }
}

// From there to the arrays, where the queries of a row lie one behind the other. `first`: of the kept ones of a query.
__device__ inline void write_results(const float* found, const int* places, const Begin* slots, const Tile& tile,
                                     int first, float* scores, int* offsets, const Sizes& s) {
    const int wide = min(SS_TILE_X, s.w - tile.left), tall = min(SS_TILE_Y, s.h - tile.top);
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
#pragma unroll 1
    for (int y = threadIdx.x / 32; y < tall; y += SS_THREADS / 32) {
        const long long query = (clip * s.h + tile.top + y) * s.w + tile.left;
#pragma unroll 1
        for (int i = threadIdx.x % 32; i < wide * SS_TOPK; i += 32) {
            const long long to = (query + i / SS_TOPK) * s.K + first + i % SS_TOPK;
            const float score = found[y * SS_TILE_X * SS_TOPK + i];
            scores[to] = SS_L2 ? plus(score, 0.f) : __fsub_rn(0, score);  // never -0
        }
#pragma unroll 1
        for (int i = threadIdx.x % 32; i < wide * SS_TOPK * 3; i += 32) {
            const int kept = i / 3, axis = i % 3, place = places[y * SS_TILE_X * SS_TOPK + kept];
            const Begin& slot = slots[place >> 16];
            const int offset = axis == 0 ? slot.t : axis == 1 ? slot.y + (place >> 8 & 255) : slot.x + (place & 255);
            offsets[((query + kept / SS_TOPK) * s.K + first + kept % SS_TOPK) * 3 + axis] = offset;
        }
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
    float* const waiting = sums + 2 * SS_SUMS;
    const Queue queue = {waiting, reinterpret_cast<unsigned short*>(waiting + SS_WAIT * SS_QUEUE), penalties};

    const Tile tile = tile_of(blockIdx.x, s, across, down);
    const Plane mine = plane_of_q(q, tile.b, tile.g, tile.t, s, m);
    if (SS_RANKED)
        for (int i = threadIdx.x; i < SS_WINDOW * SS_WINDOW; i += SS_THREADS) {
            const int rows = i / SS_WINDOW, columns = i % SS_WINDOW;  // from the centre
            penalties[i] = (float)(SS_PENALTY * (double)(rows * rows + columns * columns));
        }

    // Of a producer its pixels of q, of a consumer the best of its queries.
    float state[SS_REGISTERS];
    const bool producer = threadIdx.x < SS_PRODUCERS;
    const int strip = threadIdx.x % 8, line = threadIdx.x / 8;  // of a producer
    const bool holds = strip < SS_STRIPS;
    const Four four = four_at(mine, tile.top + line - SS_MARGIN, tile.left + 4 * strip - SS_MARGIN);
    const int consumer = producer ? 0 : (int)threadIdx.x - SS_PRODUCERS;
    const int owner = min(consumer, SS_OWNERS - 1), column = owner % SS_TILE_X, row = owner / SS_TILE_X * SS_COLUMN;
    const int y = tile.top + row, x = tile.left + column;
    unsigned exist = 0;
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r)
        exist |= (unsigned)(consumer < SS_OWNERS && row + r < SS_TILE_Y && y + r < s.h && x < s.w) << r;
    if (producer) load_four(mine, four, 0, s.F, state);

#pragma unroll 1
    for (int number = 0; number < a.windows; ++number) {
        const int frame = frame_of_slot(tile.t, number + SS_FIRST_SLOT, s.kT, SS_RADIUS);
        const Plane theirs = plane_of_k(k, tile.b, tile.g, frame, s, m);
        if (threadIdx.x < 4) limits[threadIdx.x] = 0x7fffffff;
        __syncthreads();
        Window windows[SS_COLUMN];
        if (!producer) {
            const SS_AROUND* const flow = flow_of(around, tile, number, s, a);
#pragma unroll
            for (int r = 0; r < SS_COLUMN; ++r) windows[r] = window_of(flow, min(y + r, s.h - 1), min(x, s.w - 1), s);
            widen(limits, windows, exist);
            if (number == 0 || SS_PER_FRAME)
#pragma unroll
                for (int i = 0; i < SS_COLUMN * SS_BEST; ++i) state[i] = nothing();
        }
        __syncthreads();
        const long long tall = -(long long)limits[2] - limits[0] + SS_WINDOW;
        const long long wide = -(long long)limits[3] - limits[1] + SS_WINDOW;
        if (too_wide(tall, wide)) {
            if (threadIdx.x == 0) wild[1 + blockIdx.x] = 1, atomicAdd(wild, 1);
            return;
        }
        const Slot slot = {number, frame == tile.t, {limits[0], limits[1], (int)tall, (int)wide}};
        Askers askers = askers_of(windows, producer ? 0 : exist, slot.reach);
        const int from_y = tile.top - SS_MARGIN + slot.reach.y, from_x = tile.left - SS_MARGIN + slot.reach.x;
        const Ring ring = {pool, (SS_PIXELS - 1 + slot.reach.wide + 3) / 4};
        if (threadIdx.x == 0) slots[number] = {frame - tile.t, slot.reach.y, slot.reach.x};
#pragma unroll 1
        for (int y = threadIdx.x / 32; y < SS_ROWS; y += SS_THREADS / 32)
            stage(ring, y, theirs, s.F, from_y, from_x, threadIdx.x % 32, 32);
        __syncthreads();

        Step now = {0, 0, 0, 0}, before = now;
#pragma unroll 1
        for (int dy = 0, dx = 0; dy < slot.reach.tall || before.n; before = now) {
            now = {dy, dx, dy < slot.reach.tall ? min(SS_MOST_AT_ONCE, slot.reach.wide - dx) : 0, before.half ^ 1};
            if (producer && now.n) {
                const bool inside = !SS_ZEROS || (unsigned)(from_y + line + dy) < (unsigned)s.kH;
#pragma unroll 1
                for (int chunk = 0; chunk < SS_CHUNKS; ++chunk) {
                    if (SS_CHUNKS > 1) load_four(mine, four, chunk * SS_CHANNELS, s.F, state);
                    produce(ring.row(line + dy) + strip * SS_STRIP + chunk * SS_CHANNELS * sizeof(SS_SCALAR), dx, now.n,
                            state, inside ? four.there : 0, from_x + 4 * strip + dx, s.kW, chunk > 0,
                            sums + now.half * SS_SUMS + line * SS_SUMS_ROW + 4 * strip, holds);
                }
            }
            if (!producer) {
                if (dx == 0 && dy + 1 < slot.reach.tall)
                    stage(ring, dy + SS_ROWS, theirs, s.F, from_y, from_x, consumer, SS_THREADS - SS_PRODUCERS);
                const float* const produced = sums + before.half * SS_SUMS + row * SS_SUMS_ROW + column;
                if (before.n)
                    consume(state, askers, queue, owner, produced, before, slot, y, x, dy >= slot.reach.tall, s);
            }
            dx += now.n;
            if (dx >= slot.reach.wide) dx = 0, ++dy;
            __syncthreads();
        }

        if (!SS_PER_FRAME && number < a.windows - 1) continue;
        float* const found = reinterpret_cast<float*>(pool);
        int* const places = reinterpret_cast<int*>(found + SS_TILE_X * SS_TILE_Y * SS_TOPK);
        if (!producer) hand_over(found, places, state, exist, row, column);
        __syncthreads();
        write_results(found, places, slots, tile, SS_PER_FRAME ? number * SS_TOPK : 0, scores, offsets, s);
    }
}
