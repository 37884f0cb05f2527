// What consumers of search_subpixel.cu do: blend the scores of whole pixels into those of the places between them, and
// keep the best.
//
// A sample s is the sum of weights w times four pixels of k, and the weights add up to 1. So
//
//   product:              q * s       = sum of w * (q * k)
//   squared difference:   |q - s|**2  = sum of w * |q - k|**2 - sum over pairs of pixels of w * w' * |k - k'|**2
//
// and the same for sums over patches. Blended are scores of whole pixels, which all queries of a tile share. What is
// subtracted is the `spread` of the pixels that a sample lies between: spread.cu sums it once for each pixel of k.
// Offsets that all values have in common cancel before anything is squared, and where a place is whole, nothing is
// subtracted: then the score has the bits of the direct form.
//
// The blend is wrong by at most SS_ROUNDING times what is subtracted from. Where that is more than SS_TOLERANCE of what
// is left, or what is left is no number, the candidate is *open*, and ranks by the least that its score can be. When
// all have been seen, the open ones among the best are scored directly. If one of them is then no better than the last
// was, others may be better: such a query is left to search.cu.
//
// Constants: SS_ROUNDING, SS_TOLERANCE.
#ifndef SS_BLEND_CUH
#define SS_BLEND_CUH

#include "consume.cuh"
#include "patch_score.cuh"

#define SS_MOST_OF_IT ((float)(SS_TOLERANCE / SS_ROUNDING))  // that a score may be subtracted from

// As `axis_around`, unless flow leads more than a frame beyond the frame: then -1 candidates come before the centre.
// There is one of it in a program, so that doubles do not take the registers of what is there all the time.
__device__ __noinline__ Axis axis_near(int window, int at, SS_AROUND way, int n) {
    double x = moved_from(at, way);
    const double period = 2.0 * (n - 1);
    if (!SS_ZEROS && n > 1 && (x <= -period || x >= __dadd_rn(period, period))) return {0, -1};
    if (!SS_ZEROS && n == 1) x = 0;
    if (!SS_ZEROS && (x < 0 || x > n - 1)) {
        if (x < 0) x = __dadd_rn(x, period);
        if (x >= period) x = __dadd_rn(x, -period);
        if (x > n - 1) x = __dadd_rn(period, -x);
    }
    return window_at(SS_WINDOW_Y == SS_WINDOW_X ? SS_WINDOW_X : window, x, n);
}

__device__ inline Axis axis_of(const SS_AROUND* flow, bool down, int y, int x, const Sizes& s) {
    const SS_AROUND* const way = flow ? flow + (down ? (long long)s.h * s.w : 0) + (long long)y * s.w + x : 0;
    return axis_near(down ? SS_WINDOW_Y : SS_WINDOW_X, down ? y : x, way ? *way : (SS_AROUND)0, down ? s.kH : s.kW);
}

// Along an axis: the displacement of the pixel at or next behind the first candidate of a window, and its share, which
// is more than 0.
struct Corner {
    int displacement;
    float share;
};

__device__ inline Corner corner_of(const Axis& axis, int at) {
    const Spot first = spot_at(position(axis, 0));
    const bool between = first.behind > 0;
    return {(int)first.pixel + between - at, between ? (float)first.behind : 1.f};
}

#define SS_BESIDE SS_FLUSHED_BY  // columns of a spread on either side of its frame
#define SS_OPEN (1 << 15)  // of a place, whose row of the reach has seven bits

// What a consumer knows of query r of its own, in shared memory, as registers are few: the shares of its corners in a
// slot, and what the displacement before gave in the same row.
struct Notes {
    float* first;  // [4][SS_COLUMN][consumers]

    __device__ float& at(int what, int r) const {
        return first[(what * SS_COLUMN + r) * (SS_THREADS - SS_PRODUCERS)];
    }
    __device__ float& share_y(int r) const { return at(0, r); }
    __device__ float& share_x(int r) const { return at(1, r); }
    __device__ float& score(int r) const { return at(2, r); }
    __device__ float& spread(int r) const { return at(3, r); }

    // Before that, the first displacements of its window.
    __device__ float& begin_y(int r) const { return at(2, r); }
    __device__ float& begin_x(int r) const { return at(3, r); }
};

#define SS_QUERIES (SS_TILE_X * SS_TILE_Y)
#define SS_NOTES (4 * SS_COLUMN * (SS_THREADS - SS_PRODUCERS))

// Sums over patches of squared differences of neighbouring pixels of k, of a frame of H x W and what spread.cu adds.
struct Spread {
    const float4* first;
    int H, W;

    // Those at pixel (y, x) and on its right. Far outside of the frame, where no candidate is, they are any numbers.
    __device__ const float4* at(int y, int x) const {
        const int row = min(max(y, 0), H - 1), column = min(max(x, -SS_BESIDE), W) + SS_BESIDE;
        return first + (long long)row * (W + 2 * SS_BESIDE) + column;
    }
};

// What of its spread a sample has, by its shares: that of its upper left pixel n, and `below` of the one on the right.
struct Weights {
    float right, below, across, right_below, below_right;

    __device__ Weights(float y, float x) {
        const float up = 1 - y, left = 1 - x, along = left * x, down = up * y;
        right = along * (up * up), right_below = along * (y * y);
        below = down * (left * left), below_right = down * (x * x);
        across = along * down;
    }

    __device__ float left(const float4& n) const {
        return right * n.x + below * n.y + across * n.z + right_below * n.w;
    }
};

