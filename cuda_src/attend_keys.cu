// Attention to all places of the windows, from the side of the keys: gradients by k and v. See attend.cuh.
//
//   attend_reach   boxes (B, groups, T, windows, rectangles, 4): of each rectangle of queries and slot the pixels that
//                  their windows have: first row and column, last row and column. `crowds`: the same of SS_CROWD
//                  rectangles together
//   attend_keys    k_grad (B, T, G * F, H, W) and v_grad (B, T, G * FV, H, W)
//
// Adding from many queries to one pixel would need atomics, and give sums that differ from run to run. Instead a warp
// with a rectangle of keys looks for all queries whose windows have some of it, by the boxes of many and then of few,
// and goes through them one by one, in the order of frames and rectangles.
#include "attend.cuh"

#define SS_CROWD 32  // rectangles

// --- boxes -----------------------------------------------------------------------------------------
struct Box {
    int top, left, bottom, right;
};

__device__ inline bool meet(const Box& a, const Box& b) {
    return a.top <= b.bottom && b.top <= a.bottom && a.left <= b.right && b.left <= a.right;
}

__device__ inline int least(int x) {
    for (int apart = 16; apart; apart /= 2) x = min(x, __shfl_xor_sync(SS_ALL, x, apart));
    return x;
}

// The smallest box that has those of all lanes in it.
__device__ inline Box joined(const Box& box) {
    return {least(box.top), least(box.left), -least(-box.bottom), -least(-box.right)};
}

__device__ inline Box no_box() { return {0x7fffffff, 0x7fffffff, -1, -1}; }

// Pixels from `first` on that a window has along an axis of n, in [0, n).
__device__ inline int first_inside(Whole first, int n) { return (int)(first < 0 ? 0 : first < n ? first : n); }
__device__ inline int last_inside(Whole first, int window, int n) {
    const Whole last = first + (Whole)SS_STEP * (window - 1);
    return (int)(last < 0 ? -1 : last < n ? last : n - 1);
}

__device__ inline Box box_of(const First& first, const Sizes& s) {
    return {first_inside(first.y, s.kH), first_inside(first.x, s.kW), last_inside(first.y, SS_WINDOW_Y, s.kH),
            last_inside(first.x, SS_WINDOW_X, s.kW)};
}

__device__ inline int crowds_of(const Grid& grid) { return (grid.across * grid.down + SS_CROWD - 1) / SS_CROWD; }

// Where the boxes of a clip's frame and slot begin, counted in frames and slots.
__device__ inline long long line_of(const Share& share, int slot, const Sizes& s, const Around& a) {
    const long long group = (long long)share.b * a.groups + (a.groups > 1 ? share.g : 0);
    return (group * s.T + share.t) * a.windows + slot;
}

// A warp has a crowd of one frame and slot.
extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_reach(const SS_AROUND* around, int* boxes, int* crowds, const Sizes s, const Around a, int B) {
    const Grid grid = grid_of(s.h, s.w);
    const int rects = grid.across * grid.down, lane = threadIdx.x % 32;
    long long i = (long long)blockIdx.x * SS_WARPS + threadIdx.x / 32;
    const int crowd = (int)(i % crowds_of(grid));
    i /= crowds_of(grid);
    const int slot = (int)(i % a.windows);
    i /= a.windows;
    const Share share = {(int)(i / s.T / a.groups), (int)(i / s.T % a.groups), (int)(i % s.T), 0};
    if (share.b >= B) return;
    Box mine = no_box();  // lane n has that of rectangle n of the crowd
#pragma unroll 1
    for (int n = 0; n < SS_CROWD && crowd * SS_CROWD + n < rects; ++n) {
        const Pixel at = pixel_of(grid, crowd * SS_CROWD + n);
        Box box = no_box();
        if (at.y < s.h && at.x < s.w) box = box_of(window_of(share, at, slot, around, s, a), s);
        box = joined(box);
        if (lane == n) mine = box;
    }
    const long long line = line_of(share, slot, s, a);
    if (crowd * SS_CROWD + lane < rects)
        reinterpret_cast<Box*>(boxes)[line * rects + crowd * SS_CROWD + lane] = mine;
    const Box all = joined(mine);
    if (lane == 0) reinterpret_cast<Box*>(crowds)[line * crowds_of(grid) + crowd] = all;
}

// --- queries ---------------------------------------------------------------------------------------
#define SS_ACCS (16 / (int)sizeof(SS_ACC))  // in 16 bytes
#define SS_ROW (SS_LANES * (SS_NUMBERS + SS_NUMBERS_V) + SS_ACCS)  // of a query in shared memory; rows in other banks

// A query of a rectangle: where its window begins, and what its weights depend on.
struct StagedQuery {
    SS_ACC most, share, mean;
    Whole y, x;
};

