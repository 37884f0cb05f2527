// The best candidates in a window around each query's shifted place, in each frame that it looks at.
//
//   scores   (B, G, T, h, w, K) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)) of the kept places n,
//            best first; phi as in form.cuh
//   offsets  (B, G, T, h, w, K, 3) = n - r
//   seed     (B, G, T, h, w, K), with SS_SEEDS: the slot of each
//   around   flow (B, groups, T, slots, 2, h, w) with channel 0 = dx, 1 = dy, or with SS_SEEDS offsets (B, G, T, h, w,
//            slots, 3): where the windows lie
//   q, k     as in video.cuh
//
// One warp per query at a time, a lane per candidate, the best in topk.cuh; the window is never stored. Candidate
// number s * window**2 + i * window + j is in row i and column j of the window in slot s.
//
// Constants beside those of place.cuh: SS_WINDOW, SS_STEP, SS_RADIUS, SS_FIRST_SLOT, SS_SLIDE, SS_SUBPIXEL,
// SS_PENALTY, SS_TOPK (0: all), SS_PER_FRAME, SS_ANCHOR (1 self, 2 flow), SS_SKIP (1 leaves self out, 2 makes it
// infinite), SS_PIXELS and SS_CHUNK (as many pixels and channels of a query's patch are staged at a time),
// SS_REGISTERS or SS_ROOM of topk.cuh, SS_SHARED (1: its buffers are in shared memory).
#include "form.cuh"
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
    Frame mine;
    const SS_SCALAR* k;
    const SS_AROUND* around;
    int lane;
};

// --- windows --------------------------------------------------------------------------------------
// Along one axis: the centre of a window, and how many of its candidates come before the centre.
struct Axis {
    double centre;
    int before;
};

struct Window {
    int frame;
    Axis y, x;
};

// Position of the candidate in row (or column) i.
__device__ inline double position(const Axis& axis, int i) {
    return __dadd_rn(axis.centre, __dmul_rn(SS_STEP, (double)(i - axis.before)));
}

// The window around pixel `at` moved by flow, along an axis of n. With SS_SLIDE it slides into the frame.
__device__ inline Axis axis_around(int at, double moved, int n) {
    const int half = (SS_WINDOW - 1) / 2, last = SS_WINDOW - 1;
    int sign;
    moved = fmin(fmax(finite_or_zero(moved), -SS_MOST), SS_MOST);
    if (!SS_SUBPIXEL) moved = rint(moved);
    Axis axis = {__dadd_rn((double)at, moved), half};
    if (!SS_ZEROS) axis.centre = mirror(axis.centre, n, &sign);
    if (!SS_SLIDE) return axis;
    double before = half;
    if (__dadd_rn(axis.centre, -__dmul_rn(SS_STEP, (double)half)) < 0) before = floor(__ddiv_rn(axis.centre, SS_STEP));
    if (__dadd_rn(axis.centre, __dmul_rn(SS_STEP, last - before)) > n - 1)
        before = ceil(__dadd_rn(__ddiv_rn(__dadd_rn(axis.centre, -(n - 1.0)), SS_STEP), (double)last));
    axis.before = (int)fmin(fmax(before, 0.0), (double)last);
    return axis;
}

// The window of a query in slot s.
__device__ inline Window window_of(const Task& task, int slot, const Sizes& s, const Around& a) {
    const Query& r = task.r;
    Window window;
    double dy = 0, dx = 0;
    if (SS_SEEDS) {
        const SS_AROUND* seed = task.around + (task.number * a.slots + slot) * 3;
        window.frame = frame_after(r.t, seed[0], s);
        dy = (double)seed[1], dx = (double)seed[2];
    } else {
        const int slot_of_clip = slot + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - a.slots;
        window.frame = frame_of_slot((int)r.t, slot_of_clip, s.kT, SS_RADIUS);
        if (slot_of_clip >= followed) {
            const long long plane = (long long)s.h * s.w, group = (long long)r.b * a.groups + (a.groups > 1 ? r.g : 0);
            const long long before = (group * s.T + r.t) * a.slots + slot_of_clip - followed;
            const SS_AROUND* flow = task.around + before * 2 * plane + task.number % plane;
            dx = (double)flow[0], dy = (double)flow[plane];
        }
    }
    window.y = axis_around(r.y, dy, s.kH);
    window.x = axis_around(r.x, dx, s.kW);
    return window;
}

