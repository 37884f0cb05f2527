// The best candidates in a window around each query's shifted place, in each frame that it looks at.
//
//   scores   (B, G, T, h, w, K) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)) of the kept places n,
//            best first; phi is the product or, with SS_L2, the squared difference
//   offsets  (B, G, T, h, w, K, 3) = n - r
//   seed     (B, G, T, h, w, K), with SS_SEEDS: the slot of each
//   around   flow (B, groups, T, slots, 2, h, w) with channel 0 = dx, 1 = dy, or with SS_SEEDS offsets (B, G, T, h, w,
//            slots, 3): where the windows lie
//   q, k     (B, T, G * F, H, W) with any strides
//
// One warp per query at a time, a lane per candidate, the best in topk.cuh; the window is never stored. Candidate
// number s * window**2 + i * window + j is in row i and column j of the window in slot s. Windows that neighbours share
// are what search_tiles.cu and search_subpixel.cu are for; with SS_MARKED only those queries are searched here
// that they left.
//
// Constants: SS_PATCH, SS_DILATION, SS_STRIDE, SS_SCALE (pixels of q for one of k), SS_ZEROS, SS_QUERY_ZEROS (1:
// nothing lies outside of frames of k and q; 0: they are mirrored), SS_L2, SS_WINDOW, SS_STEP, SS_RADIUS,
// SS_FIRST_SLOT, SS_SLIDE, SS_SUBPIXEL, SS_PENALTY, SS_TOPK (0: all), SS_PER_FRAME, SS_ANCHOR (1 self, 2 flow),
// SS_SKIP (1 leaves self out, 2 makes it infinite), SS_VECTORS of clip.cuh, SS_TILE_X and SS_TILE_Y (of tiles),
// SS_REGISTERS or SS_ROOM of topk.cuh, SS_SHARED (1: its buffers are in shared memory).
#include "patch_score.cuh"
#include "topk.cuh"

#define SS_WARPS 4
#define SS_WINDOW_SIZE (SS_WINDOW * SS_WINDOW)

// Heads that have a flow of their own, or 1; slots that `around` leads to; windows of a query, also without flow.
struct Around {
    int groups, slots, windows;
};

// Everything that is the same for all candidates of a query.
struct Task {
    long long number;  // of the query
    Query r;
    Plane mine;
    const SS_SCALAR* k;
    const SS_AROUND* around;
    Strides strides;
    int lane;
};

// --- windows --------------------------------------------------------------------------------------
struct Window {
    int frame;
    Axis y, x;
};

// The frame that a seed leads to from frame t: rounded, half to even.
__device__ inline int frame_after(int t, SS_AROUND dt, const Sizes& s) {
    int sign;
    return (int)mirror(__dadd_rn((double)t, rint(finite_or_zero((double)dt))), s.kT, &sign);
}

// The window of a query in slot s.
__device__ inline Window window_of(const Task& task, int slot, const Sizes& s, const Around& a) {
    const Query& r = task.r;
    Window window;
    SS_AROUND dy = 0, dx = 0;
    if (SS_SEEDS) {
        const SS_AROUND* seed = task.around + (task.number * a.slots + slot) * 3;
        window.frame = frame_after(r.t, seed[0], s);
        dy = seed[1], dx = seed[2];
    } else {
        const int slot_of_clip = slot + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - a.slots;
        window.frame = frame_of_slot((int)r.t, slot_of_clip, s.kT, SS_RADIUS);
        if (slot_of_clip >= followed) {
            const long long plane = (long long)s.h * s.w, group = (long long)r.b * a.groups + (a.groups > 1 ? r.g : 0);
            const long long before = (group * s.T + r.t) * a.slots + slot_of_clip - followed;
            const SS_AROUND* flow = task.around + before * 2 * plane + task.number % plane;
            dx = flow[0], dy = flow[plane];
        }
    }
    window.y = axis_around(r.y, dy, s.kH);
    window.x = axis_around(r.x, dx, s.kW);
    return window;
}

// --- ranks ----------------------------------------------------------------------------------------
// A candidate whose rank is known, whether it is there at all, and whether it is the query itself.
struct Ranked {
    Candidate candidate;
    bool there, itself;
};

__device__ inline Ranked ranked(const Task& task, SS_ACC score, const Window& window, int slot, int number, bool there,
                                const Sizes& s) {
    const int i = number / SS_WINDOW, j = number % SS_WINDOW, down = i - window.y.before, across = j - window.x.before;
    const Position y = position(window.y, i), x = position(window.x, j);
    Ranked found = {{0, score, slot * SS_WINDOW_SIZE + number}, there, false};
    found.itself = there && window.frame == task.r.t && y == task.r.y && x == task.r.x;
    if (!SS_ZEROS && (y < 0 || y > s.kH - 1 || x < 0 || x > s.kW - 1)) found.candidate.score = infinity();
    if (SS_SKIP == 2 && found.itself) found.candidate.score = infinity();
    if (!(found.candidate.score < infinity())) found.candidate.score = infinity();  // not a number
    found.candidate.rank = found.candidate.score;
    if (SS_PENALTY != 0)
        found.candidate.rank += (SS_ACC)(SS_PENALTY * ((double)SS_STEP * SS_STEP * (down * down + across * across)));
    if (SS_ANCHOR == 2 && down == 0 && across == 0) found.candidate.rank = -infinity();
    if (SS_SKIP == 1 && found.itself) found.there = false;
    return found;
}

