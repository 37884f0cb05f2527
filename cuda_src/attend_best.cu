// Attention to the SS_TOPK best candidates of patches of one pixel, in one launch: see attend_best.cuh. Other arrays
// are those of search.cu, and so are the candidates, their order and the bits of their scores.
//
// A warp has a query, a lane a candidate, and then a channel of v. With SS_MARKED it has only queries of tiles that
// attend_points.cu left.
//
// Constants: SS_STRIDE, SS_SKIP (1 leaves a query itself out), SS_TILE_X and SS_TILE_Y (of tiles), SS_VECTORS of
// clip.cuh, SS_REGISTERS (1) of topk.cuh, and those of windows.cuh and attend_best.cuh.
#include "attend_best.cuh"
#include "pairs.cuh"
#include "topk.cuh"
#include "windows.cuh"

#define SS_WARPS 4

// A query: its row and column in the grid as a tile of one, its pixel, and the arrays that its scores follow from.
struct Task {
    Tile at;
    Query r;
    Plane mine;
    const SS_SCALAR* k;
    const SS_AROUND* around;
    Strides strides;
};

// A pixel of a clip that a candidate is, if it is `there`.
struct Pixel {
    int t, y, x;
    bool there;
};

// --- candidates -----------------------------------------------------------------------------------
// A pixel of one of its windows.
__device__ inline Pixel pixel_in(const Task& task, const Window& window, int t, int number, const Sizes& s) {
    const Whole y = task.r.y + window.y.first + (Whole)SS_STEP * (number / SS_WINDOW_X);
    const Whole x = task.r.x + window.x.first + (Whole)SS_STEP * (number % SS_WINDOW_X);
    return {t, (int)y, (int)x, y >= 0 && y < s.kH && x >= 0 && x < s.kW};
}

__device__ inline Window window_in(const Task& task, int slot, const Sizes& s, const Around& a) {
    return window_of(flow_of(task.around, task.at, slot, s, a), task.at.top, task.at.left, s);
}

__device__ inline int frame_in(const Task& task, int slot, const Sizes& s) {
    return frame_of_slot(task.r.t, slot + SS_FIRST_SLOT, s.kT, SS_RADIUS);
}

// `n` channels from `first` on, that are SS_RUN with the zeros behind them.
__device__ inline void load_run(SS_ACC* to, const SS_SCALAR* from, int n, int channel) {
#pragma unroll
    for (int c = 0; c < SS_RUN; c += SS_VECTORS ? SS_FEW : 1) {
#if SS_VECTORS
        if (c < n) load_few(from + c, to + c);
#pragma unroll
        for (int i = 0; i < SS_FEW; ++i) to[c + i] = c < n ? to[c + i] : 0;
#else
        to[c] = c < n ? load(from + c * channel) : (SS_ACC)0;
#endif
    }
}

__device__ inline SS_ACC score_of(const Task& task, const Pixel& at, const Sizes& s) {
    const Plane theirs = plane_of_k(task.k, task.r.b, task.r.g, at.t, s, task.strides);
    const SS_SCALAR *q = task.mine.at(task.r.y, task.r.x), *k = theirs.at(at.y, at.x);
    SS_ACC score = 0;
#pragma unroll 1
    for (int first = 0; first < s.F; first += SS_RUN) {
        SS_ACC mine[SS_RUN], other[SS_RUN], sum = 0;
        load_run(mine, q + first * task.mine.channel, s.F - first, task.mine.channel);
        load_run(other, k + first * theirs.channel, s.F - first, theirs.channel);
#pragma unroll
        for (int c = 0; c < SS_RUN; ++c) sum = add_pair(mine[c], other[c], sum);
        score = plus(score, sum);
    }
    return score < infinity() ? score : infinity();
}

__device__ inline void find_best(TopK& topk, const Task& task, const Sizes& s, const Around& a) {
    const int lane = threadIdx.x % 32;
    topk.start(0);
#pragma unroll 1
    for (int slot = 0; slot < a.windows; ++slot) {
        const Window window = window_in(task, slot, s, a);
        const int t = frame_in(task, slot, s);
#pragma unroll 1
        for (int start = 0; start < SS_WINDOW_Y * SS_WINDOW_X; start += 32) {
            const int number = start + lane;
            const Pixel at = pixel_in(task, window, t, number, s);
            const bool itself = SS_SKIP && t == task.r.t && at.y == task.r.y && at.x == task.r.x;
            const bool there = number < SS_WINDOW_Y * SS_WINDOW_X && !(itself && at.there);
            const SS_ACC score = there && at.there ? score_of(task, at, s) : SS_ZEROS ? (SS_ACC)0 : infinity();
            topk.add({score, score, slot * SS_WINDOW_Y * SS_WINDOW_X + number}, there, lane);
        }
    }
}

