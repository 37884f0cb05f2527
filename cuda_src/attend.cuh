// Attention to all places of the windows: what each query gets from them, and the gradients of that.
//
//   logit    of a candidate: factor of the head * its score, which is no number far away
//   out      of a query: the sum of exp(logit - most) / total * v(place), of all its candidates
//   sums     (B, G, T, h, w, 2): most, the largest logit, and total, the sum of all exp(logit - most)
//
// Windows are of whole pixels and patches of one, so that a candidate is a pixel of k; where nothing lies outside of
// the frame it may be none: it scores 0 then, and has no value. No other candidate lies outside. Nothing that is stored
// has the size of a window: gradients compute the scores again.
//
// q, k, v, and the gradient of out are read as runs of 16 bytes at each pixel: (B, G, T, parts, H, W, SS_LANES, 16
// bytes of channels), with zeros behind the channels that there are. A pixel belongs to SS_LANES threads of a warp,
// each of which has 16 bytes of every part, and a warp has a rectangle of pixels.
//
// Constants: SS_LANES, SS_PARTS (of q and k), SS_PARTS_V (of v), SS_L2, SS_ZEROS, SS_STRIDE, SS_SKIP (1 leaves a query
// itself out), SS_RADIUS, SS_FIRST_SLOT, and those of whole.cuh.
#ifndef SS_ATTEND_CUH
#define SS_ATTEND_CUH

#include "clip.cuh"
#include "logit.cuh"
#include "whole.cuh"

#define SS_ALL 0xffffffffu
#define SS_WARPS 4
#define SS_RECT (32 / SS_LANES)  // pixels of a warp
#define SS_RECT_X (SS_LANES == 1 ? 8 : SS_LANES <= 4 ? 4 : SS_LANES <= 16 ? 2 : 1)
#define SS_RECT_Y (SS_RECT / SS_RECT_X)
#define SS_BESIDE (SS_LANES * SS_FEW)  // numbers of a pixel in a part
#define SS_NUMBERS (SS_PARTS * SS_FEW)  // of a thread, in q and k
#define SS_NUMBERS_V (SS_PARTS_V * SS_FEW)  // and in v

// Heads that have a flow of their own, or 1; slots that it leads to; windows of a query.
struct Around {
    int groups, slots, windows;
};

// --- pixels ----------------------------------------------------------------------------------------
// Rectangles of a grid: so many of them from left to right, and from top to bottom.
struct Grid {
    int across, down;
};

__device__ inline Grid grid_of(int h, int w) {
    return {(w + SS_RECT_X - 1) / SS_RECT_X, (h + SS_RECT_Y - 1) / SS_RECT_Y};
}

// A pixel of a grid and this thread's, perhaps outside, of a rectangle.
struct Pixel {
    int y, x;
};

__device__ inline Pixel first_of(const Grid& grid, int rect) {
    return {rect / grid.across * SS_RECT_Y, rect % grid.across * SS_RECT_X};
}

__device__ inline Pixel pixel_of(const Grid& grid, int rect) {
    const int i = threadIdx.x % 32 / SS_LANES;
    const Pixel first = first_of(grid, rect);
    return {first.y + i / SS_RECT_X, first.x + i % SS_RECT_X};
}

// What a warp has: a rectangle of a frame of a head.
struct Share {
    int b, g, t, rect;
};

__device__ inline bool share_of(const Grid& grid, int batch, int T, const Sizes& s, Share* share) {
    long long i = (long long)blockIdx.x * SS_WARPS + threadIdx.x / 32;
    const int rects = grid.across * grid.down;
    share->rect = (int)(i % rects), i /= rects;
    share->t = (int)(i % T), i /= T;
    share->g = (int)(i % s.G), share->b = (int)(i / s.G);
    return share->b < batch;
}