// --- scores ---------------------------------------------------------------------------------------
// Part of a query's patch that all lanes need, in shared memory.
typedef SS_ACC Patch[SS_PIXELS][SS_CHUNK];

// Puts the pixels and channels from `pixel` and `channel` on into shared memory; zeros behind the last channel.
__device__ inline void stage(Patch& patch, const Task& task, int pixel, int channel, const Sizes& s) {
    __syncwarp();
    for (int i = task.lane; i < SS_PIXELS * SS_CHUNK; i += 32) {
        const int f = i % SS_CHUNK, m = pixel + i / SS_CHUNK;
        if (m >= SS_PATCH * SS_PATCH) break;
        const SS_SCALAR* from =
            patch_pixel(task.mine, task.r, patch_offset(m / SS_PATCH), patch_offset(m % SS_PATCH));
        patch[i / SS_CHUNK][f] = from && channel + f < s.F ? (SS_ACC)load(from + channel + f) : (SS_ACC)0;
    }
    __syncwarp();
}

// What the staged pixels and channels add to the score of a place; smaller is better.
__device__ inline SS_ACC part_of_score(const Patch& patch, const Task& task, Frame frame, const Place& place,
                                       int pixel, int channel, const Sizes& s) {
    const int left = SS_PATCH * SS_PATCH - pixel, pixels = left < SS_PIXELS ? left : SS_PIXELS;
    const int channels = s.F - channel < SS_CHUNK ? s.F - channel : SS_CHUNK;
    SS_ACC sum = 0;
    frame.first += channel;
    for (int i = 0; i < pixels; ++i) {
        const long long dy = patch_offset((pixel + i) / SS_PATCH), dx = patch_offset((pixel + i) % SS_PATCH);
        if (!has_pixel(task.mine, SS_SCALE * task.r.y + dy, SS_SCALE * task.r.x + dx)) continue;
        const Sample theirs = sample(frame, place, dy, dx);
        if (!theirs.exists) continue;
        for (int f = 0; f < channels; ++f) {
            const SS_ACC pair = phi(patch[i][f], value_of(theirs, f));
            sum += SS_L2 ? pair : -pair;
        }
    }
    return sum;
}

// Score of a candidate per lane. The first ones of a query stage its patch, which stays there if all of it fits.
__device__ inline SS_ACC score_of(const Task& task, const Window& window, int number, bool first, Patch& patch,
                                  const Sizes& s) {
    const double y = position(window.y, number / SS_WINDOW), x = position(window.x, number % SS_WINDOW);
    const Place place = place_in(window.frame, y, x, s);
    const Frame frame = frame_of_k(task.k, task.r.b, task.r.g, window.frame, s);
    const bool in_parts = s.F > SS_CHUNK || SS_PATCH * SS_PATCH > SS_PIXELS;
    SS_ACC score = 0;
    for (int channel = 0; channel < s.F; channel += SS_CHUNK) {
        for (int pixel = 0; pixel < SS_PATCH * SS_PATCH; pixel += SS_PIXELS) {
            if (in_parts || first) stage(patch, task, pixel, channel, s);
            score += part_of_score(patch, task, frame, place, pixel, channel, s);
        }
    }
    return score;
}

// --- ranks ----------------------------------------------------------------------------------------
// A candidate whose rank is known, whether it is there at all, and whether it is the query itself.
struct Ranked {
    Candidate candidate;
    bool there, itself;
};

