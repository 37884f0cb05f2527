// The best candidates in a window around each query's shifted place, in each frame that it looks at.
//
// scores (B, G, T, h, w, KEPT) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)) for the kept places n,
// offsets (..., 3) = n - r, origin (...) = the slot of each. q (B, T, SS_SCALE * H, SS_SCALE * W, G * F), k (B, T, H,
// W, G * F). around: flow (B, groups, T, S, 2, h, w) with channel 0 = dx, 1 = dy, or with SS_SEEDS offsets (B, G, T, h,
// w, S, 3).
//
// One warp per query at a time, a lane per candidate; the window is never stored. Constants beside those of place.cuh:
// SS_WINDOW, SS_STEP, SS_RADIUS, SS_FIRST_SLOT, SS_SLIDE, SS_SUBPIXEL, SS_PENALTY, SS_TOPK (0: all), SS_PER_FRAME,
// SS_ANCHOR (1 self, 2 flow), SS_SKIP (1 leaves self out, 2 makes it infinite), SS_PIXELS and SS_CHUNK (as many pixels
// and channels of a query's patch are staged at a time), SS_REGISTERS or SS_ROOM of topk.cuh, SS_SHARED (1: bags in
// shared memory).
#include "place.cuh"
#include "topk.cuh"

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

// Everything that is the same for all candidates of a query.
struct Task {
    const SS_SCALAR *q_frame, *k;
    const SS_AROUND* around;
    Query r;
    int G, groups, T, F, H, W, h, w, S, lane;
};

// The window of slot s of a query.
__device__ inline Window ss_window(const Task& t, int s) {
    const Query& r = t.r;
    Window window;
    double dy = 0, dx = 0;
    if (SS_SEEDS) {
        const long long query = (((r.b * t.G + r.g) * t.T + r.t) * t.h + r.y) * t.w + r.x;
        const SS_AROUND* seed = t.around + (query * t.S + s) * 3;
        int sign;
        window.frame = (int)ss_mirror(__dadd_rn((double)r.t, rint(ss_finite((double)seed[0]))), t.T, &sign);
        dy = (double)seed[1], dx = (double)seed[2];
    } else {
        const int slot = s + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - t.S;
        window.frame = ss_frame((int)r.t, slot, t.T, SS_RADIUS);
        if (slot >= followed) {
            const long long plane = (long long)t.h * t.w, group = r.b * t.groups + (t.groups > 1 ? r.g : 0);
            const long long before = (group * t.T + r.t) * t.S + slot - followed;
            const SS_AROUND* flow = t.around + before * 2 * plane + r.y * t.w + r.x;
            dx = (double)flow[0], dy = (double)flow[plane];
        }
    }
    window.y = ss_axis(r.y * SS_STRIDE, dy, t.H);
    window.x = ss_axis(r.x * SS_STRIDE, dx, t.W);
    return window;
}

// Part of a query's patch that all lanes need, in shared memory.
typedef SS_ACC Patch[SS_PIXELS][SS_CHUNK];

// Pixel `number` of the patch: relative to its query, and in the query's frame.
struct Pixel {
    long long dy, dx, y, x;
};

__device__ inline Pixel ss_patch_pixel(const Task& t, int number) {
    Pixel p = {ss_pixel(number / SS_PATCH), ss_pixel(number % SS_PATCH), 0, 0};
    p.y = SS_SCALE * t.r.y * SS_STRIDE + p.dy, p.x = SS_SCALE * t.r.x * SS_STRIDE + p.dx;
    return p;
}

// Puts the pixels and channels from `pixel` and `channel` on into shared memory; zeros behind the last channel.
__device__ inline void ss_stage(Patch& patch, const Task& t, int pixel, int channel) {
    __syncwarp();
    for (int i = t.lane; i < SS_PIXELS * SS_CHUNK; i += 32) {
        const int c = i % SS_CHUNK, number = pixel + i / SS_CHUNK;
        if (number >= SS_PATCH * SS_PATCH) break;
        const Pixel p = ss_patch_pixel(t, number);
        const SS_SCALAR* from = ss_query_pixel(t.q_frame, p.y, p.x, SS_SCALE * t.H, SS_SCALE * t.W, t.G * t.F);
        patch[i / SS_CHUNK][c] = from && channel + c < t.F ? (SS_ACC)ss_load(from + channel + c) : (SS_ACC)0;
    }
    __syncwarp();
}

