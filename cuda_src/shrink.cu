// Groups of patches, filtered in the spectrum of their cosine transform. definition/shrink.py has the formulas: those
// of `wiener` with SS_GUIDED, else those of `threshold`.
//
//   groups, guide, found   (count, SS_COUNT, SS_PATCH * SS_PATCH)
//   levels, powers         (SS_PATCH * SS_PATCH), levels or, with SS_GUIDED, variances of noise
//   weights                (count)
//
// A block has SS_GROUPS groups, which stay in shared memory. Its threads transform them across their patches, then
// along rows and down columns, in whose registers they are filtered, and back. Rows of shared memory have one number
// more than those of patches, so that neither rows nor columns meet in its banks.
#include "cosines.cuh"

#define SS_THREADS 128
#define SS_PIXELS (SS_PATCH * SS_PATCH)
#define SS_LINES (SS_GROUPS * SS_COUNT * SS_PATCH)  // rows, or columns, of all patches of a block
#define SS_APART (SS_PATCH + 1)  // numbers from row to row
#define SS_SIZE (SS_PATCH * SS_APART)  // of a patch

// Pixel number `pixel` of the first patch of a group.
__device__ inline SS_ACC* pixel_of(SS_ACC* memory, int group, int pixel) {
    return memory + group * (SS_COUNT * SS_SIZE) + pixel / SS_PATCH * SS_APART + pixel % SS_PATCH;
}

// Reads groups and transforms them across their patches.
__device__ inline void read(const SS_ACC* groups, SS_ACC* memory, int left) {
    for (int i = threadIdx.x; i < min(SS_GROUPS, left) * SS_PIXELS; i += SS_THREADS) {
        const int group = i / SS_PIXELS, pixel = i % SS_PIXELS;
        const SS_ACC* from = groups + group * (SS_COUNT * SS_PIXELS) + pixel;
        SS_ACC *to = pixel_of(memory, group, pixel), x[SS_COUNT];
#pragma unroll
        for (int n = 0; n < SS_COUNT; ++n) x[n] = from[n * SS_PIXELS];
        transform<SS_COUNT>(x);
#pragma unroll
        for (int n = 0; n < SS_COUNT; ++n) to[n * SS_SIZE] = x[n];
    }
}

// The numbers of a line, so many apart.
template <int apart> __device__ inline void load_line(const SS_ACC* line, SS_ACC* x) {
#pragma unroll
    for (int n = 0; n < SS_PATCH; ++n) x[n] = line[n * apart];
}

template <int apart> __device__ inline void store_line(SS_ACC* line, const SS_ACC* x) {
#pragma unroll
    for (int n = 0; n < SS_PATCH; ++n) line[n * apart] = x[n];
}

// A gain at a frequency, and what it adds to the noise that is left.
struct Gain {
    SS_ACC factor, noise;
};

__device__ inline Gain gain_of(SS_ACC number, SS_ACC guide, SS_ACC level, SS_ACC power, bool lowest) {
    if (SS_GUIDED) {
        const SS_ACC gain = guide * guide / (guide * guide + level);
        return {gain, gain * gain * power};
    }
    const bool keep = lowest || fabs(number) > level;
    return {(SS_ACC)keep, keep ? power : 0};
}

// Filters a column of a spectrum, and returns the noise that is left in it.
__device__ inline SS_ACC filter(SS_ACC* column, const SS_ACC* guide, const SS_ACC* levels, const SS_ACC* powers,
                                bool first) {
    SS_ACC x[SS_PATCH], g[SS_PATCH] = {}, noise = 0;
    load_line<SS_APART>(column, x);
    transform<SS_PATCH>(x);
    if (SS_GUIDED) {
        load_line<SS_APART>(guide, g);
        transform<SS_PATCH>(g);
    }
#pragma unroll
    for (int n = 0; n < SS_PATCH; ++n) {
        const Gain gain = gain_of(x[n], g[n], levels[n * SS_PATCH], powers[n * SS_PATCH], first && n == 0);
        x[n] *= gain.factor, noise += gain.noise;
    }
    transform_back<SS_PATCH>(x);
    store_line<SS_APART>(column, x);
    return noise;
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
shrink(const SS_ACC* groups, const SS_ACC* guide, const SS_ACC* levels, const SS_ACC* powers, SS_ACC* found,
       SS_ACC* weights, long long count) {
    __shared__ SS_ACC noisy[SS_GROUPS * SS_COUNT * SS_SIZE];
    __shared__ SS_ACC guiding[SS_GUIDED ? SS_GROUPS * SS_COUNT * SS_SIZE : 1];
    __shared__ SS_ACC noise[SS_LINES];
    const long long first = blockIdx.x * (long long)SS_GROUPS, begin = first * SS_COUNT * SS_PIXELS;
    const int here = (int)min((long long)SS_GROUPS, count - first), lines = here * SS_COUNT * SS_PATCH;
    read(groups + begin, noisy, here);
    if (SS_GUIDED) read(guide + begin, guiding, here);
    __syncthreads();
    for (int i = threadIdx.x; i < lines; i += SS_THREADS) {  // rows
        SS_ACC x[SS_PATCH];
        load_line<1>(noisy + i * SS_APART, x);
        transform<SS_PATCH>(x);
        store_line<1>(noisy + i * SS_APART, x);
        if (!SS_GUIDED) continue;
        load_line<1>(guiding + i * SS_APART, x);
        transform<SS_PATCH>(x);
        store_line<1>(guiding + i * SS_APART, x);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < lines; i += SS_THREADS) {  // columns
        const int patch = i / SS_PATCH, x = i % SS_PATCH, at = patch * SS_SIZE + x;
        const bool lowest = patch % SS_COUNT == 0 && x == 0;
        noise[i] = filter(noisy + at, guiding + at, levels + x, powers + x, lowest);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < lines; i += SS_THREADS) {  // rows again
        SS_ACC x[SS_PATCH];
        load_line<1>(noisy + i * SS_APART, x);
        transform_back<SS_PATCH>(x);
        store_line<1>(noisy + i * SS_APART, x);
    }
    for (int group = threadIdx.x / 32; group < here; group += SS_THREADS / 32) {
        SS_ACC sum = 0;
        for (int i = threadIdx.x % 32; i < SS_COUNT * SS_PATCH; i += 32) sum += noise[group * SS_COUNT * SS_PATCH + i];
        for (int away = 16; away; away /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, away);
        if (threadIdx.x % 32 == 0) weights[first + group] = 1 / (SS_GUIDED + sum);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < here * SS_PIXELS; i += SS_THREADS) {
        const int group = i / SS_PIXELS, pixel = i % SS_PIXELS;
        SS_ACC* to = found + begin + group * (SS_COUNT * SS_PIXELS) + pixel;
        SS_ACC *from = pixel_of(noisy, group, pixel), x[SS_COUNT];
#pragma unroll
        for (int n = 0; n < SS_COUNT; ++n) x[n] = from[n * SS_SIZE];
        transform_back<SS_COUNT>(x);
#pragma unroll
        for (int n = 0; n < SS_COUNT; ++n) to[n * SS_PIXELS] = x[n];
    }
}
