// A tile in the form that its place allows: see tiles.cuh.
#ifndef SS_TILE_SUM_CUH
#define SS_TILE_SUM_CUH

#include "dense.cuh"
#include "images.cuh"

#define SS_IMAGES (!SS_OUR_ZEROS || !SS_DENSE)  // whether some tile needs the form of images.cuh
#define SS_IN_DENSE (SS_DENSE * (SS_STEPS * SS_TILE_H * SS_TILE_W + SS_CHANNELS * SS_TILE_H * SS_STAGED_W))
#define SS_IN_IMAGES (SS_IMAGES * SS_STEPS * SS_SUMS)
#define SS_IN_FORMS (SS_IN_DENSE > SS_IN_IMAGES ? SS_IN_DENSE : SS_IN_IMAGES)  // numbers

// Shared memory of a block: a form's, planes, and its side's.
struct Memory {
    SS_ACC *form, *planes;
    unsigned* side;
};

__device__ inline Memory divided(SS_ACC* memory) {
    SS_ACC* planes = memory + SS_IN_FORMS;
    return {memory, planes, (unsigned*)(planes + SS_STEPS * SS_PLANE)};
}

// Where a tile's channels begin in a video of T frames with channels first.
__device__ inline SS_SCALAR* channels_of(SS_SCALAR* out, const Tile& tile, const Sizes& s, int T) {
    const long long frame = (long long)tile.video * T + tile.t;
    return out + (frame * s.G * s.F + tile.g * s.F + tile.f) * tile.H * tile.W;
}

template <class Side, class Form>
__device__ inline bool sum_as(Side& side, Form form, const Memory& memory, SS_SCALAR* out, int T) {
    form.begin(side);
    add_steps(side, form, memory.planes);
    return form.finish(side, channels_of(out, form.tile, side.s, T));
}

// The sum, in a video `out` of T frames. `finite`: of each tile, whether all its numbers are.
template <class Side>
__device__ inline void sum_tile(Side& side, const Memory& memory, SS_SCALAR* out, int* finite, int T) {
    SS_ACC* values = memory.form + SS_STEPS * SS_TILE_H * SS_TILE_W;
    bool mine = true;
    if (SS_DENSE && !(SS_IMAGES && side.tile.has_images()))
        mine = sum_as(side, Dense{side.tile, side.steps, {}, memory.form, values}, memory, out, T);
    else if (SS_IMAGES)
        mine = sum_as(side, WithImages{side.tile, side.steps, {}, memory.form}, memory, out, T);
    const int all = __syncthreads_and(mine);
    if (threadIdx.x == 0) finite[blockIdx.x] = all;
}

#endif
