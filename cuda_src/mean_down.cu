// Means of the pixels above each other that are at most `by` apart. Twice, these are the means of squares, as what is
// written is turned over: frames (n, h, w), out (n, w, h).
//
// Windows of SS_RUN pixels below each other, no more than 2 * by + 1, share their middle, which is summed once.
#include "number.cuh"

#define SS_THREADS 128
#define SS_SIDE 32  // pixels of a tile
#define SS_ROWS (SS_SIDE * SS_SIDE / SS_THREADS)

struct Frames {
    int h, w, by;
};

// A column of a frame, which is 0 beyond the border.
struct Column {
    const SS_ACC* pixels;
    int h, w;

    __device__ SS_ACC operator()(int row) const { return row >= 0 && row < h ? pixels[(long long)row * w] : 0; }
};

// Write the means of SS_RUN pixels from a row on.
__device__ inline void means(const Column& column, int start, int by, SS_ACC* to) {
    const int first = start - by, last = start + by;  // of the first window
    SS_ACC sums[SS_RUN], after = 0;
    sums[SS_RUN - 1] = 0;
    const int end = min(last, column.h - 1);
    for (int row = max(first + SS_RUN - 1, 0); row <= end; ++row) sums[SS_RUN - 1] += column(row);
#pragma unroll
    for (int i = SS_RUN - 2; i >= 0; --i) sums[i] = sums[i + 1] + column(first + i);
#pragma unroll
    for (int i = 0; i < SS_RUN; ++i) {
        if (i) after += column(last + i);
        const int count = min(last + i, column.h - 1) - max(first + i, 0) + 1;
        to[i * (SS_SIDE + 1)] = (sums[i] + after) / count;
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
mean_down(const SS_ACC* frames, SS_ACC* out, const Frames s) {
    __shared__ SS_ACC tile[SS_SIDE][SS_SIDE + 1];
    const int across = (s.w + SS_SIDE - 1) / SS_SIDE, down = (s.h + SS_SIDE - 1) / SS_SIDE;
    const int lane = threadIdx.x % SS_SIDE, warp = threadIdx.x / SS_SIDE;
    const int left = (int)(blockIdx.x % across) * SS_SIDE, top = (int)(blockIdx.x / across % down) * SS_SIDE;
    const long long frame = (long long)(blockIdx.x / across / down) * s.h * s.w;
    const Column column = {frames + frame + min(left + lane, s.w - 1), s.h, s.w};
    for (int row = warp * SS_ROWS; row < (warp + 1) * SS_ROWS; row += SS_RUN)
        means(column, top + row, s.by, &tile[row][lane]);
    __syncthreads();
    for (int i = warp; i < SS_SIDE; i += SS_THREADS / SS_SIDE)
        if (left + i < s.w && top + lane < s.h) out[frame + (long long)(left + i) * s.h + top + lane] = tile[lane][i];
}
