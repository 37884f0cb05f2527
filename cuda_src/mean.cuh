// The mean over the queries whose patch covers a pixel, from their sum: what `aggregate` returns.
//
// Constants: SS_MEAN (0: the sum stays as it is), SS_PATCH, SS_DILATION, SS_STRIDE.
#ifndef SS_MEAN_CUH
#define SS_MEAN_CUH

#include "number.cuh"

// Along an axis of n pixels: how many queries have pixel `at` in their patch.
__device__ inline int covering(int at, int n) {
    const int before = SS_PATCH / 2;
    if (SS_STRIDE == 1) {
        const int first = max(before - (n - 1 - at) / SS_DILATION, 0);
        const int last = min(before + at / SS_DILATION, SS_PATCH - 1);
        return last - first + 1;
    }
    int count = 0;
    for (int i = 0; i < SS_PATCH; ++i) {
        const int query = at - SS_DILATION * (i - before);
        count += query >= 0 && query < n && query % SS_STRIDE == 0;
    }
    return count;
}

struct Mean {
    SS_ACC count, share;

    // Of a pixel of H x W.
    __device__ Mean(int y, int x, int H, int W) {
        count = SS_MEAN ? (SS_ACC)max(covering(y, H) * covering(x, W), 1) : (SS_ACC)1;
        share = 1 / count;
    }

    // The quotient of a finite sum, rounded once, in fewer instructions than a division has.
    __device__ SS_ACC of(SS_ACC sum) const {
        if (!SS_MEAN) return sum;
        const SS_ACC about = sum * share;
        return multiply_add(multiply_add(-count, about, sum), share, about);
    }
};

#endif
