// The scores of all candidates of a query in a slot, found by a block: each has the bits of score_of (patch_score.cuh).
//
// Patches of neighbouring candidates overlap. So what they need of the other frame is staged in shared memory: each
// pixel is loaded once, or blended once where candidates lie between pixels, SS_RUN channels at a time. A thread then
// compares one row of the query's patch at SS_DOWN x SS_ACROSS candidates, which share what it reads.
//
// The stage has every SS_APART-th pixel: the greatest common divisor of step and dilation, or 1 where candidates lie
// between pixels. In it, candidates are SS_BY pixels apart, and pixels of a patch SS_HOLE. Candidates that do not all
// lie equally far behind a pixel, as far as doubles tell, are scored directly.
//
// Constants beside those of candidates.cuh: SS_THREADS, SS_DOWN and SS_ACROSS (candidates of a thread), SS_PACKS (of a
// staged pixel), SS_NARROW (1: a pack is a channel, where pixels have few; 0: 16 bytes of channels), SS_APART, SS_PITCH
// (packs of a staged row).
#ifndef SS_WINDOW_SCORES_CUH
#define SS_WINDOW_SCORES_CUH

#include "candidates.cuh"

#define SS_PACK (SS_NARROW ? 1 : 16 / (int)sizeof(SS_ACC))
#define SS_BY ((int)SS_STEP / SS_APART)
#define SS_HOLE (SS_DILATION / SS_APART)
// Rows and columns of the stage: of pixels that are compared, and of those that are staged, as pixels are blended with
// the next ones.
#define SS_TALL (SS_BY * (SS_WINDOW_Y - 1) + SS_HOLE * (SS_PATCH - 1) + 1)
#define SS_WIDE (SS_BY * (SS_WINDOW_X - 1) + SS_HOLE * (SS_PATCH - 1) + 1)
#define SS_STAGED_TALL (SS_TALL + SS_SUBPIXEL)
#define SS_STAGED_WIDE (SS_WIDE + SS_SUBPIXEL)
#define SS_REACH (SS_BY * (SS_ACROSS - 1) + SS_HOLE * (SS_PATCH - 1) + 1)  // and what a thread sees of a row
#define SS_BLOCKS_DOWN ((SS_WINDOW_Y + SS_DOWN - 1) / SS_DOWN)
#define SS_BLOCKS_ACROSS ((SS_WINDOW_X + SS_ACROSS - 1) / SS_ACROSS)
#define SS_BLOCKS (SS_BLOCKS_DOWN * SS_BLOCKS_ACROSS)  // of candidates
#define SS_PARTS (SS_VECTORS ? SS_PACKS * SS_PACK / SS_SOME : 1)  // of a pixel, which threads load
#define SS_EACH (SS_PACKS * SS_PACK / SS_PARTS)

struct alignas(SS_PACK * sizeof(SS_ACC)) Pack {
    SS_ACC of[SS_PACK];
};

// In shared memory: rows of pixels of the other frame, each with one pack of all its pixels after the other; rows of
// the query's patch, likewise; and what each row of the patch adds to the score of each candidate.
struct Stage {
    Pack *theirs, *mine;
    SS_ACC* rows;
};

// Where the stage begins in the other frame, and whether all pairs of pixels exist.
struct Corner {
    Spot y, x;
    bool inside;
};

// --- staging ----------------------------------------------------------------------------------------
// Loads SS_EACH channels from f on of a pixel, or zeros where there are none.
__device__ inline void load_channels(const SS_SCALAR* pixel, bool exists, int f, int F, int apart, SS_ACC* to) {
    pixel += SS_VECTORS ? f : (long long)f * apart;
#pragma unroll
    for (int i = 0; i < SS_EACH; i += SS_SOME, pixel += SS_VECTORS ? SS_SOME : apart) {
        if (exists && f + i < F) load_some(pixel, to + i);
        else
            for (int j = 0; j < SS_SOME; ++j) to[i + j] = 0;
    }
}

// The same into shared memory, where packs of a pixel are `apart`.
__device__ inline void stage_pixel(const SS_SCALAR* pixel, bool exists, int f, int F, int channel, Pack* to,
                                   int apart) {
    SS_ACC channels[SS_EACH];
    if (exists && f + SS_EACH <= F) load_channels(pixel, true, f, f + SS_EACH, channel, channels);
    else load_channels(pixel, exists, f, F, channel, channels);
#pragma unroll
    for (int p = 0; p < SS_EACH / SS_PACK; ++p) {
        Pack pack;
#pragma unroll
        for (int i = 0; i < SS_PACK; ++i) pack.of[i] = channels[p * SS_PACK + i];
        to[p * apart] = pack;
    }
}

