// The order in which the pixels of a patch are summed: one for every form of a whole-pixel search, so that all of them
// give the same bits.
//
// Along a row, and then down the column of rows, pixels are taken in pairs that begin at even queries' places: that of
// query x and x + 1, if x is even. A patch is its first pair (or the half of it that it has), plus the sum of the whole
// pairs behind it from left to right, plus the half pair at its end. What it does not have counts as 0. So the order
// depends on where the query is, not on where it looks: equal patches have equal scores. Nothing is ever subtracted.
//
// Channels are summed one after another in runs of SS_RUN; the sums of a row over each run are added in order.
#ifndef SS_PAIRS_CUH
#define SS_PAIRS_CUH

#include "number.cuh"

#define SS_RUN 16

__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ inline double plus(double a, double b) { return __dadd_rn(a, b); }

// What a pair of numbers adds to a score. Smaller is better, so the product counts with the other sign.
__device__ inline float add_pair(float q, float k, float sum) {
    const float d = __fsub_rn(q, k);
    return SS_L2 ? __fmaf_rn(d, d, sum) : __fmaf_rn(-q, k, sum);
}

__device__ inline double add_pair(double q, double k, double sum) {
    const double d = __dsub_rn(q, k);
    return SS_L2 ? __fma_rn(d, d, sum) : __fma_rn(-q, k, sum);
}

// Pixel after pixel, of which the first is at an even or an odd place.
template <class Number> struct Pairs {
    Number first = 0, middle = 0, half = 0;
    int place;

    __device__ Pairs(int start) : place(start & 1) {}

    __device__ void add(Number x) {
        if (place % 2 == 0) {
            half = x;
        } else {
            const Number pair = plus(half, x);
            (place == 1 ? first : middle) = place == 1 ? pair : plus(middle, pair);
            half = 0;
        }
        ++place;
    }

    __device__ Number sum() const { return plus(plus(first, middle), half); }
};

// The same for several neighbouring queries at once, the first of them at an even place: `pair` are the pairs from
// there on, `second` the second half of each query's first pair, `last` the half pair at the end.
#define SS_PAIRS (SS_PATCH / 2)  // of an even query; an odd one has as many, or one less if SS_PATCH is even

__device__ inline float even_sum(const float* pair, float last) {
    float middle = pair[1];
#pragma unroll
    for (int i = 2; i < SS_PAIRS; ++i) middle = plus(middle, pair[i]);
    const float whole = SS_PAIRS > 1 ? plus(pair[0], middle) : pair[0];
    return SS_PATCH == 1 ? last : SS_PATCH % 2 ? plus(whole, last) : whole;
}

__device__ inline float odd_sum(const float* pair, float second, float last) {
    const int pairs = (SS_PATCH - 1) / 2;
    float middle = pair[1];
#pragma unroll
    for (int i = 2; i <= pairs; ++i) middle = plus(middle, pair[i]);
    const float whole = pairs > 0 ? plus(second, middle) : second;
    return SS_PATCH % 2 ? whole : plus(whole, last);
}

#endif
