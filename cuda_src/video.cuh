// Arrays of a call and how they lie in memory.
//
//   q        (B, qT, qH, qW, G * F) queries' video, channels last; with SS_STACKED (B, K, qT, qH, qW, G * F), where
//            kept candidate n of a query belongs to video n
//   k        (B, kT, kH, kW, G * F) keys' video, channels last
//   weights  (B, G, T, h, w, K), as scores and whatever else each kept candidate has
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
    int t0, y0, x0;  // the first of them, where only a part of the grid is asked for
    int qT, qH, qW;  // frames, rows and columns of q
    int kT, kH, kW;  // and of k
};

// A query: its batch and head, and the frame t and pixel (y, x) of k where it stands.
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

// Where a number of a video (videos, T, H, W, G * F) stands: head g and its channel f of a pixel.
struct Number {
    int video, t, y, x, g, f;
};

__device__ inline Number number_of(long long i, const Sizes& s, int T, int H, int W) {
    const int C = s.G * s.F, channel = (int)(i % C);
    i /= C;
    return {(int)(i / W / H / T), (int)(i / W / H % T), (int)(i / W % H), (int)(i % W), channel / s.F, channel % s.F};
}

// The same number's index with channels first, (videos, T, G * F, H, W).
__device__ inline long long channels_first(const Number& p, const Sizes& s, int T, int H, int W) {
    return ((((long long)p.video * T + p.t) * s.G * s.F + p.g * s.F + p.f) * H + p.y) * W + p.x;
}

// A frame as a head sees it: `first` is the head's first channel of pixel (0, 0), and pixels are `apart` numbers apart.
struct Frame {
    const SS_SCALAR* first;
    int H, W, apart;
};

// The frame of a query, in the video that its kept candidate n belongs to.
__device__ inline Frame frame_of_q(const SS_SCALAR* q, const Query& r, int n, const Sizes& s) {
    const int C = s.G * s.F;
    const long long video = SS_STACKED ? (long long)r.b * s.K + n : r.b;
    return {q + (video * s.qT + r.t) * s.qH * s.qW * C + r.g * s.F, s.qH, s.qW, C};
}

__device__ inline Frame frame_of_k(const SS_SCALAR* k, int b, int g, int t, const Sizes& s) {
    const int C = s.G * s.F;
    return {k + ((long long)b * s.kT + t) * s.kH * s.kW * C + g * s.F, s.kH, s.kW, C};
}

#endif
