// out (SS_CHANNELS, h, w): target, likewise, read at offsets (2, h, w) of dx and dy from each pixel, the mean of all
// patches that have it. definition/resample.py has the formula.
//
// A thread has a pixel, and asks the queries whose patch has it.
#include "grid.cuh"
#include "number.cuh"

#define SS_THREADS 128

struct Frame {
    int h, w;
};

// Keys' cubic convolution kernel with a = -0.58.
__device__ inline SS_ACC cubic(SS_ACC x) {
    if (x < 1) return ((SS_ACC)1.42 * x - (SS_ACC)2.42) * x * x + 1;
    return (SS_ACC)-0.58 * (((x - 5) * x + 8) * x - 4);
}

// Along an axis of n pixels, the four that are read for a pixel `apart` from the middle of a patch, and their weights.
struct Taps {
    int at[4];
    SS_ACC weight[4];

    __device__ Taps(SS_ACC offset, int query, int apart, int n) {
        const SS_ACC whole = floor(offset), share = offset - whole;
        const SS_ACC away[4] = {1 + share, share, 1 - share, 2 - share};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            at[i] = reflect(reflect(query + (int)whole + i - 1, n) + apart, n);
            weight[i] = cubic(away[i]);
        }
    }
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
resample(const SS_ACC* target, const SS_ACC* offsets, SS_ACC* out, const Frame s) {
    const int across = (s.w - 1) / SS_THREADS + 1, y = blockIdx.x / across;
    const int x = blockIdx.x % across * SS_THREADS + threadIdx.x;
    if (x >= s.w) return;
    const long long plane = (long long)s.h * s.w;
    SS_ACC sum[SS_CHANNELS] = {};
    int count = 0;
#pragma unroll 1
    for (int a = 0; a < SS_PATCH; ++a) {
        const int down = a - SS_PATCH / 2, query_y = y - down;
        if (query_y < 0 || query_y >= s.h) continue;
#pragma unroll 1
        for (int b = 0; b < SS_PATCH; ++b) {
            const int right = b - SS_PATCH / 2, query_x = x - right;
            if (query_x < 0 || query_x >= s.w) continue;
            const SS_ACC* const offset = offsets + (long long)query_y * s.w + query_x;
            const Taps rows(offset[plane], query_y, down, s.h), columns(offset[0], query_x, right, s.w);
            ++count;
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const SS_ACC weight = rows.weight[i / 4] * columns.weight[i % 4];
                const SS_ACC* const pixel = target + (long long)rows.at[i / 4] * s.w + columns.at[i % 4];
#pragma unroll
                for (int c = 0; c < SS_CHANNELS; ++c) {
                    const SS_ACC value = pixel[c * plane];
                    sum[c] = multiply_add(weight, weight != 0 ? value : 0, sum[c]);
                }
            }
        }
    }
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) out[c * plane + (long long)y * s.w + x] = sum[c] / count;
}
