// Numbers: videos hold SS_SCALAR, sums are SS_ACC (float for halves and float, double for double).
#ifndef SS_NUMBER_CUH
#define SS_NUMBER_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ inline float load(const float* p) { return *p; }
__device__ inline double load(const double* p) { return *p; }
__device__ inline float load(const __half* p) { return __half2float(*p); }
__device__ inline float load(const __nv_bfloat16* p) { return __bfloat162float(*p); }

__device__ inline void store(float* p, float x) { *p = x; }
__device__ inline void store(double* p, double x) { *p = x; }
__device__ inline void store(__half* p, float x) { *p = __float2half_rn(x); }
__device__ inline void store(__nv_bfloat16* p, float x) { *p = __float2bfloat16_rn(x); }

// a * b + c, rounded once: so that every kernel has the same bits.
__device__ inline float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

__device__ inline SS_ACC infinity() { return (SS_ACC)__int_as_float(0x7f800000); }

// Number of this thread in the whole grid.
__device__ inline long long thread_number() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

#endif
