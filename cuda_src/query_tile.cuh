// A tile of queries: what its block has of threads, shared memory and registers. See search_tiles.cu.
#ifndef SS_QUERY_TILE_CUH
#define SS_QUERY_TILE_CUH

#include "clip.cuh"
#include "ptx.cuh"
#include "video.cuh"
#include "windows.cuh"

#define SS_ALL 0xffffffffu
#define SS_PIXELS 32  // of a row
#define SS_MARGIN (SS_PATCH / 2)
#define SS_STRIPS ((SS_TILE_X + 3) / 4)  // of four pixels, that hold results
#define SS_GROUPS ((SS_TILE_Y + SS_COLUMN - 1) / SS_COLUMN)  // rows of consumers
#define SS_OWNERS (SS_TILE_X * SS_GROUPS)  // consumers with queries
#define SS_PRODUCERS (8 * SS_ROWS)  // threads; the others consume

// Shared memory: a ring of rows of k, sums along rows, and candidates that wait.
#define SS_FEW_HELD (16 / (int)sizeof(SS_HELD))
#define SS_PIXEL (SS_CHUNKS * SS_CHANNELS * (int)sizeof(SS_HELD))
#define SS_STRIP (4 * SS_PIXEL + 16)  // with 16 bytes between: eight strips of a row lie in different banks
#define SS_KEPT_ROWS (SS_ROWS + 1)
#define SS_MOST_AT_ONCE (SS_SUBPIXEL ? 5 : 9)
#define SS_TALLEST (SS_SUBPIXEL ? 127 : 255)  // rows of a reach
#define SS_SUMS_ROW (4 * SS_STRIPS)
#define SS_SUMS_PLANE (SS_ROWS * SS_SUMS_ROW)
#define SS_SUMS (SS_MOST_AT_ONCE * SS_SUMS_PLANE + SS_COLUMN * SS_SUMS_ROW)  // the last queries' rows end below
#define SS_WAIT 6

#define SS_ENTRY (2 + SS_RANKED)  // numbers of a kept candidate: rank, where it is, perhaps its score
#define SS_BEST (SS_ENTRY * SS_TOPK)
#define SS_REGISTERS (SS_COLUMN * SS_BEST > 4 * SS_CHANNELS ? SS_COLUMN * SS_BEST : 4 * SS_CHANNELS)

__device__ inline int byte_of(unsigned word, int i) { return word >> 8 * i & 255; }

// Displacements of a tile in a slot.
struct Reach {
    int y, x, tall, wide;
};

// The smallest displacements with which some windows begin, and the largest, negated.
struct alignas(16) Limits {
    int y, x, last_y, last_x;
};

__device__ inline Limits nowhere() { return {0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}; }

__device__ inline Limits both(const Limits& a, const Limits& b) {
    return {min(a.y, b.y), min(a.x, b.x), min(a.last_y, b.last_y), min(a.last_x, b.last_x)};
}

// What a tile looks at in a slot: its pixel (line, column) meets (y + line + dy, x + column + dx) of k at displacement
// (dy, dx) of the reach.
struct Slot {
    int number;
    bool own;  // the queries' own frame
    Reach reach;
    Plane k;
    int y, x;
};

// Displacements (dy, dx) ... (dy, dx + n - 1) of a reach, and where their sums are: in which half, from which plane on.
struct Step {
    int dy, dx, n, plane, half;
};

#define SS_FEWEST 3  // displacements that producers compare at once

// The steps of a row of a reach: even ones.
struct Steps {
    int wide, shorter, longer;  // displacements of a step, and up to where a step has one more
    Step now;

    __device__ Steps(const Reach& reach) : wide(reach.wide) {
        const int of_row = (wide + SS_MOST_AT_ONCE - 1) / SS_MOST_AT_ONCE;
        shorter = wide / of_row, longer = wide % of_row * (shorter + 1);
        now = {0, 0, 0, 0, 0};
    }

    __device__ void begin(int dy) { now.dy = dy, now.dx = 0, now.n = shorter + (longer > 0); }
    __device__ bool left() const { return now.dx < wide; }
    __device__ void go_on() { now.dx += now.n, now.half ^= 1, now.n = shorter + (now.dx < longer); }
};

// A part of a reach: its first row and column, and what is behind its last ones.
struct Part {
    int y, x, end_y, end_x;
};

// What of a step is in a part of the reach, and a little more if that is little.
__device__ inline Step within(const Step& step, const Part& part) {
    const int from = part.x - step.dx, to = part.end_x - step.dx;
    if (step.dy < part.y || step.dy >= part.end_y || from >= step.n || to <= 0) return {step.dy, 0, 0, 0, step.half};
    const int first = max(min(from, step.n - SS_FEWEST), 0), end = max(min(to, step.n), first + SS_FEWEST);
    return {step.dy, step.dx + first, end - first, first, step.half};
}

#endif
