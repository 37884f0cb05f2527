// Small kernels with a bug each, and the same kernels without: SS_BUG says which. planted.py launches them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define ALL 0xffffffffu

// The value of another thread of the block, by way of shared memory.
extern "C" __global__ void missing_barrier(const float* x, float* y) {
    __shared__ float staged[128];
    staged[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
#if !SS_BUG
    __syncthreads();
#endif
    y[blockIdx.x * 128 + threadIdx.x] = staged[127 - threadIdx.x];
}

// Rounds in which all read what one warp wrote: no warp may begin the next before all have read.
extern "C" __global__ void write_after_read(const float* x, float* y) {
    __shared__ float staged[32];
    float sum = 0;
    for (int round = 0; round < 8; ++round) {
        if (threadIdx.x < 32) staged[threadIdx.x] = x[round * 32 + threadIdx.x];
        __syncthreads();
        sum += staged[threadIdx.x % 32];
#if !SS_BUG
        __syncthreads();
#endif
    }
    y[threadIdx.x] = sum;
}

// Neighbours, without the border.
extern "C" __global__ void read_outside(const float* x, float* y, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const int right = !SS_BUG && i == n - 1 ? i : i + 1;
    y[i] = x[i] + x[right];
}

extern "C" __global__ void read_before(const float* x, float* y, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const int left = !SS_BUG && i == 0 ? i : i - 1;
    y[i] = x[i] + x[left];
}

// One thread too many.
extern "C" __global__ void write_outside(const float* x, float* y, int n) {
    const int i = threadIdx.x;
    if (i < n + SS_BUG) y[i] = i < n ? x[i] : 0;
}

extern "C" __global__ void write_before(const float* x, float* y, int n) {
    const int i = threadIdx.x;
    if (i < n) y[i - SS_BUG] = x[i];
}

extern "C" __global__ void write_constant(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];
#if SS_BUG
    const_cast<float*>(x)[threadIdx.x] = 0;
#endif
}

// Each warp's part in an array for the next.
extern "C" __global__ void shared_outside(const float* x, float* y) {
    __shared__ float parts[4];
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) parts[warp + SS_BUG] = x[warp];
    __syncthreads();
    y[threadIdx.x] = parts[warp];
}

extern "C" __global__ void shared_before(const float* x, float* y) {
    __shared__ float parts[5];
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) parts[warp - SS_BUG] = x[warp];
    __syncthreads();
    y[threadIdx.x] = SS_BUG ? 0 : parts[warp];
}

// An array of as many floats as the launch says, and its end.
extern "C" __global__ void dynamic_outside(const float* x, float* y) {
    extern __shared__ float staged[];
    staged[threadIdx.x + SS_BUG] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = staged[threadIdx.x];
}

extern "C" __global__ void unwritten_shared(const float* x, float* y) {
    __shared__ float staged[128];
    if (!SS_BUG || threadIdx.x < 64) staged[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = staged[threadIdx.x];
}

extern "C" __global__ void divergent_barrier(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];
#if SS_BUG
    if (threadIdx.x < 64) __syncthreads();
#endif
    __syncthreads();
}

// Half a warp waits for the other half, which waits for it.
extern "C" __global__ void stuck(const float* x, float* y) {
    __shared__ float staged[128];
    staged[threadIdx.x] = x[threadIdx.x];
#if SS_BUG
    if (threadIdx.x < 16) __shfl_sync(ALL, 0, 0);
#endif
    __syncthreads();
    y[threadIdx.x] = staged[127 - threadIdx.x];
}

extern "C" __global__ void divergent_shuffle(const float* x, float* y) {
    float v = x[threadIdx.x];
    const int lane = threadIdx.x % 32;
#if SS_BUG
    if (lane < 16) v += __shfl_xor_sync(ALL, v, 1);
    else __syncwarp();
#else
    const float other = __shfl_xor_sync(ALL, v, 1);
    if (lane < 16) v += other;
#endif
    y[threadIdx.x] = v;
}

