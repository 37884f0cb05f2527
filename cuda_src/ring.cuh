// Rows of k in shared memory: those that a tile needs at a displacement, and the one that it needs next.
#ifndef SS_RING_CUH
#define SS_RING_CUH

#include "query_tile.cuh"
#include "whole.cuh"

struct Ring {
    char* rows;
    int strips;  // of a row

    __device__ char* row(int y) const { return rows + y % SS_KEPT_ROWS * strips * SS_STRIP; }
};

// Of a row, for so many displacements.
__device__ inline int strips_of(int wide) { return (SS_PIXELS - 1 + max(wide, SS_FEWEST) + 3) / 4; }

__device__ inline char* pixel_of(char* row, int x) { return row + x * SS_PIXEL + (x >> 2) * 16; }

__device__ inline SS_SCALAR zero() { return (SS_SCALAR)0.f; }

// Four channels of a pixel.
struct alignas(4 * sizeof(SS_SCALAR)) Run {
    SS_SCALAR of[4];
};

// Row y of the pixels that a tile needs, by `threads` threads.
__device__ inline void stage(const Ring& ring, int y, const Slot& slot, int F, int thread, int threads) {
    char* const row = ring.row(y);
    const Plane& k = slot.k;
    const int v = slot.y + y, there = SS_ZEROS ? min(max(v, 0), k.H - 1) : reflect(v, k.H);
#if SS_VECTORS
    const int parts = SS_PIXEL / 16, items = ring.strips * 4 * parts;
#pragma unroll 1
    for (int i = thread; i < items; i += threads) {
        const int x = i / parts, f = i % parts * SS_FEW, u = slot.x + x;
        uint4 few = {0, 0, 0, 0};
        if (f < F && (!SS_ZEROS || k.has(v, u)))
            few = *reinterpret_cast<const uint4*>(k.at(there, SS_ZEROS ? u : reflect(u, k.W)) + f);
        *reinterpret_cast<uint4*>(pixel_of(row, x) + f * (int)sizeof(SS_SCALAR)) = few;
    }
#else
    const unsigned runs = SS_CHUNKS * SS_CHANNELS / 4, side_by_side = 8;  // so that no divisor is unknown
    const unsigned items = (ring.strips + 1) / 2 * side_by_side * runs;
#pragma unroll 1
    for (unsigned i = thread; i < items; i += threads) {
        const int x = i / (side_by_side * runs) * side_by_side + i % side_by_side, f = i / side_by_side % runs * 4;
        const int u = slot.x + x;
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

#endif
