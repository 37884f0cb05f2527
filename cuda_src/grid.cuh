// Where things are: what shiftsearch/_geometry.py says, for kernels. No other formula for it in CUDA.
#ifndef SS_GRID_CUH
#define SS_GRID_CUH

// Position x mirrored into [0, n - 1] without repeating the edge: -1 is 1, n is n - 2.
__device__ inline int ss_reflect(long long x, int n) {
    if (n == 1) return 0;
    const long long period = 2LL * (n - 1);
    x %= period;
    if (x < 0) x += period;
    return (int)(x < n ? x : period - x);
}

// Frame that frame t of a clip looks at in a slot: itself, then forward in time, then backward.
__device__ inline int ss_frame(int t, int slot, int frames, int radius) {
    const int reach = t + radius > 2 * radius ? t + radius : 2 * radius;
    const int last = reach < frames - 1 ? reach : frames - 1;
    return t + slot <= last ? t + slot : last - slot;
}

#endif