// A mask that forgets who calls.
extern "C" __global__ void lane_outside_mask(const float* x, float* y) {
    y[threadIdx.x] = __shfl_xor_sync(SS_BUG ? 0x7fffffffu : ALL, x[threadIdx.x], 1);
}

// Half a warp asks a lane of the other half.
extern "C" __global__ void absent_lane(const float* x, float* y) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) v = __shfl_sync(0x0000ffffu, v, SS_BUG ? 16 : 15);
    y[threadIdx.x] = v;
}

extern "C" __global__ void early_return(const float* x, float* y, int n) {
    const int i = threadIdx.x;
#if SS_BUG
    if (i >= n) return;
#endif
    __shared__ float staged[128];
    staged[i] = i < n ? x[i] : 0;
    __syncthreads();
    y[i] = staged[127 - i];
}

// Waits for what no thread does: with collectives in the loop, and without.
extern "C" __global__ void endless_collectives(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];
    while (SS_BUG && atomicAdd(y, 0.f) >= 0) __syncwarp();
}

extern "C" __global__ void endless_loop(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];
    while (SS_BUG && *static_cast<volatile float*>(y) >= 0) {}
}

extern "C" __global__ void misaligned(const float* x, float* y) {
    const float4 v = *reinterpret_cast<const float4*>(x + (SS_BUG ? 1 : 4) * threadIdx.x);
    y[threadIdx.x] = v.x + v.w;
}

extern "C" __global__ void overflow(const float* x, float* y, int width) {
    const int row = threadIdx.x + 1;
    const long long place = SS_BUG ? row * width : (long long)row * width;
    y[threadIdx.x] = x[place % 128 < 0 ? 0 : place % 128];
}

extern "C" __global__ void shift(const float* x, float* y, int by) {
    y[threadIdx.x] = x[threadIdx.x] + (float)(1 << (SS_BUG ? by : by % 32));
}

extern "C" __global__ void not_a_number(const float* x, float* y, float nan) {
    const int i = SS_BUG ? (int)nan : __float2int_rz(nan);
    y[threadIdx.x] = x[threadIdx.x] + (i == 0 ? 0 : 1);
}

extern "C" __global__ void deep_stack(const float* x, float* y, int n) {
    float local[SS_BUG ? 100000 : 100];
    for (int i = 0; i < n; ++i) local[SS_BUG ? 1000 * i : i] = x[i];
    y[threadIdx.x] = local[SS_BUG ? 0 : threadIdx.x % n];
}

// Sums that threads of one block, or of several, add to.
extern "C" __global__ void plain_sum(const float* x, float* y) {
#if SS_BUG
    y[threadIdx.x % 4] += x[threadIdx.x];
#else
    atomicAdd(y + threadIdx.x % 4, x[threadIdx.x]);
#endif
}

extern "C" __global__ void sum_of_blocks(const float* x, float* y) {
    const int i = threadIdx.x;
#if SS_BUG
    y[i] += x[blockIdx.x * blockDim.x + i];
#else
    atomicAdd(y + i, x[blockIdx.x * blockDim.x + i]);
#endif
}

// The last write to a place is the one that counts, but which block is the last?
extern "C" __global__ void store_of_blocks(const float* x, float* y) {
    if (threadIdx.x == 0) y[SS_BUG ? 0 : blockIdx.x] = x[blockIdx.x];
}

extern "C" __global__ void missing_syncwarp(const float* x, float* y) {
    __shared__ float staged[32];
    staged[threadIdx.x] = x[threadIdx.x];
#if !SS_BUG
    __syncwarp();
#endif
    y[threadIdx.x] = staged[31 - threadIdx.x];
}

// A shuffle is no barrier for memory.
extern "C" __global__ void shuffle_as_barrier(const float* x, float* y) {
    __shared__ float staged[32];
    staged[threadIdx.x] = x[threadIdx.x];
#if SS_BUG
    __shfl_sync(ALL, 0, 0);
#else
    __syncwarp();
#endif
    y[threadIdx.x] = staged[31 - threadIdx.x];
}

// ---- Right ones: what the intrinsics are ----

