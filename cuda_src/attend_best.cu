// Attention to the best candidates of patches of one pixel, in one launch: the search of search.cu, whose results lie
// in shared memory, and behind it their softmax and the sum of their values. For the arrays see attend_best.cuh.
//
// A warp has a query at a time, a lane a candidate, and then a channel of v. With SS_MARKED it has only queries of
// tiles that attend_points.cu or attend_tiles.cu left.
//
// Constants: those of search.cu and of attend_best.cuh.
#include "attend_best.cuh"
#include "candidates.cuh"

#define SS_WARPS 4

// What a warp knows of the candidates of its query: scores, that become weights, and where they are.
struct Found {
    SS_ACC scores[SS_ATTENDED];
    SS_PLACE offsets[3 * SS_ATTENDED];
};

// --- values ---------------------------------------------------------------------------------------
__device__ inline Plane plane_of_v(const SS_SCALAR* v, const Query& r, int t, const Values& m, const Sizes& s) {
    return {clip_of_v(v, r.b, r.g, m) + t * m.v_t, s.kH, s.kW, m.v_y, m.v_x, m.v_c};
}

// The pixels of v at a place.
__device__ inline Sample sample_of_v(const SS_SCALAR* v, const Query& r, const SS_PLACE* offset, const Values& m,
                                     const Sizes& s) {
    const Plane frame = plane_of_v(v, r, r.t + (int)offset[0], m, s);
    const Spot y = spot_at((Position)r.y + (Position)offset[1]), x = spot_at((Position)r.x + (Position)offset[2]);
    const SS_SCALAR* rows[2] = {row_of(frame, y.pixel, SS_ZEROS), 0};
    if (SS_SUBPIXEL) rows[1] = row_of(frame, y.pixel + 1, SS_ZEROS);
    return sample(frame, rows, x.pixel, y.behind, x.behind);
}

__device__ inline SS_ACC value_of(const Sample& from, long long on) {
    if (!SS_SUBPIXEL) return from.at[0] ? load(from.at[0] + on) : (SS_ACC)0;
    SS_ACC value = 0;
#pragma unroll
    for (int corner = 0; corner < (SS_SUBPIXEL ? 4 : 1); ++corner)
        if (from.at[corner]) value = multiply_add(from.weight[corner], load(from.at[corner] + on), value);
    return value;
}

// What a lane's channel c of a query gets, but for the share. No lane goes without, so that all are together.
__device__ inline SS_ACC sum_of_values(const Found& found, const Query& r, const SS_SCALAR* v, int c, const Values& m,
                                       const Sizes& s) {
    SS_ACC sum = 0;
#pragma unroll 1
    for (int e = 0; e < SS_ATTENDED; ++e) {
        const SS_ACC weight = found.scores[e];
        if (weight == 0) continue;
        const Sample from = sample_of_v(v, r, found.offsets + 3 * e, m, s);
        sum = multiply_add(weight, value_of(from, (long long)c * m.v_c), sum);
    }
    return sum;
}

// --- results --------------------------------------------------------------------------------------
// The number of a candidate's pixel in its clip, -1 outside of the frame.
__device__ inline int place_of(const Query& r, const SS_PLACE* offset, const Sizes& s) {
    const int t = r.t + (int)offset[0];
    const Whole y = r.y + (Whole)offset[1], x = r.x + (Whole)offset[2];
    return y >= 0 && y < s.kH && x >= 0 && x < s.kW ? (t * s.kH + (int)y) * s.kW + (int)x : -1;
}

__device__ inline void write_found(const Found& found, const Task& task, SS_ACC share, const Attended& to,
                                   const Sizes& s) {
    const long long first = task.number * SS_ATTENDED;
    for (int e = task.lane; e < SS_ATTENDED; e += 32) {
        if (to.weights) to.weights[first + e] = found.scores[e] * share;
        if (to.places) to.places[first + e] = place_of(task.r, found.offsets + 3 * e, s);
    }
    for (int i = task.lane; to.offsets && i < 3 * SS_ATTENDED; i += 32) to.offsets[3 * first + i] = found.offsets[i];
}

__device__ inline void attend(Found& found, const Task& task, const SS_SCALAR* v, SS_ACC factor, const Attended& to,
                              const Values& m, const Sizes& s) {
    const Softmax sums = weigh_together(found.scores, SS_ATTENDED, factor, task.lane);
    SS_SCALAR* const out = pixel_of_out(to.out, task.r.b, task.r.t, task.r.g, task.r.y, task.r.x, m, s);
#pragma unroll 1
    for (int c = task.lane; c < m.FV; c += 32)
        store(out + (long long)c * s.kH * s.kW, sum_of_values(found, task.r, v, c, m, s) * sums.share);
    if (to.sums && task.lane == 0) to.sums[2 * task.number] = sums.most, to.sums[2 * task.number + 1] = sums.total;
    write_found(found, task, sums.share, to, s);
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
attend_best(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_AROUND* around, const SS_ACC* scales,
            SS_SCALAR* out, SS_ACC* sums, int* places, SS_ACC* weights, SS_PLACE* offsets, const int* wild,
            SS_ACC factor, double penalty, const Sizes s, const Strides strides, const Values values, const Around a,
            long long count) {
    __shared__ Found all[SS_WARPS];
    if (SS_MARKED && wild[0] == 0) return;
    const int warp = threadIdx.x / 32;
    Found& found = all[warp];
#pragma unroll 1
    for (long long number = (long long)blockIdx.x * SS_WARPS + warp; number < count;
         number += (long long)gridDim.x * SS_WARPS) {
        const Task task = task_of(number, q, k, around, penalty, s, strides);
        if (first_slot(task, wild, 0, s) < 0) continue;
        search_query(task, Directly(), 0, 0, 0, {found.scores, found.offsets, 0}, s, a);
        __syncwarp();
        attend(found, task, v, factor_of(factor, scales, task.r.g), {out, sums, places, weights, offsets}, values, s);
    }
}
