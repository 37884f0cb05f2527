// The score of one place, pixel by pixel: the direct form of the search, which the others agree with.
//
// Constants: SS_PATCH, SS_DILATION, SS_SCALE, SS_ZEROS, SS_QUERY_ZEROS, SS_L2, SS_SUBPIXEL, SS_VECTORS of clip.cuh.
#ifndef SS_PATCH_SCORE_CUH
#define SS_PATCH_SCORE_CUH

#include "axis.cuh"
#include "clip.cuh"
#include "pairs.cuh"

__device__ inline Whole patch_offset(int i) { return (Whole)SS_DILATION * (i - SS_PATCH / 2); }

// Whether nothing of a spot is in [0, n).
__device__ inline bool beyond(Whole pixel, SS_ACC behind, int n) {
    return pixel >= n || pixel < -1 || (pixel == -1 && behind == 0);
}

// Up to four pixels of k with weights: one bilinear sample. Corners without weight or pixel are not there.
struct Sample {
    const SS_SCALAR* at[SS_SUBPIXEL ? 4 : 1];
    SS_ACC weight[SS_SUBPIXEL ? 4 : 1];
};

// `rows`: two rows of pixels of k, or nothing where it has none.
__device__ inline Sample sample(const Plane& k, const SS_SCALAR* const* rows, Whole x, SS_ACC fy, SS_ACC fx) {
    Sample found;
#pragma unroll
    for (int corner = 0; corner < (SS_SUBPIXEL ? 4 : 1); ++corner) {
        const Whole u = x + corner % 2;
        const SS_ACC down = corner / 2 ? fy : 1 - fy, across = corner % 2 ? fx : 1 - fx;
        const bool inside = rows[corner / 2] && (!SS_ZEROS || (u >= 0 && u < k.W));
        found.weight[corner] = down * across;
        found.at[corner] =
            inside && found.weight[corner] != 0 ? rows[corner / 2] + (long long)reflected(u, k.W) * k.column : 0;
    }
    return found;
}

#define SS_SOME (SS_VECTORS ? SS_FEW : 1)  // channels that are loaded at a time

__device__ inline void load_some(const SS_SCALAR* from, SS_ACC* to) {
    if (SS_VECTORS) load_few(from, to);
    else to[0] = load(from);
}

__device__ inline void load_some(const Sample& from, long long on, SS_ACC* to) {
#if SS_SUBPIXEL
#pragma unroll
    for (int i = 0; i < SS_SOME; ++i) to[i] = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        if (!from.at[corner]) continue;
        SS_ACC one[SS_SOME];
        load_some(from.at[corner] + on, one);
#pragma unroll
        for (int i = 0; i < SS_SOME; ++i) to[i] = multiply_add(from.weight[corner], one[i], to[i]);
    }
#else
    load_some(from.at[0] + on, to);
#endif
}

// Adds the channels of a pair of pixels from f on, which are so far apart.
__device__ inline SS_ACC add_some(const SS_SCALAR* mine, const Sample& theirs, int f, int of_q, int of_k, SS_ACC sum) {
    SS_ACC q[SS_SOME], k[SS_SOME];
    load_some(mine + (SS_VECTORS ? f : (long long)f * of_q), q);
    load_some(theirs, SS_VECTORS ? f : (long long)f * of_k, k);
#pragma unroll
    for (int i = 0; i < SS_SOME; ++i) sum = add_pair(q[i], k[i], sum);
    return sum;
}

// Up to SS_RUN channels of a pair of pixels.
__device__ inline SS_ACC pair_of_pixels(const SS_SCALAR* mine, const Sample& theirs, int channels, int of_q, int of_k) {
    const int at_once = SS_SUBPIXEL ? SS_VECTORS ? 2 : 4 : SS_RUN;
    SS_ACC sum = 0;
    if (channels >= SS_RUN) {
#pragma unroll at_once
        for (int f = 0; f < SS_RUN; f += SS_SOME) sum = add_some(mine, theirs, f, of_q, of_k, sum);
    } else {
#pragma unroll 1
        for (int f = 0; f < channels; f += SS_SOME) sum = add_some(mine, theirs, f, of_q, of_k, sum);
    }
    return sum;
}

// Row y of a frame, mirrored or, in a border of zeros, nothing.
__device__ inline const SS_SCALAR* row_of(const Plane& frame, Whole y, bool zeros) {
    if (zeros && (y < 0 || y >= frame.H)) return 0;
    return frame.first + (long long)reflected(y, frame.H) * frame.row;
}

// Score of the place (y, x) for query r, in the order of pairs.cuh; smaller is better.
__device__ inline SS_ACC score_of(const Query& r, const Plane& q, const Plane& k, const Spot& y, const Spot& x,
                                  const Sizes& s) {
    const Whole qy = (Whole)SS_SCALE * r.y, qx = (Whole)SS_SCALE * r.x;
    Pairs<SS_ACC> rows(r.y);
#pragma unroll 1
    for (int i = 0; i < SS_PATCH; ++i) {
        const Whole v = qy + patch_offset(i), there_v = y.pixel + patch_offset(i);
        const bool row_exists =
            !(SS_QUERY_ZEROS && (v < 0 || v >= q.H)) && !(SS_ZEROS && beyond(there_v, y.behind, k.H));
        const SS_SCALAR *mine = row_of(q, v, SS_QUERY_ZEROS), *theirs[2] = {row_of(k, there_v, SS_ZEROS), 0};
        if (SS_SUBPIXEL) theirs[1] = row_of(k, there_v + 1, SS_ZEROS);
        SS_ACC row = 0;
#pragma unroll 1
        for (int first = 0; row_exists && first < s.F; first += SS_RUN) {
            Pairs<SS_ACC> along(r.x);
#pragma unroll 1
            for (int j = 0; j < SS_PATCH; ++j) {
                const Whole u = qx + patch_offset(j), there_u = x.pixel + patch_offset(j);
                const bool exists =
                    !(SS_QUERY_ZEROS && (u < 0 || u >= q.W)) && !(SS_ZEROS && beyond(there_u, x.behind, k.W));
                SS_ACC pair = 0;
                if (exists) {
                    const Sample found = sample(k, theirs, there_u, y.behind, x.behind);
                    const SS_SCALAR* const asked = mine + (long long)reflected(u, q.W) * q.column;
                    pair = pair_of_pixels(asked, found, s.F - first, q.channel, k.channel);
                }
                along.add(pair);
            }
            row = plus(row, along.sum());
            mine += (long long)SS_RUN * q.channel;
            if (theirs[0]) theirs[0] += (long long)SS_RUN * k.channel;
            if (theirs[1]) theirs[1] += (long long)SS_RUN * k.channel;
        }
        rows.add(row);
    }
    return rows.sum();
}

#endif
