// What the windows of a tile's queries need of each slot, and what a warp looks at there: for search_points.cu.
//
// Constants: SS_THREADS (one a query), SS_POOL bytes of shared memory for k, SS_STRIPS of 8 pixels that half a warp may
// look at in a row.
#ifndef SS_REACH_CUH
#define SS_REACH_CUH

#include "staged.cuh"
#include "windows.cuh"

#define SS_ALL 0xffffffffu
#define SS_WARPS (SS_THREADS / 32)
#define SS_SLOTS (2 * SS_RADIUS + 1)
#define SS_SIDE 64  // pixels of k along an axis, at most

// In a way that the compiler sees that all lanes have the same: it then need not see to it that they stay together.
__device__ inline int warp_number() { return __shfl_sync(SS_ALL, (int)threadIdx.x / 32, 0); }

#if __CUDA_ARCH__ >= 800
__device__ inline int least_of_warp(int x) { return __reduce_min_sync(SS_ALL, x); }
__device__ inline unsigned any_of_warp(unsigned bits) { return __reduce_or_sync(SS_ALL, bits); }
#else
__device__ inline int least_of_warp(int x) {
    for (int apart = 16; apart; apart /= 2) x = min(x, __shfl_xor_sync(SS_ALL, x, apart));
    return x;
}
__device__ inline unsigned any_of_warp(unsigned bits) {
    for (int apart = 16; apart; apart /= 2) bits |= __shfl_xor_sync(SS_ALL, bits, apart);
    return bits;
}
#endif

// What a warp looks at in a slot, from the corner of its region: rows, the first column, and from there on strips of 8
// pixels, a bit for each: below for the first half of its queries, above for the second.
struct Reach {
    int y, tall, x;
    unsigned strips;
};

// The query of a thread.
struct Asker {
    int row, column;  // in the tile
    int y, x;  // in the frame
    bool exists;
};

__device__ inline Asker asker_of(const Tile& tile, const Sizes& s) {
    const int lane = threadIdx.x % 32;
    Asker a;
    a.row = threadIdx.x / 32 * 2 + lane / 8 % 2, a.column = lane / 16 * 8 + lane % 8;
    a.y = tile.top + a.row, a.x = tile.left + a.column;
    a.exists = a.y < s.h && a.x < s.w;
    return a;
}

// --- where windows begin --------------------------------------------------------------------------
// Of a thread's window in each slot the first row and column, in 16 bits each: from the corner of the tile, then from
// that of the region.
struct Starts {
    int* of_threads;

    __device__ int& of(int slot) const { return of_threads[slot * SS_THREADS + threadIdx.x]; }
};

__device__ inline int packed(int y, int x) { return (int)((unsigned)y << 16 | (x & 0xffff)); }
__device__ inline int row_in(int start) { return start >> 16; }
__device__ inline int column_in(int start) { return (int)(short)(start & 0xffff); }

// All that a block knows of its slots.
struct Slots {
    int limits[SS_SLOTS][4];
    Region regions[SS_SLOTS];
    int at[SS_SLOTS], frames[SS_SLOTS];
    float largest[SS_SLOTS];  // sum of squares of a pixel
    Reach reaches[SS_SLOTS][SS_WARPS];
    bool held;  // all slots' pixels are held at a time
    int wild;   // 1: the tile is left
};

#define SS_NEAR 16384  // pixels from a tile that a window may begin

__device__ inline void find_starts(Slots& slots, const Starts& starts, const SS_AROUND* around, const Tile& tile,
                                   const Asker& asker, const Sizes& s, const Around& a) {
    const int y = min(asker.y, s.h - 1), x = min(asker.x, s.w - 1);
#pragma unroll 1
    for (int slot = 0; slot < a.windows; ++slot) {
        const Window window = window_of(flow_of(around, tile, slot, s, a), y, x, s);
        const int down = min(max(window.y.first + y - tile.top, -SS_NEAR), SS_NEAR);
        const int across = min(max(window.x.first + x - tile.left, -SS_NEAR), SS_NEAR);
        starts.of(slot) = packed(down, across);
        const int found[4] = {down, across, -down, -across};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int least = least_of_warp(found[i]);
            if (threadIdx.x % 32 == 0) atomicMin(&slots.limits[slot][i], least);
        }
    }
}

// By one thread.
__device__ inline void find_regions(Slots& slots, const Tile& tile, const Sizes& s, const Around& a) {
    int all = 0;
    slots.wild = 0;
#pragma unroll 1
    for (int slot = 0; slot < a.windows; ++slot) {
        const int* const limits = slots.limits[slot];
        const Region r = {tile.top + limits[0], tile.left + limits[1], -limits[2] - limits[0] + SS_WINDOW_Y,
                          (-limits[3] - limits[1] + SS_WINDOW_X + 1) / 2 * 2};
        const bool near = max(max(-limits[0], -limits[1]), max(-limits[2], -limits[3])) < SS_NEAR;
        const bool fits = near && r.tall <= SS_SIDE && r.wide <= SS_SIDE && r.pixels() * SS_PIXEL <= SS_POOL;
        slots.wild |= !fits;
        slots.regions[slot] = r, slots.at[slot] = all, slots.largest[slot] = 0;
        slots.frames[slot] = frame_of_slot(tile.t, slot + SS_FIRST_SLOT, s.kT, SS_RADIUS);
        all = fits ? all + r.pixels() * SS_PIXEL : SS_POOL;
        if (all > SS_POOL) all = SS_POOL + 1;
    }
    slots.held = all <= SS_POOL;
}

__device__ inline void find_reaches(Slots& slots, const Starts& starts, const Tile& tile, const Around& a) {
#pragma unroll 1
    for (int slot = 0; slot < a.windows; ++slot) {
        const Region& region = slots.regions[slot];
        const int start = starts.of(slot), second = threadIdx.x % 32 / 16;
        const int y = row_in(start) + tile.top - region.y, x = column_in(start) + tile.left - region.x;
        const int first = least_of_warp(y), last = -least_of_warp(-y), left = least_of_warp(x) & ~1;
        const unsigned from = (x - left) / 8, to = (x - left + SS_WINDOW_X - 1) / 8;
        const unsigned mine = (2u << to) - (1u << from);
        const unsigned strips = any_of_warp(mine << 8 * second);
        starts.of(slot) = packed(y, x);
        if (threadIdx.x % 32) continue;
        slots.reaches[slot][threadIdx.x / 32] = {first, last - first + SS_WINDOW_Y, left, strips};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned bits = strips >> 8 * half & 255;
            if (32 - __clz(bits) - (__ffs(bits) - 1) > SS_STRIPS) atomicOr(&slots.wild, 1);
        }
    }
}

#endif
