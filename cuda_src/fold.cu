// out (B, kT, G * F, kH, kW), to which patches (B, G, T, h, w, K, F, SS_PATCH, SS_PATCH) are added at whole places,
// times weights if SS_WEIGHTED, and with SS_COVERS `coverage` (B, kT, G, kH, kW), how much weight arrives at each
// pixel of a head. The same as scatter.cu, for frames that are larger than a patch. Other arrays: video.cuh.
//
// A warp has a square of pixels. It asks each cell from which a patch reaches into the square for its candidates once,
// where scatter.cu asks for each pixel of a patch, and its threads add what falls on their pixels. So the order of a
// sum is that of the places, from below to above and from right to left, and then that of the candidates.
//
// SS_SHARED: all heads have the places of the first, which alone is in the cells, weights or not. SS_HEADS: so many of
// the heads that share places are summed by a thread, else 1.
#include "channels.cuh"
#include "landing.cuh"

#define SS_THREADS 128
#define SS_SIDE 8  // pixels of a square
#define SS_PIXELS (SS_SIDE * SS_SIDE / 32)  // of a thread, from above to below
#define SS_ABOVE (SS_PATCH / 2)  // pixels of a patch before its place
#define SS_BELOW (SS_PATCH - 1 - SS_ABOVE)  // and behind it
#define SS_CELLS (SS_SIDE + SS_PATCH - 1)  // of a side, from which patches reach into a square
#define SS_NOWHERE -SS_FAR

// The position behind the border that is shown at pixel y of n, if a patch reaches there.
__device__ inline int mirrored(int y, int n) {
    if (y > 0 && y <= SS_ABOVE) return -y;
    if (y < n - 1 && y >= n - 1 - SS_BELOW) return 2 * (n - 1) - y;
    return SS_NOWHERE;
}

// The kinds of positions that a square shows: straight, and mirrored.
__device__ inline int kinds_of(int top, int n) {
    return !SS_ZEROS && (top <= SS_ABOVE || top + SS_SIDE >= n - SS_BELOW) ? 2 : 1;
}

// A warp's square of a frame, for SS_CHANNELS channels from f on of SS_HEADS heads from g on.
struct Square {
    int b, t, g, f, top, left;
};

__device__ inline bool square_of(const Sizes& s, Square* square) {
    Item item;
    if (!item_of((s.kW + SS_SIDE - 1) / SS_SIDE * 32, &item)) return false;
    const unsigned down = (s.kH + SS_SIDE - 1) / SS_SIDE, parts = s.F / SS_CHANNELS, heads = s.G / SS_HEADS;
    unsigned i = item.row;
    square->left = item.at / 32 * SS_SIDE;
    square->top = (int)(i % down) * SS_SIDE, i /= down;
    square->f = (int)(i % parts) * SS_CHANNELS, i /= parts;
    square->g = (int)(i % heads) * SS_HEADS, i /= heads;
    square->t = (int)(i % s.kT), square->b = (int)(i / s.kT);
    return true;
}

// What is added. Candidates in `order` are of the first head if places are shared.
struct Given {
    const SS_SCALAR* patches;
    const SS_ACC* weights;
    const int *order, *ends, *counts;
    long long own, of_head;  // from the first head to the thread's own, and from one to the next
};

struct Sums {
    SS_ACC of[SS_PIXELS][SS_HEADS][SS_CHANNELS], covered[SS_PIXELS][SS_HEADS];
};

// Adds to a pixel what number `at` of a patch brings, and of the patches of the other heads.
__device__ inline void add_number(Sums& sum, int pixel, const Given& given, long long candidate, int f, int at, int F) {
    const int size = SS_PATCH * SS_PATCH;
#pragma unroll
    for (int head = 0; head < SS_HEADS; ++head, candidate += given.of_head) {
        const SS_ACC weight = SS_WEIGHTED ? given.weights[candidate] : (SS_ACC)1;
        if (SS_WEIGHTED && weight == 0) continue;
        const SS_SCALAR* number = given.patches + (candidate * F + f) * size + at;
        sum.covered[pixel][head] += weight;
#pragma unroll
        for (int c = 0; c < SS_CHANNELS; ++c) sum.of[pixel][head][c] += weight * load(number + c * size);
    }
}