// Distance of what is staged from the same at a place, smaller is better.
__device__ inline SS_ACC ss_distance(const Patch& patch, const Task& t, const SS_SCALAR* frame, const Place& place,
                                     int pixel, int channel) {
    const int left = SS_PATCH * SS_PATCH - pixel, pixels = left < SS_PIXELS ? left : SS_PIXELS;
    const int channels = t.F - channel < SS_CHUNK ? t.F - channel : SS_CHUNK;
    SS_ACC sum = 0;
    for (int i = 0; i < pixels; ++i) {
        const Pixel p = ss_patch_pixel(t, pixel + i);
        if (SS_ZEROS && (p.y < 0 || p.y >= SS_SCALE * t.H || p.x < 0 || p.x >= SS_SCALE * t.W)) continue;
        const Sample theirs = ss_sample(frame + channel, place, p.dy, p.dx, t.H, t.W, t.G * t.F);
        if (!theirs.exists) continue;
        for (int c = 0; c < channels; ++c) {
            const SS_ACC u = patch[i][c], v = ss_value(theirs, c);
            sum += SS_L2 ? (u - v) * (u - v) : -u * v;
        }
    }
    return sum;
}

// A candidate with all that decides its rank. Its number is s * window**2 + i * window + j in slot s.
struct Judged {
    Candidate candidate;
    bool there, itself;
};

__device__ inline Judged ss_judge(const Task& t, SS_ACC score, const Window& window, int s, int number, bool there) {
    const int i = number / SS_WINDOW, j = number % SS_WINDOW;
    const double y = ss_candidate(window.y, i), x = ss_candidate(window.x, j);
    const double down = i - window.y.before, across = j - window.x.before;
    Judged judged = {{0, score, s * SS_WINDOW_SIZE + number}, there, false};
    judged.itself = there && window.frame == t.r.t && y == t.r.y * SS_STRIDE && x == t.r.x * SS_STRIDE;
    if (!SS_ZEROS && (y < 0 || y > t.H - 1 || x < 0 || x > t.W - 1)) judged.candidate.score = ss_infinity();
    if (SS_SKIP == 2 && judged.itself) judged.candidate.score = ss_infinity();
    if (!(judged.candidate.score < ss_infinity())) judged.candidate.score = ss_infinity();  // not a number
    const double away = (double)SS_STEP * SS_STEP * (down * down + across * across);
    judged.candidate.rank = judged.candidate.score + (SS_ACC)(SS_PENALTY * away);
    if (SS_ANCHOR == 2 && down == 0 && across == 0) judged.candidate.rank = -ss_infinity();
    if (SS_SKIP == 1 && judged.itself) judged.there = false;
    return judged;
}

// Score of a candidate per lane. The first ones of a query stage its patch, which stays there if all of it fits.
__device__ inline SS_ACC ss_scores(const Task& t, const Window& window, int number, bool first, Patch& patch) {
    const double y = ss_candidate(window.y, number / SS_WINDOW), x = ss_candidate(window.x, number % SS_WINDOW);
    const Place place = ss_at(window.frame, y, x, t.H, t.W);
    const SS_SCALAR* frame = t.k + (t.r.b * t.T + window.frame) * (long long)t.H * t.W * t.G * t.F + t.r.g * t.F;
    const bool in_parts = t.F > SS_CHUNK || SS_PATCH * SS_PATCH > SS_PIXELS;
    SS_ACC score = 0;
    for (int channel = 0; channel < t.F; channel += SS_CHUNK) {
        for (int pixel = 0; pixel < SS_PATCH * SS_PATCH; pixel += SS_PIXELS) {
            if (in_parts || first) ss_stage(patch, t, pixel, channel);
            score += ss_distance(patch, t, frame, place, pixel, channel);
        }
    }
    return score;
}

