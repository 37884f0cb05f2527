// The candidates of a query, and the best of them, which one warp keeps: the same for all forms that search query by
// query. How its scores are found is for `Scores` to say, which has
//
//   look(task, window, first, s)          begins a window, the first of a query or not; all threads of a query call it
//   keeps()                               whether this warp keeps the best
//   score(task, window, number, s)        of a candidate of this window
//
// Constants: those of search.cu.
#ifndef SS_CANDIDATES_CUH
#define SS_CANDIDATES_CUH

#include "patch_score.cuh"
#include "topk.cuh"

#define SS_WINDOW_SIZE (SS_WINDOW_Y * SS_WINDOW_X)

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
    double penalty;
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
            const long long in_plane = (long long)(r.y / SS_STRIDE - s.y0) * s.w + r.x / SS_STRIDE - s.x0;
            const SS_AROUND* flow = task.around + before * 2 * plane + in_plane;
            dx = flow[0], dy = flow[plane];
        }
    }
    window.y = axis_around(SS_WINDOW_Y, r.y, dy, s.kH);
    window.x = axis_around(SS_WINDOW_X, r.x, dx, s.kW);
    return window;
}

// --- ranks ----------------------------------------------------------------------------------------
// Score of a candidate, pixel by pixel.
__device__ inline SS_ACC score_directly(const Task& task, const Window& window, int number, const Sizes& s) {
    const Spot y = spot_at(position(window.y, number / SS_WINDOW_X));
    const Spot x = spot_at(position(window.x, number % SS_WINDOW_X));
    const Plane k = plane_of_k(task.k, task.r.b, task.r.g, window.frame, s, task.strides);
    return score_of(task.r, task.mine, k, y, x, s);
}

struct Directly {
    __device__ void look(const Task&, const Window&, bool, const Sizes&) const {}
    __device__ bool keeps() const { return true; }
    __device__ SS_ACC score(const Task& task, const Window& window, int number, const Sizes& s) const {
        return score_directly(task, window, number, s);
    }
};

// A candidate whose rank is known, whether it is there at all, and whether it is the query itself.
struct Ranked {
    Candidate candidate;
    bool there, itself;
};

__device__ inline Ranked ranked(const Task& task, SS_ACC score, const Window& window, int slot, int number, bool there,
                                const Sizes& s) {
    const int i = number / SS_WINDOW_X, j = number % SS_WINDOW_X;
    const int down = i - window.y.before, across = j - window.x.before;
    const Position y = position(window.y, i), x = position(window.x, j);
    Ranked found = {{0, score, slot * SS_WINDOW_SIZE + number}, there, false};
    found.itself = there && window.frame == task.r.t && y == task.r.y && x == task.r.x;
    if (!SS_ZEROS && (y < 0 || y > s.kH - 1 || x < 0 || x > s.kW - 1)) found.candidate.score = infinity();
    if (SS_SKIP == 2 && found.itself) found.candidate.score = infinity();
    if (!(found.candidate.score < infinity())) found.candidate.score = infinity();  // not a number
    found.candidate.rank = found.candidate.score;
    if (SS_PENALTY)
        found.candidate.rank += (SS_ACC)(task.penalty * ((double)SS_STEP * SS_STEP * (down * down + across * across)));
    if (SS_ANCHOR == 2 && down == 0 && across == 0) found.candidate.rank = -infinity();
    if (SS_SKIP == 1 && found.itself) found.there = false;
    return found;
}

// The candidates `start + lane` of a slot, one per lane. `found_self`: whether an earlier one was the query itself.
template <class Scores>
__device__ inline Ranked candidates(const Task& task, const Scores& scores, const Window& window, int slot, int start,
                                    bool* found_self, const Sizes& s) {
    const int number = start + task.lane, any = number < SS_WINDOW_SIZE ? number : 0;
    Ranked found = ranked(task, scores.score(task, window, any, s), window, slot, any, number < SS_WINDOW_SIZE, s);
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
    const int slot = c.number / SS_WINDOW_SIZE, i = c.number / SS_WINDOW_X % SS_WINDOW_Y, j = c.number % SS_WINDOW_X;
    const Window window = window_of(task, slot, s, a);
    out.scores[to] = SS_L2 ? c.score + 0 : 0 - c.score;  // never -0, of which the sign would depend on the form
    out.offsets[3 * to] = (SS_PLACE)(window.frame - task.r.t);
    out.offsets[3 * to + 1] = away_from(task.r.y, position(window.y, i));
    out.offsets[3 * to + 2] = away_from(task.r.x, position(window.x, j));
    if (SS_SEEDS) out.seed[to] = slot;
}

