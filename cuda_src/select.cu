// The best candidates in a window around each query's shifted place, in each frame that it looks at.
//
// scores (B, G, T, h, w, KEPT) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)) for the kept places n,
// offsets (..., 3) = n - r, origin (...) = the slot of each. q (B, T, SS_SCALE * H, SS_SCALE * W, G * F), k (B, T, H, W,
// G * F). around: flow (B, groups, T, S, 2, h, w) with channel 0 = dx, 1 = dy, or with SS_SEEDS offsets (B, G, T, h, w, S, 3).
//
// One warp per query, a lane per candidate; the window is never stored. Constants beside those of place.cuh: SS_WINDOW,
// SS_STEP, SS_RADIUS, SS_FIRST_SLOT, SS_SLIDE, SS_SUBPIXEL, SS_PENALTY, SS_TOPK (0: all), SS_PER_FRAME, SS_REGISTERS,
// SS_CHUNK (channels of a patch that are staged), SS_ANCHOR (1 self, 2 flow), SS_SKIP (1 leaves self out, 2 makes it infinite).
#include "place.cuh"
#include "best.cuh"

#define SS_WARPS 4
#define SS_WINDOW_SIZE (SS_WINDOW * SS_WINDOW)

// Along one axis: the centre of a window, and how many of its candidates come before the centre.
struct Axis {
    double centre;
    int before;
};

__device__ inline double ss_candidate(const Axis& axis, int i) {
    return __dadd_rn(axis.centre, __dmul_rn(SS_STEP, (double)(i - axis.before)));
}

__device__ inline Axis ss_axis(long long at, double moved, int n) {
    const int half = (SS_WINDOW - 1) / 2, last = SS_WINDOW - 1;
    int sign;
    moved = fmin(fmax(ss_finite(moved), -SS_MOST), SS_MOST);
    if (!SS_SUBPIXEL) moved = rint(moved);
    Axis axis = {__dadd_rn((double)at, moved), half};
    if (!SS_ZEROS) axis.centre = ss_mirror(axis.centre, n, &sign);
    if (!SS_SLIDE) return axis;
    double before = half;
    if (__dadd_rn(axis.centre, -__dmul_rn(SS_STEP, (double)half)) < 0) before = floor(__ddiv_rn(axis.centre, SS_STEP));
    if (__dadd_rn(axis.centre, __dmul_rn(SS_STEP, last - before)) > n - 1)
        before = ceil(__dadd_rn(__ddiv_rn(__dadd_rn(axis.centre, -(n - 1.0)), SS_STEP), (double)last));
    axis.before = (int)fmin(fmax(before, 0.0), (double)last);
    return axis;
}

struct Window {
    int frame;
    Axis y, x;
};

// The window of slot s of a query.
__device__ inline Window ss_window(const SS_AROUND* around, const Query& r, int s, int G, int groups, int T, int S, int h, int w,
                                   int H, int W) {
    Window window;
    double dy = 0, dx = 0;
    if (SS_SEEDS) {
        const SS_AROUND* seed = around + ((((((r.b * G + r.g) * T + r.t) * h + r.y) * w + r.x) * S) + s) * 3;
        int sign;
        window.frame = (int)ss_mirror(__dadd_rn((double)r.t, rint(ss_finite((double)seed[0]))), T, &sign);
        dy = (double)seed[1], dx = (double)seed[2];
    } else {
        const int slot = s + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - S;
        window.frame = ss_frame((int)r.t, slot, T, SS_RADIUS);
        if (slot >= followed) {
            const long long plane = (long long)h * w, group = r.b * groups + (groups > 1 ? r.g : 0);
            const SS_AROUND* flow = around + ((group * T + r.t) * S + slot - followed) * 2 * plane + r.y * w + r.x;
            dx = (double)flow[0], dy = (double)flow[plane];
        }
    }
    window.y = ss_axis(r.y * SS_STRIDE, dy, H);
    window.x = ss_axis(r.x * SS_STRIDE, dx, W);
    return window;
}

// The part of a query's patch that all lanes need: SS_CHUNK channels of it, in shared memory.
typedef SS_ACC Patch[SS_PATCH * SS_PATCH][SS_CHUNK];

