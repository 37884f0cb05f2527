// How much neighbouring pixels of k differ, summed over patches: what search_subpixel.cu subtracts.
//
//   spread  (B, G, T, H, W + 2 * SS_BESIDE, 4): at pixel n, the sums over patch pixels u and channels of
//             (k(n + u) - k(n + u + x))**2,   x the pixel to the right, y the one below
//             (k(n + u) - k(n + u + y))**2
//             (k(n + u) - k(n + u + x + y))**2 + (k(n + u + x) - k(n + u + y))**2
//             and the first of pixel n + y
//
// A block has 32 x 32 pixels n. The order of all sums is the same everywhere: equal patches have equal sums.
//
// Constants: SS_PATCH, SS_BESIDE, SS_VECTORS of clip.cuh.
#include "clip.cuh"
#include "grid.cuh"

#define SS_WIDE (32 + SS_PATCH - 1)
#define SS_TALL (33 + SS_PATCH - 1)

struct Sums {
    float right, below, across;
};

__device__ inline void add(Sums& sums, const Sums& more) {
    sums.right += more.right, sums.below += more.below, sums.across += more.across;
}

__device__ inline float squared(float difference, float sum) { return __fmaf_rn(difference, difference, sum); }

__device__ inline void load_some(const SS_SCALAR* from, float* to) {
    if (SS_VECTORS) load_few(from, to);
    else to[0] = load(from);
}

// Of one pixel.
__device__ inline Sums differences(const Plane& k, int y, int x, int F) {
    const int up = reflect(y, k.H), down = reflect(y + 1, k.H), left = reflect(x, k.W), right = reflect(x + 1, k.W);
    const int step = SS_VECTORS ? SS_FEW : 1;
    const SS_SCALAR* const at[4] = {k.at(up, left), k.at(up, right), k.at(down, left), k.at(down, right)};
    Sums sums = {0, 0, 0};
#pragma unroll 2
    for (int f = 0; f < F; f += step) {
        float corners[4][SS_FEW];
#pragma unroll
        for (int i = 0; i < 4; ++i) load_some(at[i] + (long long)f * k.channel, corners[i]);
#pragma unroll
        for (int i = 0; i < step; ++i) {
            const float a = corners[0][i], b = corners[1][i], c = corners[2][i], d = corners[3][i];
            sums.right = squared(a - b, sums.right), sums.below = squared(a - c, sums.below);
            sums.across = squared(b - c, squared(a - d, sums.across));
        }
    }
    return sums;
}

extern "C" __global__ void __launch_bounds__(256)
spread(const SS_SCALAR* k, float* spread, const Sizes s, const Strides m, int across, int down) {
    __shared__ Sums pixels[SS_TALL * SS_WIDE];
    __shared__ Sums rows[SS_TALL * 32];
    const int in_frame = blockIdx.x % (across * down), x = threadIdx.x % 32, y = threadIdx.x / 32;
    unsigned frame = blockIdx.x / (across * down);
    const int t = frame % s.kT, g = frame / s.kT % s.G, b = frame / s.kT / s.G;
    const int left = in_frame % across * 32 - SS_BESIDE, top = in_frame / across * 32;
    const Plane plane = plane_of_k(k, b, g, t, s, m);
#pragma unroll 1
    for (int i = threadIdx.x; i < SS_TALL * SS_WIDE; i += 256)
        pixels[i] = differences(plane, top + i / SS_WIDE - SS_PATCH / 2, left + i % SS_WIDE - SS_PATCH / 2, s.F);
    __syncthreads();
#pragma unroll 1
    for (int row = y; row < SS_TALL; row += 8) {
        Sums sums = {0, 0, 0};
#pragma unroll
        for (int j = 0; j < SS_PATCH; ++j) add(sums, pixels[row * SS_WIDE + x + j]);
        rows[row * 32 + x] = sums;
    }
    __syncthreads();
    if (left + x >= s.kW + SS_BESIDE) return;
#pragma unroll 1
    for (int row = y; row < 32 && top + row < s.kH; row += 8) {
        Sums sums = {0, 0, 0};
        float below = 0;
#pragma unroll
        for (int i = 0; i < SS_PATCH; ++i) {
            add(sums, rows[(row + i) * 32 + x]);
            below += rows[(row + 1 + i) * 32 + x].right;
        }
        const long long line = ((long long)frame * s.kH + top + row) * (s.kW + 2 * SS_BESIDE);
        reinterpret_cast<float4*>(spread)[line + left + x + SS_BESIDE] = {sums.right, sums.below, sums.across, below};
    }
}