// A rectangle of queries in the shared memory of a warp: their numbers of q and of the gradient that arrives, and more.
struct StagedQueries {
    SS_ACC* numbers;
    StagedQuery* about;

    // The numbers of a lane's part of a query: those of q, or behind them those that arrive.
    __device__ SS_ACC* of(int query, int n, bool arrives) const {
        const int lane = threadIdx.x % SS_LANES, first = arrives ? SS_LANES * SS_NUMBERS : 0;
        return numbers + query * SS_ROW + first + (n / SS_ACCS * SS_LANES + lane) * SS_ACCS + n % SS_ACCS;
    }

    template <int count> __device__ void put(int query, bool arrives, const SS_ACC* from) const {
#pragma unroll
        for (int n = 0; n < count; ++n) *of(query, n, arrives) = from[n];
    }

    template <int count> __device__ void take(int query, bool arrives, SS_ACC* to) const {
#pragma unroll
        for (int n = 0; n < count; n += SS_ACCS) load_few(of(query, n, arrives), to + n);
    }
};

// Arrays that are read.
struct Given {
    const SS_SCALAR *q, *grad;
    const SS_AROUND* around;
    const SS_ACC *sums, *means;
};

// Stages the queries of a rectangle, and returns a bit for each whose window has some of a box.
__device__ inline unsigned stage_queries(const StagedQueries& staged, const Given& given, const Share& share, int slot,
                                       const Grid& grid, const Box& box, const Sizes& s, const Around& a) {
    const Pixel at = pixel_of(grid, share.rect);
    const int number = threadIdx.x % 32 / SS_LANES;
    bool meets = false;
    if (at.y < s.h && at.x < s.w) {
        const First first = window_of(share, at, slot, given.around, s, a);
        meets = meet(box_of(first, s), box);
        const long long pixels = (long long)s.kH * s.kW;
        const long long clip = ((long long)share.b * s.G + share.g) * s.T + share.t;
        const long long query = (clip * s.h + at.y) * s.w + at.x;
        const int pixel = at.y * SS_STRIDE * s.kW + at.x * SS_STRIDE;
        SS_ACC mine[SS_NUMBERS], arrives[SS_NUMBERS_V];
        Frame<SS_PARTS>(given.q, share, share.t, s.T, pixels, s.G).load(pixel, mine);
        Frame<SS_PARTS_V>(given.grad, share, share.t, s.T, pixels, s.G).load(pixel, arrives);
        staged.put<SS_NUMBERS>(number, false, mine);
        staged.put<SS_NUMBERS_V>(number, true, arrives);
        if (threadIdx.x % SS_LANES == 0)
            staged.about[number] = {given.sums[2 * query], 1 / given.sums[2 * query + 1], given.means[query], first.y,
                                   first.x};
    }
    __syncwarp();
    return __ballot_sync(SS_ALL, meets && threadIdx.x % SS_LANES == 0);
}

// --- keys ------------------------------------------------------------------------------------------
// A key's thread: its pixel, what k and v are there, and the sums of their gradients.
struct Key {
    Pixel at;
    SS_ACC k[SS_NUMBERS], v[SS_NUMBERS_V], k_grad[SS_NUMBERS], v_grad[SS_NUMBERS_V];
};

// Whether a window of so many candidates that begins at `first` has a pixel, along an axis.
__device__ inline bool has(Whole first, int window, int pixel) {
    const Whole way = pixel - first;
    return way >= 0 && way <= (Whole)SS_STEP * (window - 1) && (SS_STEP == 1 || way % (Whole)SS_STEP == 0);
}

// Adds what a staged query adds.
__device__ inline void add_query(Key& key, const StagedQueries& staged, int number, const Pixel& query, int slot,
                                 SS_ACC factor) {
    const StagedQuery about = staged.about[number];
    SS_ACC mine[SS_NUMBERS], arrives[SS_NUMBERS_V], change[SS_NUMBERS];
    staged.take<SS_NUMBERS>(number, false, mine);
    staged.take<SS_NUMBERS_V>(number, true, arrives);
#pragma unroll
    for (int n = 0; n < SS_NUMBERS; ++n) change[n] = key.k[n];
    const SS_ACC score = sum_of_lanes(compare(mine, change));
    const SS_ACC by_weight = sum_of_lanes(product<SS_NUMBERS_V>(arrives, key.v));
    const bool counts = !is_left_out(slot, query, key.at.y, key.at.x);
    SS_ACC weight = exp(logit_of(score, factor, counts) - about.most) * about.share;
    if (!(has(about.y, SS_WINDOW_Y, key.at.y) && has(about.x, SS_WINDOW_X, key.at.x))) weight = 0;
    if (weight == 0) return;
    add_scaled<SS_NUMBERS_V>(key.v_grad, weight, arrives);
    const SS_ACC by_score = counts ? weight * (by_weight - about.mean) * factor : 0;
    if (by_score != 0) add_scaled<SS_NUMBERS>(key.k_grad, SS_L2 ? -2 * by_score : by_score, SS_L2 ? change : mine);
}