// Channels from `first` on.
__device__ inline void stage_window(const Stage& stage, const Plane& k, const Corner& corner, int first, int F) {
#pragma unroll 1
    for (int n = threadIdx.x; n < SS_STAGED_TALL * SS_STAGED_WIDE * SS_PARTS; n += SS_THREADS) {
        const int row = n / SS_PARTS / SS_STAGED_WIDE, column = n / SS_PARTS % SS_STAGED_WIDE, part = n % SS_PARTS;
        const Whole v = corner.y.pixel + (Whole)SS_APART * row, u = corner.x.pixel + (Whole)SS_APART * column;
        const bool exists = !SS_ZEROS || !(beyond(v, 0, k.H) || beyond(u, 0, k.W));
        const SS_SCALAR* const pixel = k.at(reflected(v, k.H), reflected(u, k.W));
        Pack* const to = stage.theirs + row * SS_PITCH + part * (SS_EACH / SS_PACK) * SS_STAGED_WIDE + column;
        stage_pixel(pixel, exists, first + part * SS_EACH, F, k.channel, to, SS_STAGED_WIDE);
    }
}

// One pack of a pixel and of the three next ones, as in load_some. What has no weight is not there.
__device__ inline Pack blended(const Pack* pixel, SS_ACC fy, SS_ACC fx) {
    Pack sum = {};
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        const SS_ACC down = corner / 2 ? fy : 1 - fy, across = corner % 2 ? fx : 1 - fx, weight = down * across;
        if (weight == 0) continue;
        const Pack one = pixel[corner / 2 * SS_PITCH + corner % 2];
#pragma unroll
        for (int i = 0; i < SS_PACK; ++i) sum.of[i] = multiply_add(weight, one.of[i], sum.of[i]);
    }
    return sum;
}

// Blends all pixels in place: a pixel takes only pixels behind itself, and all threads have read before one writes.
__device__ inline void blend_window(const Stage& stage, const Corner& corner) {
#pragma unroll 1
    for (int start = 0; start < SS_TALL * SS_WIDE; start += SS_THREADS) {
        const int n = start + (int)threadIdx.x;
        Pack* const pixel = stage.theirs + n / SS_WIDE * SS_PITCH + n % SS_WIDE;
        Pack packs[SS_PACKS];
        if (n < SS_TALL * SS_WIDE)
#pragma unroll
            for (int p = 0; p < SS_PACKS; ++p)
                packs[p] = blended(pixel + p * SS_STAGED_WIDE, corner.y.behind, corner.x.behind);
        __syncthreads();
        if (n < SS_TALL * SS_WIDE)
#pragma unroll
            for (int p = 0; p < SS_PACKS; ++p) pixel[p * SS_STAGED_WIDE] = packs[p];
    }
    __syncthreads();
}

__device__ inline void stage_patch(const Stage& stage, const Task& task, int first, int F) {
    const Plane& q = task.mine;
#pragma unroll 1
    for (int n = threadIdx.x; n < SS_PATCH * SS_PATCH * SS_PARTS; n += SS_THREADS) {
        const int row = n / SS_PARTS / SS_PATCH, column = n / SS_PARTS % SS_PATCH, part = n % SS_PARTS;
        const Whole v = (Whole)SS_SCALE * task.r.y + patch_offset(row);
        const Whole u = (Whole)SS_SCALE * task.r.x + patch_offset(column);
        const bool exists = !SS_QUERY_ZEROS || (v >= 0 && v < q.H && u >= 0 && u < q.W);
        const SS_SCALAR* const pixel = q.at(reflected(v, q.H), reflected(u, q.W));
        Pack* const to = stage.mine + (row * SS_PACKS + part * (SS_EACH / SS_PACK)) * SS_PATCH + column;
        stage_pixel(pixel, exists, first + part * SS_EACH, F, q.channel, to, SS_PATCH);
    }
}

// --- comparing --------------------------------------------------------------------------------------
// Sums of pairs of pixels, of a row of the patch at some candidates.
struct Sums {
    SS_ACC of[SS_DOWN][SS_ACROSS][SS_PATCH];
};

// Adds a pixel of the other frame, number x of those that a thread sees of its row, to the sums of all pairs it is in.
__device__ inline void add_pairs(SS_ACC (*sums)[SS_PATCH], const Pack* mine, const Pack& theirs, int x) {
#pragma unroll
    for (int c = 0; c < SS_ACROSS; ++c) {
        const int behind = x - SS_BY * c, j = behind / SS_HOLE;
        if (behind < 0 || behind % SS_HOLE || j >= SS_PATCH) continue;
#pragma unroll
        for (int f = 0; f < SS_PACK; ++f) sums[c][j] = add_pair(mine[j].of[f], theirs.of[f], sums[c][j]);
    }
}

