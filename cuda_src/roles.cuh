// What kernels that search on tiles have in common beside what they sum and keep: which thread does what, and
// what windows reach. See search_tiles.cu.
#ifndef SS_ROLES_CUH
#define SS_ROLES_CUH

#include "consume.cuh"
#include "produce.cuh"

// The smallest of the numbers of a warp.
__device__ inline int least(int mine) {
#if __CUDA_ARCH__ >= 800
    return __reduce_min_sync(SS_ALL, mine);
#else
#pragma unroll
    for (int apart = 16; apart; apart /= 2) mine = min(mine, __shfl_xor_sync(SS_ALL, mine, apart));
    return mine;
#endif
}

// Widens the limits of the groups of a warp by those of each thread's queries, which are in `group`.
__device__ inline void widen(Limits* limits, const Limits& mine, int group) {
    const int last = __shfl_sync(SS_ALL, group, 31);
#pragma unroll 1
    for (int i = __shfl_sync(SS_ALL, group, 0); i <= last; ++i) {
        const Limits some = group == i ? mine : nowhere();
        const Limits all = {least(some.y), least(some.x), least(some.last_y), least(some.last_x)};
        if (threadIdx.x % 32 != 0) continue;
        atomicMin(&limits[i].y, all.y), atomicMin(&limits[i].x, all.x);
        atomicMin(&limits[i].last_y, all.last_y), atomicMin(&limits[i].last_x, all.last_x);
    }
}

// Whether a tile's displacements in a slot are too many, or need more of k than there is memory for.
__device__ inline bool too_wide(long long tall, long long wide) {
    return tall > SS_TALLEST || wide > 255 || tall * wide > (long long)SS_BUDGET * SS_WINDOW_Y * SS_WINDOW_X ||
           SS_KEPT_ROWS * strips_of((int)wide) * SS_STRIP > SS_RING;
}

// What a thread does: a producer has a strip of four pixels in a line of the tile, a consumer the queries below (y, x).
struct Role {
    bool producer;
    int strip, line;
    Four four;
    int consumer, owner;  // its number among all, and among those with queries
    int row, column, y, x;  // of its first query, in the tile and in the frame
    unsigned exist;  // a bit for each of its queries
    int group, from, to;  // of its queries; those of all queries that its warp works for
};

__device__ inline Role role_of(const Plane& mine, const Tile& tile, const Sizes& s) {
    Role role;
    // all threads of a warp do the same, as the compiler knows from a shuffle
    role.producer = __shfl_sync(SS_ALL, threadIdx.x / 32, 0) < SS_PRODUCERS / 32;
    role.strip = threadIdx.x % 8, role.line = threadIdx.x / 8;
    role.four = four_at(mine, tile.top + role.line - SS_MARGIN, tile.left + 4 * role.strip - SS_MARGIN);
    role.consumer = role.producer ? 0 : (int)threadIdx.x - SS_PRODUCERS;
    role.owner = min(role.consumer, SS_OWNERS - 1);
    role.column = role.owner % SS_TILE_X, role.row = role.owner / SS_TILE_X * SS_COLUMN;
    role.y = tile.top + role.row, role.x = tile.left + role.column;
    role.exist = 0;
#pragma unroll
    for (int r = 0; r < SS_COLUMN; ++r) {
        const bool is_query = role.row + r < SS_TILE_Y && role.y + r < s.h && role.x < s.w;
        role.exist |= (unsigned)(role.consumer < SS_OWNERS && is_query) << r;
    }
    const int warp = threadIdx.x / 32 * 4, first = role.consumer / 32 * 32, last = min(first + 31, SS_OWNERS - 1);
    role.group = role.owner / SS_TILE_X;  // a warp of producers has four lines, which patches of queries above reach
    role.from = role.producer ? max(warp - SS_PATCH + 1, 0) / SS_COLUMN : first / SS_TILE_X;
    role.to = role.producer ? min((warp + 3) / SS_COLUMN, SS_GROUPS - 1) : last / SS_TILE_X;
    return role;
}

// What all of a tile's windows reach, 0 wide if it is too large.
__device__ inline Reach reach_of(const Limits* limits) {
    Limits all = limits[0];
#pragma unroll
    for (int i = 1; i < SS_GROUPS; ++i) all = both(all, limits[i]);
    const long long tall = -(long long)all.last_y - all.y + SS_WINDOW_Y;
    const long long wide = -(long long)all.last_x - all.x + SS_WINDOW_X;
    return {all.y, all.x, (int)tall, too_wide(tall, wide) ? 0 : (int)wide};
}

// The part of a reach that is in the windows of some groups: the same for all threads of a warp, as the compiler knows
// from shuffles.
__device__ inline Part part_of(const Reach& reach, const Limits* limits, int from, int to) {
    Limits some = nowhere();
#pragma unroll 1
    for (int i = from; i <= to; ++i) some = both(some, limits[i]);
    const bool none = some.y == nowhere().y;
    const Part part = {none ? 0 : some.y - reach.y, none ? 0 : some.x - reach.x,
                       none ? 0 : SS_WINDOW_Y - reach.y - some.last_y, none ? 0 : SS_WINDOW_X - reach.x - some.last_x};
    return {__shfl_sync(SS_ALL, part.y, 0), __shfl_sync(SS_ALL, part.x, 0), __shfl_sync(SS_ALL, part.end_y, 0),
            __shfl_sync(SS_ALL, part.end_x, 0)};
}

// Where a slot's reach begins, from a query.
struct Begin {
    int t, y, x;
};

#endif
