// What producers of search_tiles.cu do: compare pixels at several displacements, and sum along the rows of patches.
#ifndef SS_PRODUCE_CUH
#define SS_PRODUCE_CUH

#include "pairs.cuh"
#include "query_tile.cuh"
#include "whole.cuh"

// --- k in shared memory ---------------------------------------------------------------------------
struct Ring {
    char* rows;
    int strips;  // of a row

    __device__ char* row(int y) const { return rows + y % SS_KEPT_ROWS * strips * SS_STRIP; }
};

__device__ inline char* pixel_of(char* row, int x) { return row + x * SS_PIXEL + (x >> 2) * 16; }

__device__ inline SS_SCALAR zero() { return (SS_SCALAR)0.f; }

// Four channels of a pixel.
struct alignas(4 * sizeof(SS_SCALAR)) Run {
    SS_SCALAR of[4];
};

// Row y of the pixels that a tile needs, whose first is at (from_y, from_x) of the frame, by `threads` threads.
__device__ inline void stage(const Ring& ring, int y, const Plane& k, int F, int from_y, int from_x, int thread,
                             int threads) {
    char* const row = ring.row(y);
    const int v = from_y + y, there = SS_ZEROS ? min(max(v, 0), k.H - 1) : reflect(v, k.H);
#if SS_VECTORS
    const int parts = SS_PIXEL / 16, items = ring.strips * 4 * parts;
#pragma unroll 1
    for (int i = thread; i < items; i += threads) {
        const int x = i / parts, f = i % parts * SS_FEW, u = from_x + x;
        uint4 few = {0, 0, 0, 0};
        if (f < F && (!SS_ZEROS || k.has(v, u)))
            few = *reinterpret_cast<const uint4*>(k.at(there, SS_ZEROS ? u : reflect(u, k.W)) + f);
        *reinterpret_cast<uint4*>(pixel_of(row, x) + f * (int)sizeof(SS_SCALAR)) = few;
    }
#else
    const int runs = SS_CHUNKS * SS_CHANNELS / 4, side_by_side = 8;  // so that neither divides by what is not known
    const int items = (ring.strips * 4 + side_by_side - 1) / side_by_side * side_by_side * runs;
#pragma unroll 1
    for (int i = thread; i < items; i += threads) {
        const int x = i / (side_by_side * runs) * side_by_side + i % side_by_side, f = i / side_by_side % runs * 4;
        const int u = from_x + x;
        if (x >= ring.strips * 4) continue;
        const bool exists = !SS_ZEROS || k.has(v, u);
        const SS_SCALAR* from = k.at(there, SS_ZEROS ? u : reflect(u, k.W)) + (long long)f * k.channel;
        Run run;
#pragma unroll
        for (int j = 0; j < 4; ++j, from += k.channel) run.of[j] = exists && f + j < F ? *from : zero();
        *reinterpret_cast<Run*>(pixel_of(row, x) + f * (int)sizeof(SS_SCALAR)) = run;
    }
#endif
}

// --- producers ------------------------------------------------------------------------------------
// Four pixels of q in a row, of which bit i of `there` says whether pixel i is one of the frame.
struct Four {
    int y, x;
    unsigned there;
};

__device__ inline Four four_at(const Plane& q, int y, int x) {
    Four four = {y, x, 0};
#pragma unroll
    for (int j = 0; j < 4; ++j) four.there |= (unsigned)q.has(y, x + j) << j;
    return four;
}

// Their channels from `first` on.
__device__ inline void load_four(const Plane& q, const Four& four, int first, int F, float* to) {
    const int y = reflect(four.y, q.H);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const bool there = !SS_ZEROS || (four.there >> j & 1);
        const SS_SCALAR* from = q.at(y, reflect(four.x + j, q.W)) + (long long)first * q.channel;
#pragma unroll
        for (int f = 0; f < SS_CHANNELS; f += SS_VECTORS ? SS_FEW : 1) {
            float* const few = to + j * SS_CHANNELS + f;
            const bool exists = there && first + f < F;
            if (SS_VECTORS && exists) load_few(from + f, few);
            if (SS_VECTORS && !exists)
#pragma unroll
                for (int i = 0; i < SS_FEW; ++i) few[i] = 0;
            if (!SS_VECTORS) few[0] = exists ? load(from) : 0, from += q.channel;
        }
    }
}