// --- numbers of a pixel ----------------------------------------------------------------------------
// A frame of a head, as it is read.
template <int parts> struct Frame {
    const SS_SCALAR* first;
    long long plane;

    __device__ Frame(const SS_SCALAR* video, const Share& share, int t, int T, long long pixels, int G)
        : first(video + (((long long)share.b * G + share.g) * T + t) * parts * pixels * SS_BESIDE +
                threadIdx.x % SS_LANES * SS_FEW),
          plane(pixels * SS_BESIDE) {}

    __device__ void load(int pixel, SS_ACC* to) const {
        const SS_SCALAR* from = first + (long long)pixel * SS_BESIDE;
#pragma unroll
        for (int p = 0; p < parts; ++p) load_few(from + p * plane, to + p * SS_FEW);
    }
};

// Channel n of a thread's numbers, among those of its head.
__device__ inline int channel_of(int n) {
    return n / SS_FEW * SS_BESIDE + threadIdx.x % SS_LANES * SS_FEW + n % SS_FEW;
}

// The numbers of a pixel in a video with channels first, of which a head has F.
template <int count>
__device__ inline void store_pixel(SS_SCALAR* out, const Share& share, int T, int F, long long pixels, int pixel,
                                   const SS_ACC* from, const Sizes& s) {
    SS_SCALAR* const to = out + (((long long)share.b * T + share.t) * s.G + share.g) * F * pixels + pixel;
#pragma unroll
    for (int n = 0; n < count; ++n)
        if (channel_of(n) < F) store(to + channel_of(n) * pixels, from[n]);
}

template <int count> __device__ inline void clear(SS_ACC* numbers) {
#pragma unroll
    for (int n = 0; n < count; ++n) numbers[n] = 0;
}

template <int count> __device__ inline void add_scaled(SS_ACC* sums, SS_ACC weight, const SS_ACC* numbers) {
#pragma unroll
    for (int n = 0; n < count; ++n) sums[n] += weight * numbers[n];
}

template <int count> __device__ inline SS_ACC product(const SS_ACC* a, const SS_ACC* b) {
    SS_ACC sums[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < count; ++n) sums[n % 2] += a[n] * b[n];
    return sums[0] + sums[1];
}

// The sum of all threads of a pixel.
__device__ inline SS_ACC sum_of_lanes(SS_ACC x) {
#pragma unroll
    for (int apart = SS_LANES / 2; apart; apart /= 2) x += __shfl_xor_sync(SS_ALL, x, apart);
    return x;
}

// --- scores ----------------------------------------------------------------------------------------
// Leaves in k what the score changes with, half of it for l2: k, or q - k.
__device__ inline SS_ACC compare(const SS_ACC* q, SS_ACC* k) {
    if (!SS_L2) return product<SS_NUMBERS>(q, k);
#pragma unroll
    for (int n = 0; n < SS_NUMBERS; ++n) k[n] = q[n] - k[n];
    return product<SS_NUMBERS>(k, k);
}

// --- windows ---------------------------------------------------------------------------------------
// The first candidate of a window.
struct First {
    Whole y, x;
};

__device__ inline First window_of(const Share& share, const Pixel& at, int slot, const SS_AROUND* around,
                                  const Sizes& s, const Around& a) {
    const int in_clip = slot + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - a.slots;
    SS_AROUND dy = 0, dx = 0;
    if (in_clip >= followed) {
        const long long plane = (long long)s.h * s.w;
        const long long group = (long long)share.b * a.groups + (a.groups > 1 ? share.g : 0);
        const long long before = ((group * s.T + share.t) * a.slots + in_clip - followed) * 2;
        const SS_AROUND* const flow = around + before * plane + (long long)at.y * s.w + at.x;
        dx = flow[0], dy = flow[plane];
    }
    return {span_around(SS_WINDOW_Y, at.y * SS_STRIDE, dy, s.kH).first,
            span_around(SS_WINDOW_X, at.x * SS_STRIDE, dx, s.kW).first};
}

__device__ inline int frame_of(int t, int slot, const Sizes& s) {
    return frame_of_slot(t, slot + SS_FIRST_SLOT, s.kT, SS_RADIUS);
}

// Whether a slot's candidate at (y, x) is the query itself, and left out.
__device__ inline bool is_left_out(int slot, const Pixel& query, Whole y, Whole x) {
    return SS_SKIP && slot == 0 && y == query.y * SS_STRIDE && x == query.x * SS_STRIDE;
}

#endif
