// What a query gets from the best candidates: `out` and `sums` of attend.cuh, and
//
//   places   (B, G, T, h, w, K): the number of each candidate's pixel in its clip, through frames, rows and columns, -1
//            outside of the frame. null, if no gradients need them
//   scales   (G,), what `factor` is multiplied by, or null
//
//   weights  (B, G, T, h, w, K), and offsets (B, G, T, h, w, K, 3) as in search.cu, or null if nobody asks for them
//
// Constants: SS_ATTENDED (K), SS_L2, SS_RUN_V (channels of v at a time), SS_VECTORS_V (1: they are read 16 bytes at a
// time).
#ifndef SS_ATTEND_BEST_CUH
#define SS_ATTEND_BEST_CUH

#include "clip.cuh"
#include "softmax.cuh"

// Strides of v in numbers, of batches, frames, channels, rows and columns, and channels of a head.
struct Values {
    long long v_b, v_t;
    int v_c, v_y, v_x, FV;
};

// What a query's results are written to.
struct Attended {
    SS_SCALAR* out;
    SS_ACC* sums;
    int* places;
    SS_ACC* weights;
    SS_PLACE* offsets;
};

// The first channel of a head of v in its clip.
__device__ inline const SS_SCALAR* clip_of_v(const SS_SCALAR* v, int b, int g, const Values& m) {
    return v + b * m.v_b + (long long)g * m.FV * m.v_c;
}

// Adds a pixel of v from one of its channels on, `count` of them.
template <int count>
__device__ inline void add_value(SS_ACC* sum, SS_ACC weight, const SS_SCALAR* from, int channel) {
#pragma unroll
    for (int c = 0; c < count; c += SS_VECTORS_V ? SS_FEW : 1) {
#if SS_VECTORS_V
        SS_ACC few[SS_FEW];
        load_few(from + c, few);
#pragma unroll
        for (int i = 0; i < SS_FEW; ++i) sum[c + i] = multiply_add(weight, few[i], sum[c + i]);
#else
        sum[c] = multiply_add(weight, load(from), sum[c]);
        from += channel;
#endif
    }
}

// The first number of a query's pixel in `out`.
__device__ inline SS_SCALAR* pixel_of_out(SS_SCALAR* out, int b, int t, int g, int y, int x, const Values& m,
                                          const Sizes& s) {
    const long long plane = (((long long)b * s.kT + t) * s.G + g) * m.FV;
    return out + (plane * s.kH + y) * s.kW + x;
}

#endif