// The candidates `start + lane` of a slot, one per lane. `found_self`: whether an earlier one was the query itself.
__device__ inline Ranked candidates(const Task& task, const Window& window, int slot, int start, bool* found_self,
                                    const Sizes& s) {
    const int number = start + task.lane, any = number < SS_WINDOW_SIZE ? number : 0;
    const Spot y = spot_at(position(window.y, any / SS_WINDOW)), x = spot_at(position(window.x, any % SS_WINDOW));
    const Plane k = plane_of_k(task.k, task.r.b, task.r.g, window.frame, s, task.strides);
    Ranked found = ranked(task, score_of(task.r, task.mine, k, y, x, s), window, slot, any, number < SS_WINDOW_SIZE, s);
    if (SS_ANCHOR == 1) {  // the first that is the query itself
        const unsigned itself = __ballot_sync(SS_ALL, found.itself);
        if (!*found_self && itself && task.lane == __ffs(itself) - 1) found.candidate.rank = -infinity();
        *found_self = *found_self || itself;
    }
    return found;
}

// --- results --------------------------------------------------------------------------------------
struct Results {
    SS_ACC* scores;
    SS_PLACE* offsets;
    int* seed;
};

__device__ inline void keep(const Task& task, const Candidate& c, long long to, const Results& out, const Sizes& s,
                            const Around& a) {
    const int slot = c.number / SS_WINDOW_SIZE, i = c.number / SS_WINDOW % SS_WINDOW, j = c.number % SS_WINDOW;
    const Window window = window_of(task, slot, s, a);
    out.scores[to] = SS_L2 ? c.score + 0 : 0 - c.score;  // never -0, of which the sign would depend on the form
    out.offsets[3 * to] = (SS_PLACE)(window.frame - task.r.t);
    out.offsets[3 * to + 1] = away_from(task.r.y, position(window.y, i));
    out.offsets[3 * to + 2] = away_from(task.r.x, position(window.x, j));
    if (SS_SEEDS) out.seed[to] = slot;
}

#if SS_TOPK == 0
// Keeps every candidate in order, behind those that are anchored.
__device__ inline void search_query(const Task& task, Candidate*, const Results& out, const Sizes& s,
                                    const Around& a) {
    long long to = task.number * s.K;
    for (int turn = SS_ANCHOR ? 0 : 1; turn < 2; ++turn) {
        bool found_self = false;
        for (int slot = 0; slot < a.windows; ++slot) {
            const Window window = window_of(task, slot, s, a);
            for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
                const Ranked found = candidates(task, window, slot, start, &found_self, s);
                const bool anchored = SS_ANCHOR && found.candidate.rank == -infinity();
                const unsigned chosen = __ballot_sync(SS_ALL, found.there && anchored == (turn == 0));
                const int before = __popc(chosen & ((1u << task.lane) - 1));
                if (chosen >> task.lane & 1) keep(task, found.candidate, to + before, out, s, a);
                to += __popc(chosen);
            }
        }
    }
}
#else
// Keeps the best of all slots, or of each.
__device__ inline void search_query(const Task& task, Candidate* buffer, const Results& out,
                                    const Sizes& s, const Around& a) {
    long long to = task.number * s.K;
    TopK topk;
    bool found_self = false;
    topk.start(buffer);
    for (int slot = 0; slot < a.windows; ++slot) {
        const Window window = window_of(task, slot, s, a);
        for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
            const Ranked found = candidates(task, window, slot, start, &found_self, s);
            topk.add(found.candidate, found.there, task.lane);
        }
        if (!SS_PER_FRAME && slot < a.windows - 1) continue;
        topk.sort(task.lane);
        for (int e = task.lane; e < SS_TOPK; e += 32) keep(task, topk.entry(e), to + e, out, s, a);
        to += SS_TOPK;
        __syncwarp();
        topk.start(buffer);
    }
}
#endif

// Whether a query has to be searched here: its tile is marked, or a score that search_subpixel.cu left is no number.
__device__ inline bool is_left(int tile_mark, const SS_ACC* scores, int K) {
    bool left = tile_mark;
    for (int e = 0; SS_SUBPIXEL && !left && e < K; e += SS_TOPK) left = isnan(scores[e]);
    return left;
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
search(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, SS_ACC* scores, SS_PLACE* offsets, int* seed,
       unsigned char* buffers, const int* wild, const Sizes s, const Strides strides, const Around a,
       long long count) {
    extern __shared__ Candidate shared_buffers[];
    if (SS_MARKED && wild[0] == 0) return;
    const int across = (s.w + SS_TILE_X - 1) / SS_TILE_X, down = (s.h + SS_TILE_Y - 1) / SS_TILE_Y;
    const int warp = threadIdx.x / 32;
    const long long first = (long long)blockIdx.x * SS_WARPS + warp, warps = (long long)gridDim.x * SS_WARPS;
    Candidate* buffer = SS_SHARED ? shared_buffers + warp * SS_ROOM : (Candidate*)buffers + first * SS_ROOM;
    const Results out = {scores, offsets, seed};
    for (long long number = first; number < count; number += warps) {
        const Query r = query_of(number, s);
        const int clip = (r.b * s.G + r.g) * s.T + r.t;
        const int tile = (clip * down + r.y / SS_TILE_Y) * across + r.x / SS_TILE_X;
        if (SS_MARKED && !is_left(wild[1 + tile], scores + number * s.K, s.K)) continue;
        const Plane mine = plane_of_q(q, r.b, r.g, r.t, s, strides);
        const Task task = {number, r, mine, k, around, strides, (int)threadIdx.x % 32};
        search_query(task, buffer, out, s, a);
    }
}
