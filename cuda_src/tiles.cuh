// dS/dq and dS/dk of form.cuh at whole places, tile by tile. Of each candidate one patch lies in our video, around its
// *home*, and one in the other video, around its place there: `step` pixels away, and so is each pixel of it. Hence
//
//   out[v] = sum over steps of W(v, step) * dphi(ours[v], other[v + step]),  W(v, step) = sum of the weights of all
//            candidates with this step whose home has v in its patch
//
// and W is a box filter of weights (box.cuh), which costs the same for 1 and for 100 channels.
//
// Steps are numbered by frame, row and column, and are taken in this order: those that exist, up to SS_STEPS numbers
// at a time. Sums only add, in an order that depends on nothing but places: however many steps a tile has, and however
// it is cut, the same bits come out. A step that a pixel does not have adds -0.0 times a number, which changes
// nothing.
//
// W times a number is not what each weight times the number adds up to where that is infinite, or sums are: 1 and -1
// times infinity are no number. So a tile says whether all that it wrote is finite, and what is not is left to
// aggregate.cu and scatter.cu (SS_REPAIR), which add each pair for itself.
//
// A block has a tile. It sums in one of two forms, which give the same bits: dense.cuh, or images.cuh, for the tiles at
// whose border our frame is mirrored. What is ours and what is the other's is for a `Side` to say, which has
//
//   start()                    finds the first candidates of all homes, in the order of their steps
//   key(home)                  of the next candidate of a home: the number of its step * Side::keys, or a little more
//   weight(home, key)          of this candidate
//   advance(home)              to the one behind it
//   ours(), frame(t)           our frame, if anything reads it, and frame t of the other video
//   line(y, n)                 row (or column) y of it, -1 if there is none
//   result(y, x)               of our pixel: what `of` its sum is written
//
// A `Form` has `begin`; `first(next)`, the number of the first of the steps that are taken with step number `next`;
// `next` and, behind a barrier, `add`, which take what was put into planes; and `finish`, which writes the sums.
//
// Constants beside those of channels.cuh: SS_STEPS, SS_OUR_ZEROS, SS_DENSE (0: no tile is summed as in dense.cuh).
#ifndef SS_TILES_CUH
#define SS_TILES_CUH

#include "box.cuh"
#include "form.cuh"

#define SS_ROUNDS ((SS_HOMES + SS_THREADS - 1) / SS_THREADS)  // homes of a thread
#define SS_NONE 0xffffffffu  // no step

// Of the product with theirs, or half of the derivative of the squared difference, by either of both.
__device__ inline SS_ACC change(SS_ACC mine, SS_ACC theirs) { return SS_L2 ? mine - theirs : theirs; }
__device__ inline SS_ACC changed(SS_ACC sum) { return SS_L2 ? 2 * sum : sum; }

// --- tiles -----------------------------------------------------------------------------------------
// A tile of a video (videos, T, G * F, H, W), for SS_CHANNELS channels from f on.
struct Tile {
    int H, W, video, t, g, f, top, left;

    __device__ bool has(int y, int x) const { return top + y < H && left + x < W; }

    // Whether a pixel of it has a mirror image near the frame.
    __device__ bool has_images() const {
        if (SS_OUR_ZEROS) return false;
        const bool within = top > SS_AFTER && left > SS_AFTER;
        return !within || top + SS_TILE_H > H - 1 - SS_AFTER || left + SS_TILE_W > W - 1 - SS_AFTER;
    }
};

__device__ inline Tile tile_of(const Sizes& s, int T, int H, int W) {
    const unsigned across = (W + SS_TILE_W - 1) / SS_TILE_W, down = (H + SS_TILE_H - 1) / SS_TILE_H;
    const unsigned parts = s.F / SS_CHANNELS;
    unsigned i = blockIdx.x;
    Tile tile = {H, W, 0, 0, 0, 0, 0, 0};
    tile.left = (int)(i % across) * SS_TILE_W, i /= across;
    tile.top = (int)(i % down) * SS_TILE_H, i /= down;
    tile.f = (int)(i % parts) * SS_CHANNELS, i /= parts;
    tile.g = (int)(i % s.G), i /= s.G;
    tile.t = (int)(i % T), tile.video = (int)(i / T);
    return tile;
}

// Row and column of home number i of a tile.
__device__ inline int home_y(const Tile& tile, int i) { return tile.top - SS_BEFORE + i / SS_COLUMNS; }
__device__ inline int home_x(const Tile& tile, int i) { return tile.left - SS_BEFORE + i % SS_COLUMNS; }

// --- steps -----------------------------------------------------------------------------------------
// From a home in a frame of (H, W) to a place in frame t of (otherH, otherW), at most SS_AFTER outside of it.
struct Steps {
    int H, W;
    unsigned rows, columns;
};

__device__ inline Steps steps_of(int H, int W, int otherH, int otherW) {
    const unsigned reach = 2 * SS_AROUND_TILE;
    // rows of steps are as far apart that none has another's within SS_STEPS, and so are frames
    return {H, W, H + otherH + reach + 1, W + otherW + reach + SS_STEPS};
}

__device__ inline unsigned number_of(const Steps& n, int t, int dy, int dx) {
    return (t * n.rows + (unsigned)(dy + n.H + SS_AROUND_TILE)) * n.columns + (unsigned)(dx + n.W + SS_AROUND_TILE);
}

