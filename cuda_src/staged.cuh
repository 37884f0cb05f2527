// Pixels in shared memory, as search_points.cu reads them.
//
// Constants: SS_CHUNKS of 16 channels (SS_PADDED: the last is not full), SS_THREADS.
#ifndef SS_STAGED_CUH
#define SS_STAGED_CUH

#include "clip.cuh"

#define SS_EIGHT (8 * (int)sizeof(SS_SCALAR))  // bytes of 8 channels of a pixel
#define SS_PIXEL (2 * SS_CHUNKS * SS_EIGHT + 4)

__device__ inline float infinite() { return __int_as_float(0x7f800000); }

// n pixels, 8 channels of each behind those of the one before, and half the sum of their squares.
struct Staged {
    char* pixels;
    int n;

    __device__ SS_SCALAR* eight(int part, int pixel) const {
        return reinterpret_cast<SS_SCALAR*>(pixels + (part * n + pixel) * SS_EIGHT);
    }
    __device__ float* halves() const { return reinterpret_cast<float*>(pixels + 2 * SS_CHUNKS * n * SS_EIGHT); }
};

// A part of a frame.
struct Region {
    int y, x, tall, wide;

    // As many as make whole 16 bytes. A strip may end behind the last: what is read there belongs to no window.
    __device__ int pixels() const { return (tall * wide + 3) / 4 * 4; }
};

struct alignas(16) Eight {
    SS_SCALAR of[8];
};

// Those from `from` on, of which the first is channel number `first`, and goes on to the next eight.
__device__ inline Eight next_eight(const SS_SCALAR*& from, int first, int F, int channel) {
    Eight found;
#if SS_VECTORS
#pragma unroll
    for (int i = 0; i < 8; i += SS_FEW) {
        uint4 few = {0, 0, 0, 0};
        if (!SS_PADDED || first + i < F) few = *reinterpret_cast<const uint4*>(from + i);
        *reinterpret_cast<uint4*>(found.of + i) = few;
    }
    from += 8;
#else
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        found.of[i] = !SS_PADDED || first + i < F ? *from : (SS_SCALAR)0.f;
        from += channel;
    }
#endif
    return found;
}

// Copies a region of a frame, with its last pixels where it lies outside, and returns the most of this thread's pixels'
// sums of squares.
__device__ inline float stage(const Staged& to, const Region& r, const Plane& frame, int F) {
    float most = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < r.tall * r.wide; i += SS_THREADS) {
        const int y = i / r.wide, v = r.y + y, u = r.x + i - y * r.wide;
        const SS_SCALAR* from = frame.at(min(max(v, 0), frame.H - 1), min(max(u, 0), frame.W - 1));
        float sum = 0;
#pragma unroll
        for (int part = 0; part < 2 * SS_CHUNKS; ++part) {
            const Eight eight = next_eight(from, 8 * part, F, frame.channel);
            *reinterpret_cast<Eight*>(to.eight(part, i)) = eight;
#pragma unroll
            for (int f = 0; f < 8; ++f) sum = __fmaf_rn(load(eight.of + f), load(eight.of + f), sum);
        }
        to.halves()[i] = 0.5f * sum;
        most = sum < infinite() ? fmaxf(most, sum) : infinite();
    }
    return most;
}

#endif