__device__ inline float pixel_sum(const float* q, const float* k) {
    float sum = 0;
#pragma unroll
    for (int f = 0; f < SS_CHANNELS; ++f) sum = add_pair(q[f], k[f], sum);
    return sum;
}

// From the distances of a row of pixels, four to a lane, to sums along the rows of patches: four queries'.
__device__ inline float4 sums_along(float a0, float a1, float a2, float a3) {
    const float even[2] = {a0, a2}, own[2] = {plus(a0, a1), plus(a2, a3)};
    float pair[SS_PAIRS + 3], last[2];
#pragma unroll
    for (int i = 0; i < 2 + (SS_PATCH - 1) / 2; ++i)
        pair[i] = i < 2 ? own[i % 2] : __shfl_down_sync(SS_ALL, own[i % 2], i / 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int at = i + SS_PAIRS;
        last[i] = at < 2 ? even[at % 2] : __shfl_down_sync(SS_ALL, even[at % 2], at / 2);
    }
    return {even_sum(pair, last[0]), odd_sum(pair, a1, last[0]), even_sum(pair + 1, last[1]),
            odd_sum(pair + 1, a3, last[1])};
}

// Compares four pixels with those at n displacements, of which the first are at k, and sums along rows. `inside`: of
// pixels of k from there on, whether they are of the frame.
__device__ inline void produce(const char* k, int first, int n, const float* q, unsigned there, int u, int W,
                               bool further, float* sums, bool holds) {
    float e0[4], e1[4], e2[4];
#pragma unroll 1
    for (int block = 0; block < n + 3; block += 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int x = block + i;
            if (x >= n + 3) break;
            float theirs[SS_CHANNELS], e3 = 0;
            const SS_SCALAR* const pixel =
                reinterpret_cast<const SS_SCALAR*>(k + (first + x) * SS_PIXEL + ((first + x) >> 2) * 16);
#pragma unroll
            for (int f = 0; f < SS_CHANNELS; f += SS_FEW) load_few(pixel + f, theirs + f);
            // pixel j meets displacement x - j
            if (x < n) e0[i] = pixel_sum(q, theirs);
            if (x >= 1 && x < n + 1) e1[i] = pixel_sum(q + SS_CHANNELS, theirs);
            if (x >= 2 && x < n + 2) e2[i] = pixel_sum(q + 2 * SS_CHANNELS, theirs);
            if (x >= 3) e3 = pixel_sum(q + 3 * SS_CHANNELS, theirs);
            if (SS_ZEROS) {
                const unsigned exist = (unsigned)(u + x) < (unsigned)W ? there : 0;
                if (!(exist & 1)) e0[i] = 0;
                if (!(exist & 2)) e1[i] = 0;
                if (!(exist & 4)) e2[i] = 0;
                if (!(exist & 8)) e3 = 0;
            }
            if (x < 3) continue;
            float4 found = sums_along(e0[(i + 1) & 3], e1[(i + 2) & 3], e2[(i + 3) & 3], e3);
            if (!holds) continue;
            float4* const to = reinterpret_cast<float4*>(sums + (x - 3) * SS_SUMS_PLANE);
            if (further) {
                const float4 before = *to;
                found = {plus(before.x, found.x), plus(before.y, found.y), plus(before.z, found.z),
                         plus(before.w, found.w)};
            }
            *to = found;
        }
    }
}

// One step of a thread whose pixels are `four`, of strip `strip` in row `line`, into its half of the sums. The
// first pixel of the tile meets (from_y, from_x) of k at the first displacement of the reach.
__device__ inline void produce_step(const Ring& ring, const Plane& mine, const Four& four, int strip, int line,
                                    const Step& now, int from_y, int from_x, float* q, float* sums, const Sizes& s) {
    const bool inside = !SS_ZEROS || (unsigned)(from_y + line + now.dy) < (unsigned)s.kH;
    sums += now.half * SS_SUMS + line * SS_SUMS_ROW + 4 * strip;
#pragma unroll 1
    for (int chunk = 0; chunk < SS_CHUNKS; ++chunk) {
        if (SS_CHUNKS > 1) load_four(mine, four, chunk * SS_CHANNELS, s.F, q);
        const char* const k = ring.row(line + now.dy) + strip * SS_STRIP + chunk * SS_CHANNELS * sizeof(SS_SCALAR);
        produce(k, now.dx, now.n, q, inside ? four.there : 0, from_x + 4 * strip + now.dx, s.kW, chunk > 0, sums,
                strip < SS_STRIPS);
    }
}

#endif