extern "C" __global__ void warp(const int* x, int* y, int n) {
    const int i = threadIdx.x, lane = i % 32, v = x[i];
    y[0 * n + i] = __shfl_sync(ALL, v, (lane + 5) % 32);
    y[1 * n + i] = __shfl_up_sync(ALL, v, 3);
    y[2 * n + i] = __shfl_down_sync(ALL, v, 3, 16);
    y[3 * n + i] = __shfl_xor_sync(ALL, v, 9);
    y[4 * n + i] = (int)__ballot_sync(ALL, v & 1);
    y[5 * n + i] = __any_sync(ALL, v == 7) * 2 + __all_sync(ALL, v >= 1);
    y[6 * n + i] = (int)__reduce_add_sync(ALL, (unsigned)v);
    y[7 * n + i] = __reduce_min_sync(ALL, v);
    y[8 * n + i] = (int)__match_any_sync(ALL, (unsigned)(v & 3));
    y[9 * n + i] = __syncthreads_count(v & 1);
    int own = v;  // two halves on their own
    if (lane < 16) {
        for (int by = 8; by; by >>= 1) own += __shfl_xor_sync(0x0000ffffu, own, by);
    } else {
        for (int by = 8; by; by >>= 1) own = max(own, __shfl_xor_sync(0xffff0000u, own, by));
    }
    y[10 * n + i] = own;
    y[11 * n + i] = (int)(__shfl_xor_sync(ALL, (long long)v << 40, 1) >> 40);
    y[12 * n + i] = (int)(__shfl_down_sync(ALL, (float)v + 0.5f, 1) * 2);
    y[13 * n + i] = (int)(__shfl_up_sync(ALL, v + 0.25, 1, 8) * 4);
    y[14 * n + i] = __popc(v) * 100 + __ffs(v) * 10 + __clz(v);
    y[15 * n + i] = __syncthreads_or(v == 8) * 2 + __syncthreads_and(v < 9);
}

extern "C" __global__ void sixteen_bits(const __half* a, const __half* b, __half* half_out, const __nv_bfloat16* c,
                                           const __nv_bfloat16* d, __nv_bfloat16* bfloat_out, const double* wide) {
    const int n = 65536, i = blockIdx.x * blockDim.x + threadIdx.x;
    const float x = __half2float(a[i]), y = __half2float(b[i]);
    half_out[i] = __float2half_rn(x + y);
    half_out[n + i] = __float2half_rn(x * y);
    half_out[2 * n + i] = __float2half_rn(x / y);
    half_out[3 * n + i] = __hsub(a[i], b[i]);
    half_out[4 * n + i] = __half(wide[i]);
    const float z = __bfloat162float(c[i]), w = __bfloat162float(d[i]);
    bfloat_out[i] = __float2bfloat16_rn(z + w);
    bfloat_out[n + i] = __float2bfloat16_rn(z * w);
    bfloat_out[2 * n + i] = __float2bfloat16_rn(z / w);
    bfloat_out[3 * n + i] = __hsub(c[i], d[i]);
}

extern "C" __global__ void arithmetic(const double* a, const double* b, double* y, long long* whole, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[0 * n + i] = __dadd_rn(__dmul_rn(a[i], b[i]), a[i]);
    y[1 * n + i] = __fma_rn(a[i], b[i], a[i]);
    y[2 * n + i] = __ddiv_rn(__dsub_rn(a[i], b[i]), b[i]);
    y[3 * n + i] = rint(a[i]) + floor(b[i]) * 3 + ceil(a[i]) * 7;
    y[4 * n + i] = fmod(a[i], b[i]);
    y[5 * n + i] = isfinite(a[i]) * 4 + isnan(a[i]) * 2 + isinf(a[i]);
    y[6 * n + i] = __fadd_rn((float)a[i], __fmul_rn((float)b[i], 3.f));
    y[7 * n + i] = min((float)a[i], (float)b[i]);
    whole[i] = __double2ll_rn(a[i]);
    whole[n + i] = __double2int_rd(a[i]);
    whole[2 * n + i] = __float2int_rn((float)a[i]);
    whole[3 * n + i] = __double_as_longlong(__longlong_as_double(0x7ff0000000000000LL) + fabs(a[i]));
}
