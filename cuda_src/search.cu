// The best candidates in a window around each query's shifted place, in each frame that it looks at.
//
//   scores   (B, G, T, h, w, K) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)) of the kept places n,
//            best first; phi is the product or, with SS_L2, the squared difference
//   offsets  (B, G, T, h, w, K, 3) = n - r
//   seed     (B, G, T, h, w, K), with SS_SEEDS: the slot of each
//   scales   (G,), what `factor` is multiplied by, or null: with SS_WEIGHED the scores of a query are softmax of
//            factor * score, and `sums` are those of attend.cuh, or null
//   penalty  by which candidates rank behind others for each squared pixel of their way from the centre
//   around   flow (B, groups, T, slots, 2, h, w) with channel 0 = dx, 1 = dy, or with SS_SEEDS offsets (B, G, T, h, w,
//            slots, 3): where the windows lie
//   q, k     (B, T, G * F, H, W) with any strides
//
// One warp per query at a time, a lane per candidate, the best in topk.cuh; the window is never stored. Candidate
// number (s * rows + i) * columns + j is in row i and column j of the window in slot s. Windows that neighbours share
// are what search_tiles.cu and search_subpixel.cu are for; with SS_MARKED only those queries are searched here
// that they left, from the slot on that they did not search.
//
// Constants: SS_PATCH, SS_DILATION, SS_STRIDE, SS_SCALE (pixels of q for one of k), SS_ZEROS, SS_QUERY_ZEROS (1:
// nothing lies outside of frames of k and q; 0: they are mirrored), SS_L2, SS_WINDOW_Y, SS_WINDOW_X, SS_EVEN_BEFORE,
// SS_STEP, SS_RADIUS, SS_FIRST_SLOT, SS_SLIDE, SS_SUBPIXEL, SS_PENALTY (1: there is a `penalty`), SS_TOPK (0: all),
// SS_PER_FRAME, SS_ANCHOR (1 self, 2 flow), SS_SKIP (1 leaves self out, 2 makes it infinite), SS_VECTORS of clip.cuh,
// SS_TILE_X and SS_TILE_Y (of tiles), SS_REGISTERS or SS_ROOM of topk.cuh, SS_SHARED (1: its buffers are in shared
// memory).
#include "candidates.cuh"
#include "softmax.cuh"

#define SS_WARPS 4

extern "C" __global__ void __launch_bounds__(32 * SS_WARPS, 1)
search(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, SS_ACC* scores, SS_PLACE* offsets, int* seed,
       unsigned char* buffers, const int* wild, const SS_ACC* scales, SS_ACC* sums, SS_ACC factor,
       double penalty, const Sizes s, const Strides strides, const Around a, long long count) {
    extern __shared__ Candidate shared_buffers[];
    if (SS_MARKED && wild[0] == 0) return;
    const int warp = threadIdx.x / 32;
    const long long first = (long long)blockIdx.x * SS_WARPS + warp, warps = (long long)gridDim.x * SS_WARPS;
    Candidate* buffer = SS_SHARED ? shared_buffers + warp * SS_ROOM : (Candidate*)buffers + first * SS_ROOM;
    for (long long number = first; number < count; number += warps) {
        const Task task = task_of(number, q, k, around, penalty, s, strides);
        const int begin = first_slot(task, wild, scores, s);
        if (begin < 0) continue;
        search_query(task, Directly(), begin, number * s.K, buffer, {scores, offsets, seed}, s, a);
        if (SS_WEIGHED) become_weights_together(scores, s.K, {factor_of(factor, scales, task.r.g), sums}, number);
    }
}
