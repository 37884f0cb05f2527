// dS/dq and dS/dk of form.cuh at whole places, tile by tile. Of each candidate one patch lies in our video, around its
// *home*, and one in the other video, around its place there: `step` pixels away, and so is each pixel of it. Hence
//
//   out[v] = sum over steps of W(v, step) * dphi(ours[v], other[v + step]),  W(v, step) = sum of the weights of all
//            candidates with this step whose home has v in its patch
//
// and W is a box filter of weights, which costs the same for 1 and for 100 channels.
//
// Steps are numbered by frame, row and column, and are taken in this order: those that exist, SS_STEPS numbers at a
// time. Sums only add, W along rows and then down the columns, in an order that depends on nothing but places: however
// many steps a tile has, and however it is cut, the same bits come out. Where no candidate is, there is -0.0, which
// alone leaves a sum as it is: a sum that is -0.0 has nothing in it, and reads nothing.
//
// W times a number is not what each weight times the number adds up to where that is infinite, or sums are: 1 and -1
// times infinity are no number. So all that comes out infinite or not a number is left to aggregate.cu and scatter.cu
// (SS_REPAIR), which add each pair for itself.
//
// A block has a tile, a warp a row of it, and a thread a pixel and part of its channels. What is ours and what is the
// other's is for a `Side` to say, which has
//
//   number[i]                  the number of the next step of a home's candidates; a thread's homes are numbered i
//   start(home, i)             finds the first one
//   weight(home, i)            of the candidate that has it
//   advance(home, i)           to the one behind it
//   frame(t), line(y, n)       frame t of the other video, and its row (or column) y, -1 if there is none
//   change(mine, theirs)       dphi
//
// Constants beside those of channels.cuh: SS_STEPS.
#ifndef SS_TILES_CUH
#define SS_TILES_CUH

#include "channels.cuh"
#include "form.cuh"

#define SS_TILE_W 32
#define SS_TILE_H 8
#define SS_THREADS (SS_TILE_W * SS_TILE_H)
#define SS_NONE 0xffffffffu  // no step

// Homes have a pixel of the tile in their patch: as many rows before and after it, and columns likewise.
#define SS_BEFORE (SS_DILATION * (SS_PATCH - 1 - SS_PATCH / 2))
#define SS_AFTER (SS_DILATION * (SS_PATCH / 2))
#define SS_AROUND_TILE (SS_BEFORE + SS_AFTER)
#define SS_ROWS (SS_TILE_H + SS_AROUND_TILE)
#define SS_COLUMNS (SS_TILE_W + SS_AROUND_TILE)
#define SS_HOMES (SS_ROWS * SS_COLUMNS)
#define SS_ROUNDS ((SS_HOMES + SS_THREADS - 1) / SS_THREADS)  // homes of a thread

// Weights of one step at homes, with as many columns of nothing at both sides as a pixel outside of the frame needs;
// and sums along rows, for pixels from SS_AFTER before the tile on.
#define SS_PLANE_W ((SS_COLUMNS + SS_AROUND_TILE + 3) / 4 * 4)
#define SS_SUMS_W ((SS_COLUMNS + 3) / 4 * 4)
#define SS_PLANE (SS_ROWS * SS_PLANE_W)
#define SS_SUMS (SS_ROWS * SS_SUMS_W)

__device__ inline bool is_nothing(float x) { return __float_as_uint(x) == 0x80000000u; }
__device__ inline bool is_nothing(double x) { return __double_as_longlong(x) == (long long)(1ull << 63); }

// --- tiles -----------------------------------------------------------------------------------------
// A tile of a video (videos, T, G * F, H, W), this thread's pixel, and the first of its channels.
struct Tile {
    int H, W;
    Part at;

    __device__ int top() const { return at.y - (int)threadIdx.x / SS_TILE_W; }
    __device__ int left() const { return at.x - (int)threadIdx.x % SS_TILE_W; }
};

