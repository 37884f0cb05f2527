// The orthonormal cosine transform of a few numbers in registers, whose cosines the compiler knows.
//
// Cosines are symmetric or antisymmetric, so sums and differences of the two ends halve the products.
#ifndef SS_COSINES_CUH
#define SS_COSINES_CUH

#include "number.cuh"

__device__ constexpr double root(double x) {
    double root = 1;
    for (int i = 0; i < 10; ++i) root = (root + x / root) / 2;
    return root;
}

// The cosine of part * pi / (2 * n).
__device__ constexpr double cosine(int part, int n) {
    part %= 4 * n;
    const double angle = (part > 2 * n ? 4 * n - part : part) * 1.57079632679489661923 / n;
    double sum = 1, term = 1;
    for (int i = 1; i < 32; i += 2) {
        term *= -angle * angle / (i * (i + 1));
        sum += term;
    }
    return sum;
}

template <int n> struct Cosines {
    SS_ACC of[n][n];  // frequency, number

    __device__ constexpr Cosines() : of{} {
        for (int k = 0; k < n; ++k)
            for (int i = 0; i < n; ++i) of[k][i] = (SS_ACC)(root((k ? 2.0 : 1.0) / n) * cosine((2 * i + 1) * k, n));
    }
};

template <int n> __device__ inline void transform(SS_ACC* x) {
    constexpr Cosines<n> cosines;
    SS_ACC sums[(n + 1) / 2], apart[(n + 1) / 2];
#pragma unroll
    for (int i = 0; i < (n + 1) / 2; ++i) {
        sums[i] = i == n / 2 ? x[i] : x[i] + x[n - 1 - i];
        apart[i] = x[i] - x[n - 1 - i];
    }
#pragma unroll
    for (int k = 0; k < n; ++k) {
        x[k] = 0;
#pragma unroll
        for (int i = 0; i < (k % 2 ? n / 2 : (n + 1) / 2); ++i)
            x[k] = multiply_add(cosines.of[k][i], k % 2 ? apart[i] : sums[i], x[k]);
    }
}

template <int n> __device__ inline void transform_back(SS_ACC* x) {
    constexpr Cosines<n> cosines;
    SS_ACC found[n];
#pragma unroll
    for (int i = 0; i < (n + 1) / 2; ++i) {
        SS_ACC even = 0, odd = 0;
#pragma unroll
        for (int k = 0; k < n; k += 2) even = multiply_add(cosines.of[k][i], x[k], even);
#pragma unroll
        for (int k = 1; k < n; k += 2) odd = multiply_add(cosines.of[k][i], x[k], odd);
        found[i] = even + odd;
        if (i != n / 2) found[n - 1 - i] = even - odd;
    }
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] = found[i];
}

#endif
