// Things sorted by the cells that they are in, and by their numbers within a cell: see cells.cuh.
//
//   begin_cells   ends = where the things of each cell begin, from how many there are
//   sort_cells    order = the same, sorted by their numbers
//
// The host launches what counts them, begin_cells, what fills the cells, and sort_cells, without waiting for results.
// Blocks take their part of `order` as they happen to come, so cells need not follow one another there.
#include "cells.cuh"

#define SS_THREADS 128
#define SS_EACH 8  // cells of a thread that sums them
#define SS_SHORT 32  // things of a cell that one thread sorts

// --- sums ------------------------------------------------------------------------------------------
// The sum of the values of all earlier threads of a block; `total`: that of all threads.
__device__ inline int sum_before(int value, int* total) {
    __shared__ int of_warp[SS_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = value;
    for (int away = 1; away < 32; away *= 2) {
        const int earlier = __shfl_up_sync(0xffffffffu, sum, away);
        if (lane >= away) sum += earlier;
    }
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();
    int before = 0;
    *total = 0;
    for (int w = 0; w < SS_THREADS / 32; ++w) {
        if (w < warp) before += of_warp[w];
        *total += of_warp[w];
    }
    __syncthreads();
    return before + sum - value;
}

// The first of a thread's cells, which lie next to each other.
__device__ inline long long first_cell() { return ((long long)blockIdx.x * SS_THREADS + threadIdx.x) * SS_EACH; }

// Behind the counts of all cells is how many places of `order` are taken.
extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
begin_cells(int* counts, int* ends, long long cells) {
    __shared__ int first_of_block;
    const long long first = first_cell();
    int sum = 0, total;
    for (int i = 0; i < SS_EACH; ++i)
        if (first + i < cells) sum += counts[first + i];
    const int before = sum_before(sum, &total);
    if (threadIdx.x == 0) first_of_block = atomicAdd(counts + cells, total);
    __syncthreads();
    int begin = first_of_block + before;
    for (int i = 0; i < SS_EACH && first + i < cells; ++i) {
        ends[first + i] = begin;
        begin += counts[first + i];
    }
}

// --- order -----------------------------------------------------------------------------------------
__device__ inline void sort_alone(int* numbers, int count) {
    for (int i = 1; i < count; ++i) {
        const int number = numbers[i];
        int to = i;
        for (; to > 0 && numbers[to - 1] > number; --to) numbers[to] = numbers[to - 1];
        numbers[to] = number;
    }
}

// All threads of a block sort by a network of pairs, each of which moves the smaller number to the front, as if
// infinite numbers filled the array up to a power of two. With `mirrored` a pair lies symmetrically around the middle
// of a run.
__device__ inline void sort_pairs(int* numbers, int count, unsigned pairs, unsigned step, bool mirrored) {
    for (unsigned i = threadIdx.x; i < pairs; i += SS_THREADS) {
        const unsigned low = i / step * 2 * step + i % step;
        const unsigned high = mirrored ? low + 2 * (step - i % step) - 1 : low + step;
        if (high >= (unsigned)count || numbers[low] <= numbers[high]) continue;
        const int number = numbers[low];
        numbers[low] = numbers[high], numbers[high] = number;
    }
    __syncthreads();
}

__device__ inline void sort_together(int* numbers, int count) {
    unsigned pairs = 1;
    while (2 * pairs < (unsigned)count) pairs *= 2;
    for (unsigned half = 1; half <= pairs; half *= 2)
        for (unsigned step = half; step > 0; step /= 2) sort_pairs(numbers, count, pairs, step, step == half);
}

// One thread per cell, or the whole block for a cell in which many candidates land.
extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
sort_cells(const int* ends, const int* counts, int* order, long long cells) {
    __shared__ int begins[SS_THREADS];
    __shared__ int sizes[SS_THREADS];
    const long long cell = (long long)blockIdx.x * SS_THREADS + threadIdx.x;
    const int begin = cell < cells ? begin_of(ends, counts, cell) : 0, count = cell < cells ? counts[cell] : 0;
    begins[threadIdx.x] = begin, sizes[threadIdx.x] = count;
    if (count <= SS_SHORT) sort_alone(order + begin, count);
    if (!__syncthreads_or(count > SS_SHORT)) return;
    for (int i = 0; i < SS_THREADS; ++i)
        if (sizes[i] > SS_SHORT) sort_together(order + begins[i], sizes[i]);
}