#if SS_TOPK == 0
// Keeps every candidate in order, behind those that are anchored. `to`: where the first result of the query belongs.
template <class Scores>
__device__ inline void search_query(const Task& task, const Scores& scores, int, long long to, Candidate*,
                                    const Results& out, const Sizes& s, const Around& a) {
    for (int turn = SS_ANCHOR ? 0 : 1; turn < 2; ++turn) {
        bool found_self = false;
        for (int slot = 0; slot < a.windows; ++slot) {
            const Window window = window_of(task, slot, s, a);
            scores.look(task, window, slot == 0, s);
            for (int start = 0; scores.keeps() && start < SS_WINDOW_SIZE; start += 32) {
                const Ranked found = candidates(task, scores, window, slot, start, &found_self, s);
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
#if !SS_SUBPIXEL
// The number of a candidate in one of the slots before `end`.
__device__ inline int number_of(const Task& task, const SS_PLACE* offset, int end, const Sizes& s, const Around& a) {
    int number = 0;
    for (int slot = 0; slot < end; ++slot) {
        const Window window = window_of(task, slot, s, a);
        if (window.frame - task.r.t != offset[0]) continue;
        const Whole down = task.r.y + offset[1] - window.y.first, across = task.r.x + offset[2] - window.x.first;
        number = slot * SS_WINDOW_SIZE + (int)(down / (Whole)SS_STEP * SS_WINDOW_X + across / (Whole)SS_STEP);
    }
    return number;
}

// Begins with the best of the slots before `end`, which search_tiles.cu has found. If these are fewer than are kept,
// the other scores are no numbers.
__device__ inline void take_over(TopK& topk, const Task& task, int end, long long first, const Results& out,
                                 const Sizes& s, const Around& a) {
#pragma unroll
    for (int start = 0; start < SS_TOPK; start += 32) {
        const long long at = first + min(start + task.lane, SS_TOPK - 1);
        const SS_ACC score = SS_L2 ? out.scores[at] : 0 - out.scores[at];
        const bool there = start + task.lane < SS_TOPK && !isnan(score);
        const int number = there ? number_of(task, out.offsets + 3 * at, end, s, a) : 0, slot = number / SS_WINDOW_SIZE;
        Ranked found = ranked(task, score, window_of(task, slot, s, a), slot, number % SS_WINDOW_SIZE, there, s);
        if (SS_ANCHOR == 1 && found.itself) found.candidate.rank = -infinity();
        topk.take(found.candidate, there, start / 32, task.lane);
    }
}
#endif

// Keeps the best of all slots, or of each, of which those before `begin` have been searched. `first`: where the first
// result of the query belongs.
template <class Scores>
__device__ inline void search_query(const Task& task, const Scores& scores, int begin, long long first,
                                    Candidate* buffer, const Results& out, const Sizes& s, const Around& a) {
    long long to = first + (SS_PER_FRAME ? begin * SS_TOPK : 0);
    TopK topk;
    bool found_self = false;
    topk.start(buffer);
#if SS_MARKED && !SS_SUBPIXEL && !SS_PER_FRAME
    if (begin > 0 && scores.keeps()) take_over(topk, task, begin, first, out, s, a);
#endif
    for (int slot = begin; slot < a.windows; ++slot) {
        const Window window = window_of(task, slot, s, a);
        scores.look(task, window, slot == begin, s);
        if (!scores.keeps()) continue;
        for (int start = 0; start < SS_WINDOW_SIZE; start += 32) {
            const Ranked found = candidates(task, scores, window, slot, start, &found_self, s);
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

// The first slot that a query has to be searched in, or -1: its tile is marked by it, plus 1, or a score that
// search_subpixel.cu left is no number.
__device__ inline int first_slot(const Task& task, const int* wild, const SS_ACC* scores, const Sizes& s) {
    if (!SS_MARKED) return 0;
    const int across = (s.w + SS_TILE_X - 1) / SS_TILE_X, down = (s.h + SS_TILE_Y - 1) / SS_TILE_Y;
    const int clip = (task.r.b * s.G + task.r.g) * s.T + task.r.t;
    const int mark = wild[1 + (clip * down + task.r.y / SS_TILE_Y) * across + task.r.x / SS_TILE_X];
    bool open = false;
    if (SS_SUBPIXEL && !mark)
        for (int e = 0; e < s.K; e += SS_TOPK) open = open || isnan(scores[task.number * s.K + e]);
    return open ? 0 : mark - 1;
}

__device__ inline Task task_of(long long number, const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around,
                               double penalty, const Sizes& s, const Strides& strides) {
    const Query r = query_of(number, s);
    const Plane mine = plane_of_q(q, r.b, r.g, r.t, s, strides);
    return {number, r, mine, k, around, penalty, strides, (int)threadIdx.x % 32};
}

#endif