__device__ inline void ss_stage(Patch& patch, const SS_SCALAR* frame, const Query& r, int first, int F, int H, int W, int C, int lane) {
    __syncwarp();
    for (int i = lane; i < SS_PATCH * SS_PATCH * SS_CHUNK; i += 32) {
        const int c = i % SS_CHUNK, pixel = i / SS_CHUNK;
        const long long y = SS_SCALE * r.y * SS_STRIDE + ss_pixel(pixel / SS_PATCH);
        const long long x = SS_SCALE * r.x * SS_STRIDE + ss_pixel(pixel % SS_PATCH);
        const SS_SCALAR* from = ss_query_pixel(frame, y, x, SS_SCALE * H, SS_SCALE * W, C);
        patch[pixel][c] = from && first + c < F ? (SS_ACC)ss_load(from + first + c) : (SS_ACC)0;
    }
    __syncwarp();
}

// Distance of the staged channels from those at a place, smaller is better.
__device__ inline SS_ACC ss_distance(const Patch& patch, const SS_SCALAR* frame, const Place& place, const Query& r, int channels,
                                     int H, int W, int C) {
    SS_ACC sum = 0;
    for (int pixel = 0; pixel < SS_PATCH * SS_PATCH; ++pixel) {
        const long long dy = ss_pixel(pixel / SS_PATCH), dx = ss_pixel(pixel % SS_PATCH);
        const long long y = SS_SCALE * r.y * SS_STRIDE + dy, x = SS_SCALE * r.x * SS_STRIDE + dx;
        if (SS_ZEROS && (y < 0 || y >= SS_SCALE * H || x < 0 || x >= SS_SCALE * W)) continue;
        const Sample theirs = ss_sample(frame, place, dy, dx, H, W, C);
        if (!theirs.exists) continue;
        for (int c = 0; c < channels; ++c) {
            const SS_ACC u = patch[pixel][c], v = ss_value(theirs, c);
            sum += SS_L2 ? (u - v) * (u - v) : -u * v;
        }
    }
    return sum;
}

// One candidate per lane, number s * window**2 + i * window + j, with all that decides its rank.
struct Judged {
    Candidate candidate;
    bool there, itself, centre;
};

__device__ inline Judged ss_judge(SS_ACC score, const Window& window, const Query& r, int s, int i, int j, bool there, int H, int W) {
    const double y = ss_candidate(window.y, i), x = ss_candidate(window.x, j);
    const double down = i - window.y.before, across = j - window.x.before;
    Judged judged = {{0, score, s * SS_WINDOW_SIZE + i * SS_WINDOW + j}, there, false, i == window.y.before && j == window.x.before};
    judged.itself = there && window.frame == r.t && y == r.y * SS_STRIDE && x == r.x * SS_STRIDE;
    if (!SS_ZEROS && (y < 0 || y > H - 1 || x < 0 || x > W - 1)) judged.candidate.score = ss_infinity();
    if (SS_SKIP == 2 && judged.itself) judged.candidate.score = ss_infinity();
    if (!(judged.candidate.score < ss_infinity())) judged.candidate.score = ss_infinity();  // not a number
    const double away = (double)SS_STEP * SS_STEP * (down * down + across * across);
    judged.candidate.rank = judged.candidate.score + (SS_ACC)(SS_PENALTY * away);
    if (SS_ANCHOR == 2 && judged.centre) judged.candidate.rank = -ss_infinity();
    if (SS_SKIP == 1 && judged.itself) judged.there = false;
    return judged;
}

// Everything that is the same for all candidates of a query.
struct Task {
    const SS_SCALAR *q_frame, *k;
    const SS_AROUND* around;
    Query r;
    int G, groups, T, F, H, W, h, w, S, lane;
};

__device__ inline Window ss_window_of(const Task& t, int s) {
    return ss_window(t.around, t.r, s, t.G, t.groups, t.T, t.S, t.h, t.w, t.H, t.W);
}

// The candidates `start + lane` of slot s. `found_self` says whether an earlier one was the query itself.
__device__ inline Judged ss_candidates(const Task& t, const Window& window, int s, int start, Patch& patch, bool* found_self) {
    const int number = start + t.lane, i = number / SS_WINDOW, j = number % SS_WINDOW, C = t.G * t.F;
    const bool there = number < SS_WINDOW_SIZE;
    const Place place = ss_at(window.frame, ss_candidate(window.y, there ? i : 0), ss_candidate(window.x, there ? j : 0), t.H, t.W);
    const SS_SCALAR* k_frame = t.k + (t.r.b * t.T + window.frame) * (long long)t.H * t.W * C + t.r.g * t.F;
    SS_ACC score = 0;
    for (int first = 0; first < t.F; first += SS_CHUNK) {
        const int channels = t.F - first < SS_CHUNK ? t.F - first : SS_CHUNK;
        if (t.F > SS_CHUNK || (start == 0 && s == 0)) {
            ss_stage(patch, t.q_frame, t.r, first, t.F, t.H, t.W, C, t.lane);
        }
        score += ss_distance(patch, k_frame + first, place, t.r, channels, t.H, t.W, C);
    }
    Judged judged = ss_judge(score, window, t.r, s, i, j, there, t.H, t.W);
    if (SS_ANCHOR == 1) {  // the first that is the query itself
        const unsigned itself = __ballot_sync(SS_ALL, judged.itself);
        if (!*found_self && itself && t.lane == __ffs(itself) - 1) judged.candidate.rank = -ss_infinity();
        *found_self = *found_self || itself;
    }
    return judged;
}

