// What the queries of a tile get from what they have found, which lies in shared memory: for attend_tiles.cu and, where
// candidates are more than registers hold at a time, attend_points.cu. For the arrays see attend_best.cuh.
//
// Constants: those of attend_best.cuh, SS_THREADS, SS_TILE_X, SS_TILE_Y, SS_SLIDE, SS_ZEROS.
#ifndef SS_ATTEND_TILE_CUH
#define SS_ATTEND_TILE_CUH

#include "attend_best.cuh"
#include "windows.cuh"

#define SS_EACH (SS_TILE_X * SS_TILE_Y * SS_ATTENDED)
#define SS_EMPTY (!SS_SLIDE || SS_ZEROS)  // whether candidates may be no pixels

// Of each query of a tile, row by row: scores, which become weights, and places as the search knows them.
struct Found {
    float* scores;
    int* places;
};

// A pixel of a clip that a candidate is, if it is `there`.
struct Pixel {
    int t, y, x;
    bool there;
};

__device__ inline Pixel pixel_at(int t, int y, int x, const Sizes& s) {
    return {t, y, x, !SS_EMPTY || ((unsigned)y < (unsigned)s.kH && (unsigned)x < (unsigned)s.kW)};
}

// Sums the values of query (y, x); `locate` finds the pixel of one of its candidates. With the share that is left out.
template <class Locate>
__device__ inline void sum_values(const Found& found, int first, int y, int x, const Tile& tile, const SS_SCALAR* v,
                                  float share, SS_SCALAR* out, const Values& m, const Sizes& s, const Locate& locate) {
    const int plane = s.kH * s.kW;
#pragma unroll 1
    for (int c = 0; c < m.FV; c += SS_RUN_V, v += SS_RUN_V * (long long)m.v_c) {
        float sum[SS_RUN_V];
#pragma unroll
        for (int i = 0; i < SS_RUN_V; ++i) sum[i] = 0;
#pragma unroll 2
        for (int e = first; e < first + SS_ATTENDED; ++e) {
            const Pixel at = locate(found.places[e], y, x);
            if (!at.there || found.scores[e] == 0) continue;
            const long long pixel = at.t * m.v_t + (long long)at.y * m.v_y + (long long)at.x * m.v_x;
            add_value<SS_RUN_V>(sum, found.scores[e], v + pixel, m.v_c);
        }
#pragma unroll
        for (int i = 0; i < SS_RUN_V; ++i, out += plane) store(out, sum[i] * share);
    }
}

// The weights, places and offsets that are asked for. Those of a row of queries lie side by side.
template <class Locate>
__device__ inline void write_found(const Found& found, const Tile& tile, const Attended& to, const Sizes& s,
                                   const Locate& locate) {
    const int across = min(SS_TILE_X, s.w - tile.left) * SS_ATTENDED, tall = min(SS_TILE_Y, s.h - tile.top);
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < tall; row += SS_THREADS / 32) {
        const long long first = ((clip * s.h + tile.top + row) * s.w + tile.left) * SS_ATTENDED;
#pragma unroll 1
        for (int i = threadIdx.x % 32; i < across; i += 32) {
            const int from = row * SS_TILE_X * SS_ATTENDED + i, y = tile.top + row, x = tile.left + i / SS_ATTENDED;
            const Pixel at = locate(found.places[from], y, x);
            if (to.places) to.places[first + i] = at.there ? (at.t * s.kH + at.y) * s.kW + at.x : -1;
            if (!to.weights) continue;
            to.weights[first + i] = found.scores[from];
            SS_PLACE* const offset = to.offsets + 3 * (first + i);
            offset[0] = at.t - tile.t, offset[1] = at.y - y, offset[2] = at.x - x;
        }
    }
}

// All threads of a block.
template <class Locate>
__device__ inline void attend_tile(const Found& found, const Tile& tile, const SS_SCALAR* v, float factor,
                                   const Attended& to, const Values& m, const Sizes& s, const Locate& locate) {
    __syncthreads();
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
#pragma unroll 1
    for (int i = threadIdx.x; i < SS_TILE_X * SS_TILE_Y; i += SS_THREADS) {
        const int y = tile.top + i / SS_TILE_X, x = tile.left + i % SS_TILE_X, first = i * SS_ATTENDED;
        if (y >= s.h || x >= s.w) continue;
        float* const scores = found.scores + first;
        const Softmax sums = weigh(scores, SS_ATTENDED, factor);
        SS_SCALAR* const out = pixel_of_out(to.out, tile.b, tile.t, tile.g, y, x, m, s);
        sum_values(found, first, y, x, tile, clip_of_v(v, tile.b, tile.g, m), sums.share, out, m, s, locate);
        reinterpret_cast<float2*>(to.sums)[(clip * s.h + y) * s.w + x] = {sums.most, sums.total};
        for (int e = 0; to.weights && e < SS_ATTENDED; ++e) scores[e] *= sums.share;
    }
    __syncthreads();
    if (to.places || to.weights) write_found(found, tile, to, s, locate);
}

#endif
