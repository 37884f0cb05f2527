// The form S(q, k, weights, offsets) = sum of weights * phi(q(r + u), k(r + offset + u)) over queries r, their kept
// candidates, the pixels u of a patch and channels. phi is the product or, with SS_L2, the squared difference.
//
//   score.cu       dS/dweights    how alike the patches are
//   aggregate.cu   dS/dq          with the product: the weighted sum of patches of k
//   scatter.cu     dS/dk          with the product: patches of q added at their places
//   slope.cu       dS/doffsets    how the score changes as a place moves
//
// A pair with a pixel outside a border of zeros, or of weight 0, adds nothing, even where its other pixel is infinite.
#ifndef SS_FORM_CUH
#define SS_FORM_CUH

#include "place.cuh"

__device__ inline SS_ACC phi(SS_ACC q, SS_ACC k) { return SS_L2 ? (q - k) * (q - k) : q * k; }
__device__ inline SS_ACC dphi_dq(SS_ACC q, SS_ACC k) { return SS_L2 ? 2 * (q - k) : k; }
__device__ inline SS_ACC dphi_dk(SS_ACC q, SS_ACC k) { return SS_L2 ? -2 * (q - k) : q; }

#endif