// Adds what all queries of a frame add that look at this one in a slot. `queries`: that frame.
__device__ inline void add_frame(Key& key, const StagedQueries& staged, const Given& given, Share queries, int slot,
                                 const Box& box, const Box* boxes, const Box* crowds, SS_ACC factor, const Sizes& s,
                                 const Around& a) {
    const Grid grid = grid_of(s.h, s.w);
    const int rects = grid.across * grid.down, lane = threadIdx.x % 32;
    const long long line = line_of(queries, slot, s, a);
    boxes += line * rects, crowds += line * crowds_of(grid);
#pragma unroll 1
    for (int first = 0; first < crowds_of(grid); first += 32) {
        unsigned some = __ballot_sync(SS_ALL, first + lane < crowds_of(grid) && meet(crowds[first + lane], box));
#pragma unroll 1
        for (; some; some &= some - 1) {
            const int in_crowd = (first + __ffs(some) - 1) * SS_CROWD;
            unsigned few = __ballot_sync(SS_ALL, in_crowd + lane < rects && meet(boxes[in_crowd + lane], box));
#pragma unroll 1
            for (; few; few &= few - 1) {
                queries.rect = in_crowd + __ffs(few) - 1;
                const Pixel corner = first_of(grid, queries.rect);
                unsigned meeting = stage_queries(staged, given, queries, slot, grid, box, s, a);
#pragma unroll 1
                for (; meeting; meeting &= meeting - 1) {
                    const int number = (__ffs(meeting) - 1) / SS_LANES;
                    const Pixel query = {corner.y + number / SS_RECT_X, corner.x + number % SS_RECT_X};
                    add_query(key, staged, number, query, slot, factor);
                }
                __syncwarp();
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_keys(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_SCALAR* grad, const SS_AROUND* around,
            const SS_ACC* scales, const SS_ACC* sums, const SS_ACC* means, const int* boxes, const int* crowds,
            SS_SCALAR* k_grad, SS_SCALAR* v_grad, SS_ACC factor, const Sizes s, const Around a, int B, int FV) {
    extern __shared__ float4 memory[];
    const Grid grid = grid_of(s.kH, s.kW);
    Share share;
    if (!share_of(grid, B, s.kT, s, &share)) return;
    const int warp = threadIdx.x / 32;
    SS_ACC* const numbers = reinterpret_cast<SS_ACC*>(memory);
    StagedQuery* const about = reinterpret_cast<StagedQuery*>(numbers + SS_WARPS * SS_RECT * SS_ROW);
    const StagedQueries staged = {numbers + warp * SS_RECT * SS_ROW, about + warp * SS_RECT};
    const Given given = {q, grad, around, sums, means};
    const long long pixels = (long long)s.kH * s.kW;
    const Pixel corner = first_of(grid, share.rect);
    const Box box = {corner.y, corner.x, min(corner.y + SS_RECT_Y, s.kH) - 1, min(corner.x + SS_RECT_X, s.kW) - 1};
    Key key;
    key.at = pixel_of(grid, share.rect);
    const bool exists = key.at.y < s.kH && key.at.x < s.kW;
    const int here = exists ? key.at.y * s.kW + key.at.x : 0;
    Frame<SS_PARTS>(k, share, share.t, s.kT, pixels, s.G).load(here, key.k);
    Frame<SS_PARTS_V>(v, share, share.t, s.kT, pixels, s.G).load(here, key.v);
    clear<SS_NUMBERS>(key.k_grad), clear<SS_NUMBERS_V>(key.v_grad);

    const int from = max(share.t - 2 * SS_RADIUS, 0), to = min(share.t + 2 * SS_RADIUS, s.T - 1);
#pragma unroll 1
    for (int i = 0; i < (to - from + 1) * a.windows; ++i) {
        const int t = from + i / a.windows, slot = i % a.windows;
        if (frame_of(t, slot, s) != share.t) continue;
        const Share queries = {share.b, share.g, t, 0};
        add_frame(key, staged, given, queries, slot, box, reinterpret_cast<const Box*>(boxes),
                  reinterpret_cast<const Box*>(crowds), factor_of(factor, scales, share.g), s, a);
    }
    if (!exists) return;
    store_pixel<SS_NUMBERS>(k_grad, share, s.kT, s.F, pixels, here, key.k_grad, s);
    store_pixel<SS_NUMBERS_V>(v_grad, share, s.kT, FV, pixels, here, key.v_grad, s);
}