__device__ inline Tile tile_of(const Sizes& s, int T, int H, int W) {
    const unsigned across = (W + SS_TILE_W - 1) / SS_TILE_W, down = (H + SS_TILE_H - 1) / SS_TILE_H;
    const unsigned parts = s.F / SS_CHANNELS;
    unsigned i = blockIdx.x;
    Tile tile = {H, W, {}};
    tile.at.x = (int)(i % across * SS_TILE_W + threadIdx.x % SS_TILE_W), i /= across;
    tile.at.y = (int)(i % down * SS_TILE_H + threadIdx.x / SS_TILE_W), i /= down;
    tile.at.f = (int)(i % parts) * SS_CHANNELS, i /= parts;
    tile.at.g = (int)(i % s.G), i /= s.G;
    tile.at.t = (int)(i % T), tile.at.video = (int)(i / T);
    return tile;
}

__device__ inline bool has_thread(const Tile& tile) { return tile.at.y < tile.H && tile.at.x < tile.W; }

// Row and column of home number i of a tile.
__device__ inline int home_y(const Tile& tile, int i) { return tile.top() - SS_BEFORE + i / SS_COLUMNS; }
__device__ inline int home_x(const Tile& tile, int i) { return tile.left() - SS_BEFORE + i % SS_COLUMNS; }

// --- steps -----------------------------------------------------------------------------------------
// From a home in a frame of (H, W) to a place in frame t of (otherH, otherW), at most SS_AFTER outside of it.
struct Steps {
    int H, W;
    unsigned rows, columns;
};

__device__ inline Steps steps_of(int H, int W, int otherH, int otherW) {
    const unsigned reach = 2 * SS_AROUND_TILE;
    // rows of steps are as far apart that none has another's within SS_STEPS
    return {H, W, H + otherH + reach, W + otherW + reach + SS_STEPS};
}

__device__ inline unsigned number_of(const Steps& n, int t, int dy, int dx) {
    return (t * n.rows + (unsigned)(dy + n.H + SS_AROUND_TILE)) * n.columns + (unsigned)(dx + n.W + SS_AROUND_TILE);
}

struct Step {
    int t, dy, dx;
};

__device__ inline Step step_of(const Steps& n, unsigned number) {
    const unsigned line = number / n.columns;
    return {(int)(line / n.rows), (int)(line % n.rows) - n.H - SS_AROUND_TILE,
            (int)(number % n.columns) - n.W - SS_AROUND_TILE};
}

// What threads know of steps: which of SS_STEPS from a number on some candidate has, and the next one behind them.
struct Found {
    unsigned present, next;
};

__device__ inline Found joined(const Found& a, const Found& b) {
    return {a.present | b.present, a.next < b.next ? a.next : b.next};
}

// The same of all threads of the block.
__device__ inline Found found_by_all(Found found) {
    __shared__ unsigned present[SS_TILE_H];
    __shared__ unsigned next[SS_TILE_H];
    for (int away = 16; away > 0; away /= 2) {
        found = joined(found, {__shfl_xor_sync(0xffffffffu, found.present, away),
                               __shfl_xor_sync(0xffffffffu, found.next, away)});
    }
    if (threadIdx.x % 32 == 0) present[threadIdx.x / 32] = found.present, next[threadIdx.x / 32] = found.next;
    __syncthreads();
    for (int w = 0; w < SS_TILE_H; ++w) found = joined(found, {present[w], next[w]});
    return found;
}

// --- planes ----------------------------------------------------------------------------------------
__device__ inline SS_ACC* cell_of_home(SS_ACC* planes, int step, int home) {
    return planes + step * SS_PLANE + home / SS_COLUMNS * SS_PLANE_W + home % SS_COLUMNS + SS_AFTER;
}

