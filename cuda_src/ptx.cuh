// What CUDA's language has no words for: inline PTX, and beside each what the emulator does in its place.
#ifndef SS_PTX_CUH
#define SS_PTX_CUH

#include "clip.cuh"

// Where all SS_THREADS of a block wait for each other, also those of warps that run different code.
__device__ inline void meet() {
#ifndef SS_EMULATED
    asm volatile("bar.sync 1, %0;" ::"n"(SS_THREADS) : "memory");
#else
    __syncthreads();
#endif
}

// Where something is in shared memory, for all threads of a warp: a number that the compiler keeps in a register, while
// it would find out anew, at each use, where shared memory begins.
#ifndef SS_EMULATED
typedef unsigned Address;
__device__ inline Address address_of(const void* shared) {
    return __shfl_sync(0xffffffffu, (unsigned)__cvta_generic_to_shared(shared), 0);
}
template <class Number> __device__ inline Number* shared_at(Address at) {
    return static_cast<Number*>(__cvta_shared_to_generic(at));
}
#else
typedef unsigned long long Address;
__device__ inline Address address_of(const void* shared) { return reinterpret_cast<Address>(shared); }
template <class Number> __device__ inline Number* shared_at(Address at) { return reinterpret_cast<Number*>(at); }
#endif

// Adds the products of 16 queries with 8 pixels, of 16 channels each, to `sums`. Each lane of a warp has a part of
// these matrices (mma.m16n8k16): lane 4 * g + t has of the queries g and g + 8 and of pixel g the channels 2 * t and
// 2 * t + 1, and those 8 channels on; of the sums it has those of queries g and g + 8 with pixels 2 * t and 2 * t + 1.
#if __CUDA_ARCH__ >= 800 && !defined(SS_EMULATED)
#define SS_MMA(type)                                                                              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, " \
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                  \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                     \
                 : "r"(q[0]), "r"(q[1]), "r"(q[2]), "r"(q[3]), "r"(k[0]), "r"(k[1]))

__device__ inline void multiply(const unsigned* q, const unsigned* k, float* sums, const __half*) { SS_MMA("f16"); }
__device__ inline void multiply(const unsigned* q, const unsigned* k, float* sums, const __nv_bfloat16*) {
    SS_MMA("bf16");
}
#else
typedef unsigned long long Two;

__device__ inline Two joined(unsigned low, unsigned high) { return (Two)high << 32 | low; }

template <class Half> __device__ inline float times(unsigned x, unsigned y, float sum, const Half* kind) {
    const float2 a = two(x, kind), b = two(y, kind);
    return __fmaf_rn(a.y, b.y, __fmaf_rn(a.x, b.x, sum));
}

template <class Half>
__device__ inline void multiply(const unsigned* q, const unsigned* k, float* sums, const Half* kind) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
        const Two near = __shfl_sync(0xffffffffu, joined(q[0], q[2]), lane / 4 * 4 + i);
        const Two far = __shfl_sync(0xffffffffu, joined(q[1], q[3]), lane / 4 * 4 + i);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const Two theirs = __shfl_sync(0xffffffffu, joined(k[0], k[1]), lane % 4 * 8 + 4 * j + i);
            const unsigned low = (unsigned)theirs, high = (unsigned)(theirs >> 32);
            sums[j] = times((unsigned)(near >> 32), high, times((unsigned)near, low, sums[j], kind), kind);
            sums[2 + j] = times((unsigned)(far >> 32), high, times((unsigned)far, low, sums[2 + j], kind), kind);
        }
    }
}
#endif

#endif