struct Step {
    int t, dy, dx;
};

// The row of steps that was looked at last, and the number where it begins: the next step is often of this row or the
// one behind it.
struct StepRow {
    unsigned start;
    int t, dy;

    __device__ void begin(const Steps& n) { start = 0, t = 0, dy = -n.H - SS_AROUND_TILE; }

    __device__ Step step_of(const Steps& n, unsigned number) {
        if (number - start >= 2 * n.columns) {
            const unsigned line = number / n.columns;
            start = line * n.columns, t = (int)(line / n.rows), dy = (int)(line % n.rows) - n.H - SS_AROUND_TILE;
        } else if (number - start >= n.columns) {
            start += n.columns, ++dy;
        }
        return {t, dy, (int)(number - start) - n.W - SS_AROUND_TILE};
    }
};

// What threads know of steps: which of SS_STEPS from a number on some candidate has, and the key of the next one.
struct Found {
    unsigned present, next;
};

__device__ inline Found joined(const Found& a, const Found& b) {
    return {a.present | b.present, a.next < b.next ? a.next : b.next};
}

__device__ inline Found found_by_warp(Found found) {
#if __CUDA_ARCH__ >= 800
    return {__reduce_or_sync(0xffffffffu, found.present), __reduce_min_sync(0xffffffffu, found.next)};
#else
    for (int away = 16; away > 0; away /= 2) {
        found = joined(found, {__shfl_xor_sync(0xffffffffu, found.present, away),
                               __shfl_xor_sync(0xffffffffu, found.next, away)});
    }
    return found;
#endif
}

// The same of all threads of the block.
__device__ inline Found found_by_all(Found found) {
    const int warps = SS_THREADS / 32;
    __shared__ unsigned present[warps];
    __shared__ unsigned next[warps];
    found = found_by_warp(found);
    if (threadIdx.x % 32 == 0) present[threadIdx.x / 32] = found.present, next[threadIdx.x / 32] = found.next;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < warps; ++w) found = joined(found, {present[w], next[w]});
    return found;
}

// --- the sum ---------------------------------------------------------------------------------------
__device__ inline SS_ACC* cell_of(SS_ACC* planes, int home) {
    return planes + home / SS_COLUMNS * SS_PLANE_W + home % SS_COLUMNS + SS_SIDE;
}

// A thread's homes: the keys of their next candidates. A warp goes on until none of its threads has any for the planes.
struct Heads {
    unsigned key[SS_ROUNDS];

    __device__ unsigned least() const {
        unsigned found = key[0];
#pragma unroll
        for (int i = 1; i < SS_ROUNDS; ++i) found = min(found, key[i]);
        return found;
    }
};

template <class Side> __device__ inline Heads heads_of(const Side& side) {
    Heads heads;
#pragma unroll
    for (int i = 0; i < SS_ROUNDS; ++i) {
        const int home = threadIdx.x + i * SS_THREADS;
        heads.key[i] = home < SS_HOMES ? side.key(home) : SS_NONE;
    }
    return heads;
}

// Takes one of the next candidates, the one with key `least`, and returns the number of its step.
template <class Side>
__device__ inline unsigned put_next(Side& side, Heads& heads, unsigned least, SS_ACC* planes, unsigned from) {
    bool taken = false, mine[SS_ROUNDS];
    int home = threadIdx.x;
#pragma unroll
    for (int i = 0; i < SS_ROUNDS; ++i) {
        mine[i] = !taken && heads.key[i] == least;
        taken = taken || mine[i];
        home = mine[i] ? (int)threadIdx.x + i * SS_THREADS : home;
    }
    const unsigned step = least / Side::keys - from;
    cell_of(planes, home)[step * SS_PLANE] += side.weight(home, least);
    const unsigned next = side.advance(home);
#pragma unroll
    for (int i = 0; i < SS_ROUNDS; ++i) heads.key[i] = mine[i] ? next : heads.key[i];
    return step;
}

// Puts the weights of candidates with steps from `from` on into the planes, in place of what was there.
template <class Side>
__device__ inline Found put_weights(Side& side, Heads& heads, SS_ACC* planes, unsigned from) {
#pragma unroll
    for (int i = 0; i < SS_ROUNDS; ++i) {
        const int home = threadIdx.x + i * SS_THREADS;
        if (home >= SS_HOMES) break;
#pragma unroll
        for (int step = 0; step < SS_STEPS; ++step) cell_of(planes, home)[step * SS_PLANE] = -(SS_ACC)0;
    }
    Found found = {0, heads.least()};
    const unsigned end = (from + SS_STEPS) * Side::keys;
    while (found.next < end) {
        found.present |= 1u << put_next(side, heads, found.next, planes, from);
        found.next = heads.least();
    }
    return found;
}

// Gives a form all steps, in their order.
template <class Side, class Form> __device__ inline void add_steps(Side& side, Form& form, SS_ACC* planes) {
    side.start();
    Heads heads = heads_of(side);
    Found found = found_by_all({0, heads.least()});
    empty_planes(planes);
    while (found.next != SS_NONE) {
        const unsigned from = form.first(found.next / Side::keys);
        found = found_by_all(put_weights(side, heads, planes, from));
        form.next(side, planes, found.present);
        __syncthreads();
        form.add(side, found.present);
    }
}

#endif