__device__ inline void compare(Sums& sums, const Pack* mine, const Pack* theirs, int packs) {
#pragma unroll 1
    for (int pack = 0; pack < packs; ++pack, mine += SS_PATCH, theirs += SS_STAGED_WIDE) {
        Pack row[SS_PATCH];
#pragma unroll
        for (int j = 0; j < SS_PATCH; ++j) row[j] = mine[j];
#pragma unroll
        for (int y = 0; y < SS_DOWN; ++y) {
#pragma unroll
            for (int x = 0; x < SS_REACH; ++x) {
                const Pack pixel = theirs[y * SS_BY * SS_PITCH + x];
                add_pairs(sums.of[y], row, pixel, x);
            }
        }
    }
}

__device__ inline SS_ACC sum_of(const SS_ACC* numbers, int place) {
    Pairs<SS_ACC> sum(place);
#pragma unroll
    for (int j = 0; j < SS_PATCH; ++j) sum.add(numbers[j]);
    return sum.sum();
}

// Numbers of neighbouring pixels, the first of which is at this place.
__device__ inline SS_ACC sum_from(const SS_ACC* numbers, int place) {
    return place & 1 ? sum_of(numbers, 1) : sum_of(numbers, 0);
}

// Row i of the patch at the candidates from (top, left) on, in one run of channels.
__device__ inline Sums sums_of(const Stage& stage, int i, int top, int left, int packs) {
    Sums sums;
#pragma unroll
    for (int n = 0; n < SS_DOWN * SS_ACROSS * SS_PATCH; ++n)
        sums.of[n / (SS_ACROSS * SS_PATCH)][n / SS_PATCH % SS_ACROSS][n % SS_PATCH] = 0;
    const Pack* const theirs = stage.theirs + (SS_BY * top + SS_HOLE * i) * SS_PITCH + SS_BY * left;
    compare(sums, stage.mine + i * SS_PACKS * SS_PATCH, theirs, packs);
    return sums;
}

// Pairs with a pixel that does not exist add nothing.
__device__ inline void leave_out(Sums& sums, const Task& task, const Corner& corner, int i, int top, int left,
                                 const Sizes& s) {
    const Whole v = (Whole)SS_SCALE * task.r.y + patch_offset(i);
    const bool asked = !SS_QUERY_ZEROS || (v >= 0 && v < task.mine.H);
#pragma unroll
    for (int y = 0; y < SS_DOWN; ++y) {
        const Whole row = corner.y.pixel + (Whole)SS_APART * (SS_BY * (top + y) + SS_HOLE * i);
        const bool row_exists = asked && !(SS_ZEROS && beyond(row, corner.y.behind, s.kH));
#pragma unroll
        for (int n = 0; n < SS_ACROSS * SS_PATCH; ++n) {
            const int c = n / SS_PATCH, j = n % SS_PATCH;
            const Whole u = (Whole)SS_SCALE * task.r.x + patch_offset(j);
            const Whole column = corner.x.pixel + (Whole)SS_APART * (SS_BY * (left + c) + SS_HOLE * j);
            const bool exists = row_exists && !(SS_QUERY_ZEROS && (u < 0 || u >= task.mine.W)) &&
                                !(SS_ZEROS && beyond(column, corner.x.behind, s.kW));
            if (!exists) sums.of[y][c][j] = 0;
        }
    }
}

// Along an axis of a window, the first candidate of a block, which ends in it.
__device__ inline int begin_of(int block, int each, int window) {
    return window % each ? min(block * each, window - each) : block * each;
}