// The candidates `start + lane` of slot s, one per lane. `found_self` says whether an earlier one was the query itself.
__device__ inline Judged ss_candidates(const Task& t, const Window& window, int s, int start, Patch& patch,
                                       bool* found_self) {
    const int number = start + t.lane;
    const bool there = number < SS_WINDOW_SIZE;
    const SS_ACC score = ss_scores(t, window, there ? number : 0, s == 0 && start == 0, patch);
    Judged judged = ss_judge(t, score, window, s, number, there);
    if (SS_ANCHOR == 1) {  // the first that is the query itself
        const unsigned itself = __ballot_sync(SS_ALL, judged.itself);
        if (!*found_self && itself && t.lane == __ffs(itself) - 1) judged.candidate.rank = -ss_infinity();
        *found_self = *found_self || itself;
    }
    return judged;
}

__device__ inline void ss_write(const Task& t, const Candidate& c, long long to, SS_ACC* scores, SS_PLACE* offsets,
                                int* origin) {
    const int s = c.number / SS_WINDOW_SIZE, i = c.number / SS_WINDOW % SS_WINDOW, j = c.number % SS_WINDOW;
    const Window window = ss_window(t, s);
    scores[to] = SS_L2 ? c.score : -c.score;
    offsets[3 * to] = (SS_PLACE)(window.frame - t.r.t);
    offsets[3 * to + 1] = (SS_PLACE)__dadd_rn(ss_candidate(window.y, i), -(double)(t.r.y * SS_STRIDE));
    offsets[3 * to + 2] = (SS_PLACE)__dadd_rn(ss_candidate(window.x, j), -(double)(t.r.x * SS_STRIDE));
    origin[to] = s + SS_FIRST_SLOT;
}

#if SS_TOPK == 0
// Every candidate in order, behind those that are anchored.
__device__ inline void ss_query_windows(const Task& t, int slots, long long to, Patch& patch, Candidate*, SS_ACC* scores,
                                 SS_PLACE* offsets, int* origin) {
    for (int turn = SS_ANCHOR ? 0 : 1; turn < 2; ++turn) {
        bool found_self = false;
        for (int s = 0; s < slots; ++s) {
            const Window window = ss_window(t, s);
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
__device__ inline void ss_query_windows(const Task& t, int slots, long long to, Patch& patch, Candidate* memory,
                                 SS_ACC* scores, SS_PLACE* offsets, int* origin) {
    Best best;
    bool found_self = false;
    best.start(memory);
    for (int s = 0; s < slots; ++s) {
        const Window window = ss_window(t, s);
        for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
            const Judged judged = ss_candidates(t, window, s, start, patch, &found_self);
            best.offer(judged.candidate, judged.there, t.lane);
        }
        if (!SS_PER_FRAME && s < slots - 1) continue;
        best.finish(t.lane);
        for (int e = t.lane; e < SS_TOPK; e += 32) ss_write(t, best.entry(e), to + e, scores, offsets, origin);
        to += SS_TOPK;
        __syncwarp();
        best.start(memory);
    }
}
#endif

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
ss_search(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, SS_ACC* scores, SS_PLACE* offsets,
          int* origin, unsigned char* memory, int G, int groups, int T, int F, int H, int W, int h, int w, int S,
          int slots, int kept, long long count) {
    __shared__ SS_ACC patches[SS_WARPS][SS_PIXELS][SS_CHUNK];
    extern __shared__ Candidate bags[];
    const int warp = threadIdx.x / 32;
    const long long first = (long long)blockIdx.x * SS_WARPS + warp, warps = (long long)gridDim.x * SS_WARPS;
    Candidate* bag = SS_SHARED ? bags + warp * SS_ROOM : (Candidate*)memory + first * SS_ROOM;
    for (long long query = first; query < count; query += warps) {
        Task t = {0, k, around, ss_query(query, G, T, h, w, 1), G, groups, T, F, H, W, h, w, S, (int)threadIdx.x % 32};
        t.q_frame = q + (t.r.b * T + t.r.t) * SS_SCALE * H * SS_SCALE * W * G * F + t.r.g * F;
        ss_query_windows(t, slots, query * kept, patches[warp], bag, scores, offsets, origin);
    }
}