__device__ inline void ss_write(const Task& t, const Candidate& c, long long to, SS_ACC* scores, SS_PLACE* offsets, int* origin) {
    const int s = c.number / SS_WINDOW_SIZE, i = c.number / SS_WINDOW % SS_WINDOW, j = c.number % SS_WINDOW;
    const Window window = ss_window_of(t, s);
    scores[to] = SS_L2 ? c.score : -c.score;
    offsets[3 * to] = (SS_PLACE)(window.frame - t.r.t);
    offsets[3 * to + 1] = (SS_PLACE)__dadd_rn(ss_candidate(window.y, i), -(double)(t.r.y * SS_STRIDE));
    offsets[3 * to + 2] = (SS_PLACE)__dadd_rn(ss_candidate(window.x, j), -(double)(t.r.x * SS_STRIDE));
    origin[to] = s + SS_FIRST_SLOT;
}

#if SS_TOPK == 0
// Every candidate in order, behind those that are anchored.
__device__ inline void ss_search(const Task& t, int slots, long long to, Patch& patch, Candidate*, SS_ACC* scores, SS_PLACE* offsets,
                                 int* origin) {
    for (int turn = SS_ANCHOR ? 0 : 1; turn < 2; ++turn) {
        bool found_self = false;
        for (int s = 0; s < slots; ++s) {
            const Window window = ss_window_of(t, s);
            for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
                const Judged judged = ss_candidates(t, window, s, start, patch, &found_self);
                const bool anchored = SS_ANCHOR && judged.candidate.rank == -ss_infinity();
                const unsigned chosen = __ballot_sync(SS_ALL, judged.there && anchored == (turn == 0));
                const int before = __popc(chosen & ((1u << t.lane) - 1));
                if (chosen >> t.lane & 1) ss_write(t, judged.candidate, to + before, scores, offsets, origin);
                to += __popc(chosen);
            }
        }
    }
}
#else
// The best of all slots, or of each.
__device__ inline void ss_search(const Task& t, int slots, long long to, Patch& patch, Candidate* memory, SS_ACC* scores,
                                 SS_PLACE* offsets, int* origin) {
    Best best;
    bool found_self = false;
    best.start(memory);
    for (int s = 0; s < slots; ++s) {
        const Window window = ss_window_of(t, s);
        for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
            const Judged judged = ss_candidates(t, window, s, start, patch, &found_self);
            ss_offer(best, judged.candidate, judged.there, t.lane);
        }
        if (!SS_PER_FRAME && s < slots - 1) continue;
        for (int e = t.lane; e < (SS_TOPK + 31) / 32 * 32; e += 32)
            if (e < SS_TOPK) ss_write(t, best.entry(e), to + e, scores, offsets, origin);
        to += SS_TOPK;
        __syncwarp();
        best.start(memory);
    }
}
#endif

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
ss_select(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, SS_ACC* scores, SS_PLACE* offsets, int* origin,
          unsigned char* memory, int G, int groups, int T, int F, int H, int W, int h, int w, int S, int slots, int kept, long long count) {
    __shared__ SS_ACC patches[SS_WARPS][SS_PATCH * SS_PATCH][SS_CHUNK];
    const int warp = threadIdx.x / 32;
    const long long query = (long long)blockIdx.x * SS_WARPS + warp;
    if (query >= count) return;  // a whole warp
    Task t = {0, k, around, ss_query(query, G, T, h, w, 1), G, groups, T, F, H, W, h, w, S, (int)threadIdx.x % 32};
    t.q_frame = q + (t.r.b * T + t.r.t) * SS_SCALE * H * SS_SCALE * W * G * F + t.r.g * F;
    Candidate* mine = SS_REGISTERS || !SS_TOPK ? 0 : (Candidate*)memory + query * SS_TOPK;
    ss_search(t, slots, query * kept, patches[warp], mine, scores, offsets, origin);
}