__device__ inline Ranked ranked(const Task& task, SS_ACC score, const Window& window, int slot, int number, bool there,
                                const Sizes& s) {
    const int i = number / SS_WINDOW, j = number % SS_WINDOW;
    const double y = position(window.y, i), x = position(window.x, j);
    const double down = i - window.y.before, across = j - window.x.before;
    Ranked found = {{0, score, slot * SS_WINDOW_SIZE + number}, there, false};
    found.itself = there && window.frame == task.r.t && y == task.r.y && x == task.r.x;
    if (!SS_ZEROS && (y < 0 || y > s.kH - 1 || x < 0 || x > s.kW - 1)) found.candidate.score = infinity();
    if (SS_SKIP == 2 && found.itself) found.candidate.score = infinity();
    if (!(found.candidate.score < infinity())) found.candidate.score = infinity();  // not a number
    const double away = (double)SS_STEP * SS_STEP * (down * down + across * across);
    found.candidate.rank = found.candidate.score + (SS_ACC)(SS_PENALTY * away);
    if (SS_ANCHOR == 2 && down == 0 && across == 0) found.candidate.rank = -infinity();
    if (SS_SKIP == 1 && found.itself) found.there = false;
    return found;
}

// The candidates `start + lane` of a slot, one per lane. `found_self`: whether an earlier one was the query itself.
__device__ inline Ranked candidates(const Task& task, const Window& window, int slot, int start, Patch& patch,
                                    bool* found_self, const Sizes& s) {
    const int number = start + task.lane;
    const bool there = number < SS_WINDOW_SIZE;
    const SS_ACC score = score_of(task, window, there ? number : 0, slot == 0 && start == 0, patch, s);
    Ranked found = ranked(task, score, window, slot, number, there, s);
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
    out.scores[to] = SS_L2 ? c.score : -c.score;
    out.offsets[3 * to] = (SS_PLACE)(window.frame - task.r.t);
    out.offsets[3 * to + 1] = (SS_PLACE)__dadd_rn(position(window.y, i), -(double)task.r.y);
    out.offsets[3 * to + 2] = (SS_PLACE)__dadd_rn(position(window.x, j), -(double)task.r.x);
    if (SS_SEEDS) out.seed[to] = slot;
}

#if SS_TOPK == 0
// Keeps every candidate in order, behind those that are anchored.
__device__ inline void search_query(const Task& task, Patch& patch, Candidate*, const Results& out, const Sizes& s,
                                    const Around& a) {
    long long to = task.number * s.K;
    for (int turn = SS_ANCHOR ? 0 : 1; turn < 2; ++turn) {
        bool found_self = false;
        for (int slot = 0; slot < a.windows; ++slot) {
            const Window window = window_of(task, slot, s, a);
            for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
                const Ranked found = candidates(task, window, slot, start, patch, &found_self, s);
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
__device__ inline void search_query(const Task& task, Patch& patch, Candidate* buffer, const Results& out,
                                    const Sizes& s, const Around& a) {
    long long to = task.number * s.K;
    TopK topk;
    bool found_self = false;
    topk.start(buffer);
    for (int slot = 0; slot < a.windows; ++slot) {
        const Window window = window_of(task, slot, s, a);
        for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
            const Ranked found = candidates(task, window, slot, start, patch, &found_self, s);
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

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
search(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, SS_ACC* scores, SS_PLACE* offsets, int* seed,
       unsigned char* buffers, const Sizes s, const Around a, long long count) {
    __shared__ SS_ACC patches[SS_WARPS][SS_PIXELS][SS_CHUNK];
    extern __shared__ Candidate shared_buffers[];
    const int warp = threadIdx.x / 32;
    const long long first = (long long)blockIdx.x * SS_WARPS + warp, warps = (long long)gridDim.x * SS_WARPS;
    Candidate* buffer = SS_SHARED ? shared_buffers + warp * SS_ROOM : (Candidate*)buffers + first * SS_ROOM;
    const Results out = {scores, offsets, seed};
    for (long long number = first; number < count; number += warps) {
        const Query r = query_of(number, s);
        const Task task = {number, r, frame_of_q(q, r, 0, s), k, around, (int)threadIdx.x % 32};
        search_query(task, patches[warp], buffer, out, s, a);
    }
}