// One run of channels, of all rows of the patch at all candidates.
__device__ inline void compare_all(const Stage& stage, const Task& task, const Corner& corner, int first,
                                   const Sizes& s) {
    const int packs = min((s.F - first + SS_PACK - 1) / SS_PACK, SS_PACKS);
#pragma unroll 1
    for (int n = threadIdx.x; n < SS_BLOCKS * SS_PATCH; n += SS_THREADS) {
        const int i = n / SS_BLOCKS, down = n / SS_BLOCKS_ACROSS % SS_BLOCKS_DOWN, across = n % SS_BLOCKS_ACROSS;
        const int top = begin_of(down, SS_DOWN, SS_WINDOW_Y);
        const int left = begin_of(across, SS_ACROSS, SS_WINDOW_X);
        Sums sums = sums_of(stage, i, top, left, packs);
        if (!corner.inside) leave_out(sums, task, corner, i, top, left, s);
#pragma unroll
        for (int y = 0; y < SS_DOWN; ++y) {
#pragma unroll
            for (int c = 0; c < SS_ACROSS; ++c) {
                if (top + y < down * SS_DOWN || left + c < across * SS_ACROSS) continue;  // its neighbour's
                SS_ACC* const row = stage.rows + i * SS_WINDOW_SIZE + (top + y) * SS_WINDOW_X + left + c;
                *row = plus(first == 0 ? 0 : *row, sum_from(sums.of[y][c], task.r.x));
            }
        }
    }
}

// From sums along rows to scores.
__device__ inline void sum_rows(const Stage& stage, int y) {
#pragma unroll 1
    for (int n = threadIdx.x; n < SS_WINDOW_SIZE; n += SS_THREADS) {
        SS_ACC rows[SS_PATCH];
#pragma unroll
        for (int i = 0; i < SS_PATCH; ++i) rows[i] = stage.rows[i * SS_WINDOW_SIZE + n];
        stage.rows[n] = sum_from(rows, y);
    }
}

// Scores without a stage.
__device__ inline void score_all(const Stage& stage, const Task& task, const Window& window, const Sizes& s) {
#pragma unroll 1
    for (int number = threadIdx.x; number < SS_WINDOW_SIZE; number += SS_THREADS)
        stage.rows[number] = score_directly(task, window, number, s);
}

// --- windows --------------------------------------------------------------------------------------
// Whether all candidates along an axis lie equally far behind a pixel, and whole steps apart.
__device__ inline bool is_even(const Axis& axis, const Spot& first, int window, int lane) {
    if (!SS_SUBPIXEL) return true;
    bool even = true;
    for (int i = lane; i < window; i += 32) {
        const Spot spot = spot_at(position(axis, i));
        even = even && spot.pixel == first.pixel + (Whole)SS_STEP * i && spot.behind == first.behind;
    }
    return __all_sync(SS_ALL, even);
}

__device__ inline bool is_inside(Whole first, Whole last, int n) { return first >= 0 && last < n; }

// Where the stage of a window begins, whose first candidate is at (y, x).
__device__ inline Corner corner_of(const Task& task, const Spot& y, const Spot& x, const Sizes& s) {
    const Whole v = y.pixel + patch_offset(0), u = x.pixel + patch_offset(0);
    const Whole tall = (Whole)SS_APART * (SS_TALL - 1), wide = (Whole)SS_APART * (SS_WIDE - 1);
    const Whole qy = (Whole)SS_SCALE * task.r.y, qx = (Whole)SS_SCALE * task.r.x, last = patch_offset(SS_PATCH - 1);
    const bool theirs = !SS_ZEROS || (is_inside(v, v + tall, s.kH) && is_inside(u, u + wide, s.kW));
    const bool mine = !SS_QUERY_ZEROS || (is_inside(qy + patch_offset(0), qy + last, task.mine.H) &&
                                          is_inside(qx + patch_offset(0), qx + last, task.mine.W));
    return {{v, y.behind}, {u, x.behind}, theirs && mine};
}

// The scores of all candidates, in stage.rows. `first`: this is the first window of a query.
__device__ inline void score_window(const Stage& stage, const Task& task, const Window& window, bool first,
                                    const Sizes& s) {
    const Spot y = spot_at(position(window.y, 0)), x = spot_at(position(window.x, 0));
    const bool even = is_even(window.y, y, SS_WINDOW_Y, task.lane) && is_even(window.x, x, SS_WINDOW_X, task.lane);
    const Corner corner = corner_of(task, y, x, s);
    const Plane k = plane_of_k(task.k, task.r.b, task.r.g, window.frame, s, task.strides);
    if (first && s.F <= SS_RUN) stage_patch(stage, task, 0, s.F);  // for all windows, whether this one is even or not
#pragma unroll 1
    for (int f = 0; even && f < s.F; f += SS_RUN) {
        __syncthreads();
        stage_window(stage, k, corner, f, s.F);
        if (s.F > SS_RUN) stage_patch(stage, task, f, s.F);
        __syncthreads();
        if (SS_SUBPIXEL) blend_window(stage, corner);
        compare_all(stage, task, corner, f, s);
    }
    __syncthreads();
    if (even) sum_rows(stage, task.r.y);
    else score_all(stage, task, window, s);
    __syncthreads();
}

#endif