// Whether a candidate of query (y, x), which is so much behind a pixel, lies outside of a mirrored frame.
__device__ inline bool lies_outside(int corner, float share, int n) {
    return share < 1 ? corner < 1 || corner > n - 1 : corner < 0 || corner > n - 1;
}

// A candidate that may be good enough: `whole` less what there is `between` its pixels is its score.
struct Blended {
    float whole, between;
    int place;
    bool outside;
};

__device__ inline void enqueue(const Queue& queue, Waiting& w, int r, float worst, const Blended& found) {
    float score = found.whole - found.between;
    bool open = !isfinite(found.whole) || (SS_L2 && !(found.whole <= SS_MOST_OF_IT * score));
    if (open) score -= (float)SS_ROUNDING * found.whole;
    if (open && !(score < infinite())) score = -infinite();  // what is beside it, without weight, may be no number
    if (found.outside) score = infinite(), open = false;
    if (is_better(score, worst)) push(queue, w, r, score, open ? found.place | SS_OPEN : found.place);
}

// The first n of SS_FLUSHED_BY displacements of a step, from `start` on, for the query r below (y, x).
__device__ inline void blend(float worst, Waiting& w, const Askers& a, const Notes& notes, float* above,
                             const Queue& queue, const float (*found)[SS_COLUMN], int r, int start, int n,
                             const Spread& spread, const Step& step, const Slot& slot, int y, int x,
                             const Sizes& s) {
    const float share_y = notes.share_y(r), share_x = notes.share_x(r);
    const int row = step.dy - byte_of(a.row, r), dy = slot.reach.y + step.dy, dx = slot.reach.x + step.dx + start;
    // what a whole place does not need may not have been produced
    const bool in_rows = row >= -(share_y < 1) && row < SS_WINDOW_Y;
    const int first = step.dx + start - byte_of(a.column, r), end = in_rows ? max(min(SS_WINDOW_X, first + n), 0) : 0;
    const Weights weights(share_y, share_x);
    const float4* const spreads = SS_L2 ? spread.at(y + r + dy - 1, x + dx) : 0;
    float* const waits = above + r * SS_TILE_X + first * SS_QUERIES;
    float left = notes.score(r), on_left = notes.spread(r), spread_left[SS_FLUSHED_BY];
#pragma unroll
    for (int i = 0; i < SS_FLUSHED_BY; ++i) {
        Blended blended = {0, 0, 0, false};
        if (SS_L2) {
            const float4 sums = spreads[i];
            blended.between = on_left + weights.below_right * sums.y;
            on_left = spread_left[i] = weights.left(sums);
        }
        const float across = share_x * found[i][r] + (share_x < 1 ? (1 - share_x) * left : 0);
        left = found[i][r];
        const bool inside = (unsigned)(first + i) < (unsigned)end;
        const float waited = inside ? waits[i * SS_QUERIES] : 0;
        blended.whole = share_y * across + (1 - share_y) * waited;
        if (inside) waits[i * SS_QUERIES] = across;
        const float least = (SS_L2 ? (float)(1 - SS_ROUNDING) : 1) * blended.whole - blended.between;
        if (!inside || !is_better(least, worst) || row < 0) continue;
        blended.place = slot.number << 16 | step.dy << 8 | (step.dx + start + i);
        if (SS_SKIP == 1 && slot.own && dy == 0 && dx + i == 0 && share_y == 1 && share_x == 1) continue;
        blended.outside = !SS_ZEROS && !SS_SLIDE &&
                          (lies_outside(y + r + dy, share_y, s.kH) || lies_outside(x + dx + i, share_x, s.kW));
        enqueue(queue, w, r, worst, blended);
    }
    notes.score(r) = n > 2 ? found[2][r] : n > 1 ? found[1][r] : found[0][r];
    if (SS_L2) notes.spread(r) = n > 2 ? spread_left[2] : n > 1 ? spread_left[1] : spread_left[0];
}

// One step of what was produced, for the queries below (y, x). `above`: where blends of the row before wait. `begins`:
// it is the first of its row.
__device__ inline void consume_blended(float* best, Waiting& w, const Askers& a, const Notes& notes, float* above,
                                       const Queue& queue, const float* sums, const Spread& spread, const Step& step,
                                       const Slot& slot, int y, int x, bool begins, const Sizes& s) {
    sums += step.half * SS_SUMS + step.plane * SS_SUMS_PLANE;
    if (begins)
#pragma unroll
        for (int r = 0; r < SS_COLUMN; ++r) notes.score(r) = 0, notes.spread(r) = 0;
    const Last none[SS_COLUMN] = {};
#pragma unroll 1
    for (int start = 0; start < step.n; start += SS_FLUSHED_BY) {
        const int n = step.n - start;
        float found[SS_FLUSHED_BY][SS_COLUMN] = {};
#pragma unroll
        for (int i = 0; i < SS_FLUSHED_BY; ++i) {
            if (i >= n) break;
            float rows[SS_COLUMN + SS_PATCH - 1];
#pragma unroll
            for (int j = 0; j < SS_COLUMN + SS_PATCH - 1; ++j)
                rows[j] = sums[(start + i) * SS_SUMS_PLANE + j * SS_SUMS_ROW];
            sums_down(rows, found[i]);
        }
#pragma unroll
        for (int r = 0; r < SS_COLUMN; ++r)
            blend(best[r * SS_BEST + SS_TOPK - 1], w, a, notes, above, queue, found, r, start, n, spread, step, slot, y,
                  x, s);
        if (__any_sync(SS_ALL, w.count & SS_MANY)) let_in(best, none, queue, w, a, SS_MANY, slot);
    }
}

#endif
