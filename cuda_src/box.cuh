// Sums over the squares of patches: in a *plane* is the weight of each home that has a candidate with one step, and its
// box filter is W of tiles.cuh.
//
// Along rows, and then down the columns of their sums, the order is that of the places: pixels come in fours, each
// from a multiple of 4 on. What all patches of a four have in common is added from its beginning on; what a patch has
// before that, from its end on, and what it has behind it, from its beginning on; then these three, from left to
// right. So four sums of 7 cost 13 additions in place of 24. Where patches are small or dilated, all is added from the
// beginning on.
//
// Where no candidate is, there is -0.0, which alone leaves a sum as it is: a sum that is -0.0 has nothing in it.
//
// Constants: SS_STEPS (planes), SS_OUR_ZEROS (1: no pixel outside of our frame has a sum).
#ifndef SS_BOX_CUH
#define SS_BOX_CUH

#include "channels.cuh"

#define SS_THREADS 128
#define SS_QUADS (SS_TILE_W / 4)  // fours of a row of a tile

// Homes have a pixel of the tile in their patch: as many rows before and after it, and columns likewise.
#define SS_BEFORE (SS_DILATION * (SS_PATCH - 1 - SS_PATCH / 2))
#define SS_AFTER (SS_DILATION * (SS_PATCH / 2))
#define SS_AROUND_TILE (SS_BEFORE + SS_AFTER)
#define SS_ROWS (SS_TILE_H + SS_AROUND_TILE)
#define SS_COLUMNS (SS_TILE_W + SS_AROUND_TILE)
#define SS_HOMES (SS_ROWS * SS_COLUMNS)

// A plane begins SS_SIDE columns before the homes, and has sums of rows for all pixels that are asked for.
#define SS_IN_FOURS(n) (((n) + 3) / 4 * 4)
#define SS_SIDE (SS_OUR_ZEROS ? 0 : SS_IN_FOURS(SS_AFTER))
#define SS_SUMS_W SS_IN_FOURS(SS_SIDE + SS_TILE_W + (SS_OUR_ZEROS ? 0 : SS_BEFORE))
#define SS_PLANE_W (SS_SUMS_W + SS_IN_FOURS(SS_AROUND_TILE))
#define SS_PLANE (SS_ROWS * SS_PLANE_W)
#define SS_SUMS (SS_ROWS * SS_SUMS_W)

__device__ inline bool is_nothing(float x) { return __float_as_uint(x) == 0x80000000u; }
__device__ inline bool is_nothing(double x) { return __double_as_longlong(x) == (long long)(1ull << 63); }

// --- four numbers of shared memory, at a multiple of 16 bytes ------------------------------------------
__device__ inline void load_four(const SS_ACC* p, SS_ACC* to) {
    const int few = 16 / (int)sizeof(SS_ACC);
#pragma unroll
    for (int i = 0; i < 4; i += few) load_few(p + i, to + i);
}

__device__ inline void store_four(float* p, const float* x) {
    *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
}

__device__ inline void store_four(double* p, const double* x) {
    *reinterpret_cast<double2*>(p) = make_double2(x[0], x[1]);
    *reinterpret_cast<double2*>(p + 2) = make_double2(x[2], x[3]);
}

// --- the order of a sum --------------------------------------------------------------------------------
// The sum of a patch's side, x[0] and on, whose pixel is number `in_four` of its four.
template <int in_four> __device__ inline SS_ACC sum_of_side(const SS_ACC* x) {
    const bool alone = SS_PATCH < 4 || SS_DILATION > 1;
    const int first = alone ? 0 : 3 - in_four, last = alone ? SS_PATCH - 1 : SS_PATCH - 1 - in_four;
    SS_ACC sum = x[first];
#pragma unroll
    for (int i = first + 1; i <= last; ++i) sum += x[i];
    if (first > 0) {
        SS_ACC before = x[first - 1];
#pragma unroll
        for (int i = first - 2; i >= 0; --i) before = x[i] + before;
        sum = before + sum;
    }
    if (last < SS_PATCH - 1) {
        SS_ACC after = x[last + 1];
#pragma unroll
        for (int i = last + 2; i < SS_PATCH; ++i) after += x[i];
        sum += after;
    }
    return sum;
}

