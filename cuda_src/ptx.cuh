// What CUDA's language has no words for: inline PTX, and beside each what the emulator does in its place.
#ifndef SS_PTX_CUH
#define SS_PTX_CUH

// Where all SS_THREADS of a block wait for each other, also those of warps that run different code.
__device__ inline void meet() {
#ifndef SS_EMULATED
    asm volatile("bar.sync 1, %0;" ::"n"(SS_THREADS) : "memory");
#else
    __syncthreads();
#endif
}

#endif