// Adds what falls on columns u and rows v of a frame whose cells begin behind `frame` others. Cells are asked 32 at a
// time; those behind the last one reach none of the pixels.
__device__ inline void add_patches(Sums& sum, const Square& q, const Given& given, long long frame, int u, const int* v,
                                   const Sizes& s) {
    const unsigned all = 0xffffffffu;
    const int bottom = q.top + SS_SIDE - 1 + SS_ABOVE, right = q.left + SS_SIDE - 1 + SS_ABOVE;
#pragma unroll 1
    for (int first = 0; first < SS_CELLS * SS_CELLS; first += 32) {
        const int number = first + threadIdx.x % 32;
        const int y = bottom - number / SS_CELLS, x = right - number % SS_CELLS;
        int begin = 0, end = 0;
        if (within_reach(y, s.kH) && within_reach(x, s.kW)) {
            const long long cell = cell_at(frame, y, x, s);
            begin = begin_of(given.ends, given.counts, cell), end = given.ends[cell];
        }
#pragma unroll 1
        for (unsigned some = __ballot_sync(all, begin < end); some; some &= some - 1) {
            const int from = __ffs(some) - 1, last = __shfl_sync(all, end, from);
            const int above = __shfl_sync(all, y, from) - SS_ABOVE, b = u - __shfl_sync(all, x, from) + SS_ABOVE;
#pragma unroll 1
            for (int at = __shfl_sync(all, begin, from); at < last; ++at) {
                const long long candidate = given.order[at] + given.own;
#pragma unroll
                for (int i = 0; i < SS_PIXELS; ++i) {
                    const int a = v[i] - above;
                    if ((unsigned)a >= SS_PATCH || (unsigned)b >= SS_PATCH) continue;
                    add_number(sum, i, given, candidate, q.f, a * SS_PATCH + b, s.F);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 4)
fold(const SS_SCALAR* patches, const SS_ACC* weights, const int* order, const int* ends, const int* counts,
     SS_SCALAR* out, SS_ACC* coverage, const Sizes s) {
    Square q;
    if (!square_of(s, &q)) return;
    const long long of_head = (long long)s.T * s.h * s.w * s.K, head = (long long)q.b * s.G + q.g;
    const Given given = {patches, weights, order, ends, counts, SS_SHARED ? (head - q.b) * of_head : 0, of_head};
    const long long frame = (SS_SHARED ? q.b : head) * s.kT + q.t;
    const int x = q.left + threadIdx.x % SS_SIDE, y = q.top + threadIdx.x % 32 / SS_SIDE;
    const int kinds_y = kinds_of(q.top, s.kH), kinds_x = kinds_of(q.left, s.kW);
    Sums sum = {};
#pragma unroll 1
    for (int kind = 0; kind < kinds_y * kinds_x; ++kind) {
        int v[SS_PIXELS];
#pragma unroll
        for (int i = 0; i < SS_PIXELS; ++i) {
            const int row = y + i * (32 / SS_SIDE);
            v[i] = kind % kinds_y ? mirrored(row, s.kH) : row;
        }
        add_patches(sum, q, given, frame, kind / kinds_y ? mirrored(x, s.kW) : x, v, s);
    }
    const long long plane = (long long)s.kH * s.kW, planes = ((long long)q.b * s.kT + q.t) * s.G + q.g;
#pragma unroll
    for (int i = 0; i < SS_PIXELS; ++i) {
        const int row = y + i * (32 / SS_SIDE);
        if (row >= s.kH || x >= s.kW) continue;
        const long long pixel = (long long)row * s.kW + x;
#pragma unroll
        for (int h = 0; h < SS_HEADS; ++h) {
            SS_SCALAR* numbers = out + ((planes + h) * s.F + q.f) * plane + pixel;
#pragma unroll
            for (int c = 0; c < SS_CHANNELS; ++c) store(numbers + c * plane, sum.of[i][h][c]);
            if (SS_COVERS && q.f == 0) coverage[(planes + h) * plane + pixel] = sum.covered[i][h];
        }
    }
}