__device__ inline void empty_planes(SS_ACC* planes) {
    for (int i = threadIdx.x; i < SS_STEPS * SS_PLANE; i += SS_THREADS) planes[i] = -(SS_ACC)0;
    __syncthreads();
}

// Takes away what a thread has put at one of its homes.
__device__ inline void empty_home(SS_ACC* planes, int home, unsigned present) {
    for (; present; present &= present - 1) *cell_of_home(planes, __ffs(present) - 1, home) = -(SS_ACC)0;
}

// Sums along rows of the planes that are `present`, four pixels at a time.
__device__ inline void sum_rows(const SS_ACC* planes, SS_ACC* sums, unsigned present) {
    const int fours = SS_SUMS_W / 4, few = 16 / (int)sizeof(SS_ACC), read = (4 + SS_AROUND_TILE + 3) / 4 * 4;
    for (int i = threadIdx.x; i < SS_ROWS * fours; i += SS_THREADS) {
        const int row = i / fours, x = i % fours * 4;
        for (unsigned left = present; left; left &= left - 1) {
            const int step = __ffs(left) - 1;
            const SS_ACC* from = planes + step * SS_PLANE + row * SS_PLANE_W + x;
            SS_ACC* to = sums + step * SS_SUMS + row * SS_SUMS_W + x;
            SS_ACC weights[read];
#pragma unroll
            for (int j = 0; j < read; j += few) load_few(from + j, weights + j);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                SS_ACC sum = weights[j];
#pragma unroll
                for (int u = 1; u < SS_PATCH; ++u) sum += weights[j + u * SS_DILATION];
                to[j] = sum;
            }
        }
    }
    __syncthreads();
}

// W at row y and column x of the tile, or (not `inside`) beside it, where rows without homes have nothing.
template <bool inside> __device__ inline SS_ACC weight_at(const SS_ACC* sums, int step, int y, int x) {
    const SS_ACC* from = sums + step * SS_SUMS + y * SS_SUMS_W + x + SS_AFTER;
    SS_ACC sum = -(SS_ACC)0;
#pragma unroll
    for (int u = 0; u < SS_PATCH; ++u) {
        const int row = u * SS_DILATION;
        if (inside || (y + row >= 0 && y + row < SS_ROWS)) sum += from[row * SS_SUMS_W];
    }
    return sum;
}

// --- images ----------------------------------------------------------------------------------------
// Positions of which pixel y of n is the image, from SS_AFTER before the frame to SS_BEFORE behind it, in order.
struct Images {
    int y, n;
    bool only;  // itself
};

__device__ inline Images images_of(int y, int n, bool zeros) {
    return {y, n, zeros || (n > 1 && kinds_of_images(y, n, zeros, SS_AFTER) == 1)};
}

__device__ inline int image_after(const Images& of, int v) {
    if (of.only) return v < of.y ? of.y : of.n + SS_BEFORE;
    if (of.n == 1) return v + 1;
    const int period = 2 * (of.n - 1), next = v + 1;
    const int straight = within_period(of.y - next, period), mirrored = within_period(-of.y - next, period);
    return next + (straight < mirrored ? straight : mirrored);
}

__device__ inline int first_image(const Images& of) { return image_after(of, -SS_AFTER - 1); }

// --- the sum ---------------------------------------------------------------------------------------
// What a step adds at position (v, u), of which this thread's pixel is an image. `row`: of the other frame, 0 if none.
template <bool inside, class Side>
__device__ inline void add_image(Values& sum, const Values& mine, const Side& side, const Plane& frame,
                                 const SS_SCALAR* row, const Tile& tile, const SS_ACC* sums, int step, int v, int u,
                                 int x) {
    const SS_ACC weight = weight_at<inside>(sums, step, v - tile.top(), u - tile.left());
    x = side.line(x, frame.W);
    if (is_nothing(weight) || !row || x < 0) return;
    const Values theirs = load_values(row + x * frame.column, frame.channel);
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) sum.of[c] += weight * side.change(mine.of[c], theirs.of[c]);
}