__device__ inline SS_ACC sum_of_side(const SS_ACC* x, int in_four) {
    if (in_four == 0) return sum_of_side<0>(x);
    if (in_four == 1) return sum_of_side<1>(x);
    return in_four == 2 ? sum_of_side<2>(x) : sum_of_side<3>(x);
}

template <int in_four> __device__ inline SS_ACC sum_of_four(const SS_ACC* x) {
    SS_ACC side[SS_PATCH];
#pragma unroll
    for (int i = 0; i < SS_PATCH; ++i) side[i] = x[in_four + i * SS_DILATION];
    return sum_of_side<in_four>(side);
}

// The sums of a four, of which x has all that its patches do: the compiler finds what they have in common.
__device__ inline void sums_of_four(const SS_ACC* x, SS_ACC* to) {
    to[0] = sum_of_four<0>(x), to[1] = sum_of_four<1>(x), to[2] = sum_of_four<2>(x), to[3] = sum_of_four<3>(x);
}

// --- planes ----------------------------------------------------------------------------------------
__device__ inline void empty_planes(SS_ACC* planes) {
    for (int i = threadIdx.x; i < SS_STEPS * SS_PLANE; i += SS_THREADS) planes[i] = -(SS_ACC)0;
    __syncthreads();
}

// The sums along a row of a plane of the four from x on.
__device__ inline void sums_along(const SS_ACC* plane, int row, int x, SS_ACC* to) {
    SS_ACC weights[SS_IN_FOURS(4 + SS_AROUND_TILE)];
#pragma unroll
    for (int i = 0; i < 4 + SS_AROUND_TILE; i += 4) load_four(plane + row * SS_PLANE_W + x + i, weights + i);
    sums_of_four(weights, to);
}

// W of the first `steps` steps at all pixels of the tile, (step, row, column). A thread has four columns of a step.
template <int steps> __device__ inline void filter_tile(const SS_ACC* planes, SS_ACC* to) {
    for (int i = threadIdx.x; i < steps * SS_QUADS; i += SS_THREADS) {
        const int step = i / SS_QUADS, x = i % SS_QUADS * 4;
        SS_ACC sums[4][SS_ROWS];
#pragma unroll
        for (int row = 0; row < SS_ROWS; ++row) {
            SS_ACC along[4];
            sums_along(planes + step * SS_PLANE, row, x + SS_SIDE, along);
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[j][row] = along[j];
        }
#pragma unroll
        for (int row = 0; row < SS_TILE_H; row += 4) {
            SS_ACC down[4][4];
#pragma unroll
            for (int j = 0; j < 4; ++j) sums_of_four(sums[j] + row, down[j]);
#pragma unroll
            for (int y = 0; y < 4; ++y) {
                const SS_ACC four[4] = {down[0][y], down[1][y], down[2][y], down[3][y]};
                store_four(to + (step * SS_TILE_H + row + y) * SS_TILE_W + x, four);
            }
        }
    }
}

// Sums along rows of the planes that are `present`, for weight_at.
__device__ inline void filter_rows(const SS_ACC* planes, SS_ACC* sums, unsigned present) {
    const int fours = SS_SUMS_W / 4;
    for (int i = threadIdx.x; i < SS_ROWS * fours; i += SS_THREADS) {
        const int row = i / fours, x = i % fours * 4;
        for (unsigned left = present; left; left &= left - 1) {
            const int step = __ffs(left) - 1;
            SS_ACC along[4];
            sums_along(planes + step * SS_PLANE, row, x, along);
            store_four(sums + step * SS_SUMS + row * SS_SUMS_W + x, along);
        }
    }
}

// W at row y and column x of the tile, or beside it, where rows without homes have nothing.
__device__ inline SS_ACC weight_at(const SS_ACC* sums, int step, int y, int x) {
    const SS_ACC* from = sums + step * SS_SUMS + y * SS_SUMS_W + x + SS_SIDE;
    SS_ACC side[SS_PATCH];
#pragma unroll
    for (int u = 0; u < SS_PATCH; ++u) {
        const int row = u * SS_DILATION;
        side[u] = y + row >= 0 && y + row < SS_ROWS ? from[row * SS_SUMS_W] : -(SS_ACC)0;
    }
    return sum_of_side(side, y & 3);
}

#endif