// --- results --------------------------------------------------------------------------------------
// What a warp knows of its best candidates.
struct Best {
    SS_ACC scores[SS_TOPK];
    Pixel pixels[SS_TOPK];
};

__device__ inline void keep(Best& best, const TopK& topk, const Task& task, const Sizes& s, const Around& a) {
    const int lane = threadIdx.x % 32;
    if (lane < SS_TOPK) {
        const Candidate c = topk.kept[0];
        const int slot = c.number / (SS_WINDOW_Y * SS_WINDOW_X), number = c.number % (SS_WINDOW_Y * SS_WINDOW_X);
        best.scores[lane] = c.score;
        best.pixels[lane] = pixel_in(task, window_in(task, slot, s, a), frame_in(task, slot, s), number, s);
    }
    __syncwarp();
}

struct Results {
    SS_SCALAR* out;
    SS_ACC* sums;
    int* places;
};

__device__ inline void attend(const Best& best, const Task& task, long long number, const SS_SCALAR* v, SS_ACC factor,
                              const Results& to, const Values& m, const Sizes& s) {
    const int lane = threadIdx.x % 32;
    SS_ACC weights[SS_TOPK];
#pragma unroll
    for (int e = 0; e < SS_TOPK; ++e) weights[e] = best.scores[e];
    const Softmax found = weigh(weights, factor);
    const SS_SCALAR* const clip = clip_of_v(v, task.r.b, task.r.g, m);
    SS_SCALAR* const out = pixel_of_out(to.out, task.r.b, task.r.t, task.r.g, task.r.y, task.r.x, m, s);
#pragma unroll 1
    for (int c = lane; c < m.FV; c += 32) {
        SS_ACC sum = 0;
#pragma unroll
        for (int e = 0; e < SS_TOPK; ++e) {
            if (!best.pixels[e].there || weights[e] == 0) continue;
            const Pixel& at = best.pixels[e];
            const SS_SCALAR* const value = clip + at.t * m.v_t + (long long)at.y * m.v_y + (long long)at.x * m.v_x;
            sum = multiply_add(weights[e], load(value + (long long)c * m.v_c), sum);
        }
        store(out + (long long)c * s.kH * s.kW, sum * found.share);
    }
    if (lane == 0) to.sums[2 * number] = found.most, to.sums[2 * number + 1] = found.total;
    if (to.places && lane < SS_TOPK) {
        const Pixel& at = best.pixels[lane];
        to.places[number * SS_TOPK + lane] = at.there ? (at.t * s.kH + at.y) * s.kW + at.x : -1;
    }
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_best(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_AROUND* around, const SS_ACC* scales,
            SS_SCALAR* out, SS_ACC* sums, int* places, const int* wild, const Sizes s, const Strides strides,
            const Values values, const Around a, SS_ACC factor, long long count) {
    __shared__ Best all[SS_WARPS];
    if (SS_MARKED && wild[0] == 0) return;
    const int across = (s.w + SS_TILE_X - 1) / SS_TILE_X, down = (s.h + SS_TILE_Y - 1) / SS_TILE_Y;
    const int warp = threadIdx.x / 32;
    const Results to = {out, sums, places};
#pragma unroll 1
    for (long long number = (long long)blockIdx.x * SS_WARPS + warp; number < count;
         number += (long long)gridDim.x * SS_WARPS) {
        const Query r = query_of(number, s);
        const Tile at = {r.b, r.g, r.t, r.y / SS_STRIDE, r.x / SS_STRIDE};
        const int tile = (((r.b * s.G + r.g) * s.T + r.t) * down + at.top / SS_TILE_Y) * across + at.left / SS_TILE_X;
        if (SS_MARKED && !wild[1 + tile]) continue;
        const Task task = {at, r, plane_of_q(q, r.b, r.g, r.t, s, strides), k, around, strides};
        TopK topk;
        find_best(topk, task, s, a);
        keep(all[warp], topk, task, s, a);
        attend(all[warp], task, number, v, factor_of(factor, scales, r.g), to, values, s);
    }
}
