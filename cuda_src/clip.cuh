// Frames of q and k as kernels read them: with any strides, 16 bytes at a time where they allow it.
//
// Constants: SS_VECTORS (1: the channels of a head are adjacent, fill units of 16 bytes and are aligned to 16).
#ifndef SS_CLIP_CUH
#define SS_CLIP_CUH

#include "video.cuh"

// Strides in numbers, not bytes: of batches, frames, channels, rows and columns of q and of k.
struct Strides {
    long long q_b, q_t, k_b, k_t;
    int q_c, q_y, q_x, k_c, k_y, k_x;
};

// The channels of a head in a frame: H x W pixels, whose first channel is at first + y * row + x * column.
struct Plane {
    const SS_SCALAR* first;
    int H, W, row, column, channel;

    __device__ const SS_SCALAR* at(int y, int x) const { return first + (long long)y * row + (long long)x * column; }
    __device__ bool has(int y, int x) const {
        return (unsigned)y < (unsigned)H && (unsigned)x < (unsigned)W;
    }
};

__device__ inline Plane plane_of_q(const SS_SCALAR* q, int b, int g, int t, const Sizes& s, const Strides& m) {
    return {q + b * m.q_b + t * m.q_t + (long long)g * s.F * m.q_c, s.qH, s.qW, m.q_y, m.q_x, m.q_c};
}

__device__ inline Plane plane_of_k(const SS_SCALAR* k, int b, int g, int t, const Sizes& s, const Strides& m) {
    return {k + b * m.k_b + t * m.k_t + (long long)g * s.F * m.k_c, s.kH, s.kW, m.k_y, m.k_x, m.k_c};
}

#define SS_FEW (16 / (int)sizeof(SS_SCALAR))  // numbers in 16 bytes

template <class Number> __device__ inline void load_few(const double* p, Number* to) {
    const double2 v = *reinterpret_cast<const double2*>(p);
    to[0] = v.x, to[1] = v.y;
}

template <class Number> __device__ inline void load_few(const float* p, Number* to) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ inline float2 two(unsigned bits, const __half*) {
    return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

__device__ inline float2 two(unsigned bits, const __nv_bfloat16*) {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}

template <class Half, class Number> __device__ inline void load_few(const Half* p, Number* to) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = two(words[i], p);
        to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
    }
}

#endif
