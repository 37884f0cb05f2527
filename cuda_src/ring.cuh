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

#define SS_PART (SS_CHANNELS < 8 ? SS_CHANNELS : 8)  // channels of a pixel that a thread stages

// Channels from f on of a pixel that begins at `from`; what does not exist is 0.
__device__ inline void load_part(const SS_SCALAR* from, const Plane& k, int f, int F, bool exists, SS_SCALAR* to) {
    from += (long long)f * k.channel;
#pragma unroll
    for (int j = 0; j < SS_PART; j += SS_VECTORS ? SS_FEW : 1) {
        const bool some = exists && (SS_FULL || f + j < F);
#if SS_VECTORS
        *reinterpret_cast<uint4*>(to + j) = some ? *reinterpret_cast<const uint4*>(from + j) : uint4{0, 0, 0, 0};
#else
        to[j] = some ? from[(long long)j * k.channel] : (SS_SCALAR)0.f;
#endif
    }
}

// Writes them as they are held.
__device__ inline void hold_part(const SS_SCALAR* part, char* to) {
    alignas(16) SS_HELD held[SS_PART];
#pragma unroll
    for (int j = 0; j < SS_PART; ++j) held[j] = (SS_HELD)part[j];
#pragma unroll
    for (int j = 0; j < SS_PART; j += SS_FEW_HELD)
        *reinterpret_cast<uint4*>(to + j * sizeof(SS_HELD)) = *reinterpret_cast<const uint4*>(held + j);
}

// Row y of the pixels that a tile needs, by `threads` threads. Neighbours have neighbouring pixels.
__device__ inline void stage(const Ring& ring, int y, const Slot& slot, int F, int thread, int threads) {
    char* const row = ring.row(y);
    const Plane& k = slot.k;
    const int v = slot.y + y, there = SS_ZEROS ? min(max(v, 0), k.H - 1) : reflect(v, k.H);
    const unsigned parts = SS_CHUNKS * SS_CHANNELS / SS_PART, side_by_side = 8;  // so that no divisor is unknown
    const unsigned items = (ring.strips + 1) / 2 * side_by_side * parts;
#pragma unroll 1
    for (unsigned i = thread; i < items; i += threads) {
        const int x = i / (side_by_side * parts) * side_by_side + i % side_by_side, u = slot.x + x;
        const int f = i / side_by_side % parts * SS_PART;
        if (x >= ring.strips * 4) continue;
        alignas(16) SS_SCALAR part[SS_PART];
        load_part(k.at(there, SS_ZEROS ? u : reflect(u, k.W)), k, f, F, !SS_ZEROS || k.has(v, u), part);
        hold_part(part, pixel_of(row, x) + f * (int)sizeof(SS_HELD));
    }
}

#endif
