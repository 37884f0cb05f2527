// Arrays of a call and how they lie in memory.
//
//   q        (B, qT, G * F, qH, qW) queries' video, with any strides; with SS_STACKED (B * K, qT, G * F, qH, qW), where
//            kept candidate n of a query belongs to video n of its batch
//   k        (B, kT, G * F, kH, kW) keys' video, with any strides
//   weights  (B, G, T, h, w, K), like scores and all else that each kept candidate has one of
//   offsets  (B, G, T, h, w, K, 3), (dt, dy, dx) from a query to the place of each kept candidate
//
// Videos that kernels write are channels first, (B, T, G * F, H, W).
#ifndef SS_VIDEO_CUH
#define SS_VIDEO_CUH

#include "number.cuh"

// Sizes of a call, the same for every kernel that reads patches. Python reads these fields, and fills them by name.
struct Sizes {
    int G, F, K;  // heads, channels of a head, kept candidates of a query
    int T, h, w;  // frames, rows and columns of queries
    int t0, y0, x0;  // the first of them, if only a part of the grid is computed
    int qT, qH, qW;  // frames, rows and columns of q
    int kT, kH, kW;  // and of k
};

// A query: its batch and head, and its frame t and pixel (y, x), in pixels of k.
struct Query {
    int b, g, t, y, x;
};

// Query number i of (B, G, T, h, w).
__device__ inline Query query_of(long long i, const Sizes& s) {
    Query r;
    r.x = (s.x0 + (int)(i % s.w)) * SS_STRIDE, i /= s.w;
    r.y = (s.y0 + (int)(i % s.h)) * SS_STRIDE, i /= s.h;
    r.t = s.t0 + (int)(i % s.T), i /= s.T;
    r.g = (int)(i % s.G), r.b = (int)(i / s.G);
    return r;
}

// Each row of `across` items is done by whole blocks. So indices fit 32 bits, as those of a whole array may not, and
// only the number of the block has to be divided.
struct Item {
    unsigned row;
    int at;
};

__device__ inline bool item_of(int across, Item* item) {
    const unsigned blocks = (across - 1) / blockDim.x + 1;
    *item = {blockIdx.x / blocks, (int)(blockIdx.x % blocks * blockDim.x + threadIdx.x)};
    return item->at < across;
}

// The query in column x of a row of queries, of (B, G, T, h).
__device__ inline Query query_at(unsigned row, int x, const Sizes& s) {
    Query r;
    r.x = (s.x0 + x) * SS_STRIDE;
    r.y = (s.y0 + (int)(row % s.h)) * SS_STRIDE, row /= s.h;
    r.t = s.t0 + (int)(row % s.T), row /= s.T;
    r.g = (int)(row % s.G), r.b = (int)(row / s.G);
    return r;
}

// Query number i of all, whose batch and head are known.
__device__ inline Query query_of_head(unsigned i, int b, int g, const Sizes& s) {
    Query r = {b, g, 0, 0, 0};
    r.x = (s.x0 + (int)(i % s.w)) * SS_STRIDE, i /= s.w;
    r.y = (s.y0 + (int)(i % s.h)) * SS_STRIDE, i /= s.h;
    r.t = s.t0 + (int)(i % s.T);
    return r;
}

// A kept candidate, of (B, G, T, h, w, K): its index, its query, and which one of the query's it is.
struct Kept {
    long long index;
    Query r;
    int n;
};

__device__ inline Kept kept_at(unsigned row, int at, const Sizes& s) {
    const int n = at % s.K, x = at / s.K;
    return {((long long)row * s.w + x) * s.K + n, query_at(row, x, s), n};
}

#endif
