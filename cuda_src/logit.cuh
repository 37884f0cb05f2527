// What scores are weighed by: a candidate's logit is factor * score, which is no number far away.
#ifndef SS_LOGIT_CUH
#define SS_LOGIT_CUH

#include "number.cuh"

#define SS_MOST_LOGIT ((SS_ACC)1e30)

__device__ inline SS_ACC factor_of(SS_ACC factor, const SS_ACC* scales, int head) {
    return scales ? factor * scales[head] : factor;
}

__device__ inline SS_ACC clipped(SS_ACC score) {
    return score > SS_MOST_LOGIT ? SS_MOST_LOGIT : score < -SS_MOST_LOGIT ? -SS_MOST_LOGIT : score;
}

// A product that is rounded before anything is subtracted from it: so that every kernel has the same bits.
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }

__device__ inline SS_ACC logit_of(SS_ACC score, SS_ACC factor, bool counts) {
    return counts && score == score ? times(clipped(score), factor) : -SS_MOST_LOGIT;
}

// Whether a score is better than the worst there is.
__device__ inline bool is_near(SS_ACC score) { return SS_L2 ? score < infinity() : score > -infinity(); }

#endif