// Row y of a frame from this thread's channels on, 0 if there is none.
template <class Side>
__device__ inline const SS_SCALAR* row_of(const Side& side, const Plane& frame, const Tile& tile, int y) {
    y = side.line(y, frame.H);
    return y >= 0 ? frame.at(y, 0) + tile.at.f * frame.channel : 0;
}

// What the present ones of the steps from `first` on add at this thread's pixel.
template <bool zeros, class Side>
__device__ inline void add_steps(Values& sum, const Values& mine, const Side& side, const Tile& tile,
                                 const SS_ACC* sums, const Step& first, unsigned present) {
    const Images rows = images_of(tile.at.y, tile.H, zeros), columns = images_of(tile.at.x, tile.W, zeros);
    const Plane frame = side.frame(first.t);
    if (rows.only && columns.only) {
        const SS_SCALAR* row = row_of(side, frame, tile, tile.at.y + first.dy);
#pragma unroll 1
        for (; present; present &= present - 1) {
            const int i = __ffs(present) - 1, x = tile.at.x;
            add_image<true>(sum, mine, side, frame, row, tile, sums, i, tile.at.y, x, x + first.dx + i);
        }
        return;
    }
    for (; present; present &= present - 1) {
        const int i = __ffs(present) - 1;
#pragma unroll 1
        for (int v = first_image(rows); v < tile.H + SS_BEFORE; v = image_after(rows, v)) {
            const SS_SCALAR* row = row_of(side, frame, tile, v + first.dy);
#pragma unroll 1
            for (int u = first_image(columns); u < tile.W + SS_BEFORE; u = image_after(columns, u))
                add_image<false>(sum, mine, side, frame, row, tile, sums, i, v, u, u + first.dx + i);
        }
    }
}

// Puts the weights of a home's candidates with steps from `from` on into the planes.
template <class Side>
__device__ inline Found put_home(Side& side, int home, int i, SS_ACC* planes, unsigned from) {
    Found found = {0, SS_NONE};
    for (; side.number[i] != SS_NONE && side.number[i] - from < SS_STEPS; side.advance(home, i)) {
        const unsigned step = side.number[i] - from;
        *cell_of_home(planes, step, home) += side.weight(home, i);
        found.present |= 1u << step;
    }
    found.next = side.number[i];
    return found;
}

// The sum at this thread's pixel. `zeros`: nothing is outside of our frame.
template <bool zeros, class Side>
__device__ inline Values sum_of_tile(Side& side, const Values& mine, const Tile& tile, const Steps& steps, SS_ACC* sums,
                                     SS_ACC* planes) {
    Values sum = no_values();
    Found found = {0, SS_NONE};
    unsigned put[SS_ROUNDS];
#pragma unroll
    for (int i = 0; i < SS_ROUNDS; ++i) {
        side.number[i] = SS_NONE;
        const int home = threadIdx.x + i * SS_THREADS;
        if (home < SS_HOMES) side.start(home, i);
        found = joined(found, {0, side.number[i]});
    }
    found = found_by_all(found);
    empty_planes(planes);
    while (found.next != SS_NONE) {
        const unsigned from = found.next;
        found = {0, SS_NONE};
#pragma unroll
        for (int i = 0; i < SS_ROUNDS; ++i) {
            const Found here = put_home(side, threadIdx.x + i * SS_THREADS, i, planes, from);
            put[i] = here.present, found = joined(found, here);
        }
        found = found_by_all(found);
        sum_rows(planes, sums, found.present);
#pragma unroll
        for (int i = 0; i < SS_ROUNDS; ++i) empty_home(planes, threadIdx.x + i * SS_THREADS, put[i]);
        if (has_thread(tile)) add_steps<zeros>(sum, mine, side, tile, sums, step_of(steps, from), found.present);
    }
    return sum;
}

#endif
