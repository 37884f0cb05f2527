// The search of search.cu, faster where patches of a window overlap, whatever its neighbours' windows do: a block per
// query at a time, whose threads score all candidates of a slot together, as in window_scores.cuh. The first warp keeps
// the best.
//
// Arrays are those of search.cu, and so are the constants, beside those of window_scores.cuh.
#include "softmax.cuh"
#include "window_scores.cuh"

struct Staged {
    Stage stage;

    __device__ void look(const Task& task, const Window& window, bool first, const Sizes& s) const {
        score_window(stage, task, window, first, s);
    }
    __device__ bool keeps() const { return threadIdx.x < 32; }
    __device__ SS_ACC score(const Task&, const Window&, int number, const Sizes&) const { return stage.rows[number]; }
};

#define SS_REGISTERS_OF_THREAD (sizeof(SS_ACC) > 4 ? 255 : 168)  // so that many warps are there, and wait in turn

extern "C" __global__ void __launch_bounds__(SS_THREADS, 65536 / SS_REGISTERS_OF_THREAD / SS_THREADS)
search_windows(const SS_SCALAR* q, const SS_SCALAR* k, const SS_AROUND* around, SS_ACC* scores, SS_PLACE* offsets,
               int* seed, unsigned char* buffers, const int* wild, const SS_ACC* scales, SS_ACC* sums,
               SS_ACC factor, double penalty, const Sizes s, const Strides strides, const Around a, long long count) {
    extern __shared__ float4 pool[];
    if (SS_MARKED && wild[0] == 0) return;
    Pack* const theirs = reinterpret_cast<Pack*>(pool);
    Pack* const mine = theirs + SS_STAGED_TALL * SS_PITCH;
    SS_ACC* const rows = reinterpret_cast<SS_ACC*>(mine + SS_PATCH * SS_PATCH * SS_PACKS);
    Candidate* const shared = reinterpret_cast<Candidate*>(rows + SS_PATCH * SS_WINDOW_SIZE);
    Candidate* const buffer = SS_SHARED ? shared : (Candidate*)buffers + (long long)blockIdx.x * SS_ROOM;
    for (long long number = blockIdx.x; number < count; number += gridDim.x) {
        const Task task = task_of(number, q, k, around, penalty, s, strides);
        const int begin = first_slot(task, wild, scores, s);
        if (begin < 0) continue;
        const Staged staged = {{theirs, mine, rows}};
        search_query(task, staged, begin, number * s.K, buffer, {scores, offsets, seed}, s, a);
        if (SS_WEIGHED && staged.keeps())
            become_weights_together(scores, s.K, {factor_of(factor, scales, task.r.g), sums}, number);
    }
}
