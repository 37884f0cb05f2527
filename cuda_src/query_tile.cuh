// A tile of queries: what its block has of threads, shared memory and registers. See search_tiles.cu.
#ifndef SS_QUERY_TILE_CUH
#define SS_QUERY_TILE_CUH

#include "clip.cuh"
#include "video.cuh"
#include "windows.cuh"

#define SS_ALL 0xffffffffu
#define SS_PIXELS 32  // of a row
#define SS_MARGIN (SS_PATCH / 2)
#define SS_STRIPS ((SS_TILE_X + 3) / 4)  // of four pixels, that hold results
#define SS_GROUPS ((SS_TILE_Y + SS_COLUMN - 1) / SS_COLUMN)
#define SS_OWNERS (SS_TILE_X * SS_GROUPS)  // consumers with queries
#define SS_PRODUCERS (8 * SS_ROWS)  // threads; the others consume

// Shared memory: a ring of rows of k, sums along rows, and candidates that wait.
#define SS_PIXEL (SS_CHUNKS * SS_CHANNELS * (int)sizeof(SS_SCALAR))
#define SS_STRIP (4 * SS_PIXEL + 16)  // with 16 bytes between: eight strips of a row lie in different banks
#define SS_KEPT_ROWS (SS_ROWS + 1)
#define SS_MOST_AT_ONCE 9
#define SS_SUMS_ROW (4 * SS_STRIPS)
#define SS_SUMS_PLANE (SS_ROWS * SS_SUMS_ROW)
#define SS_SUMS (SS_MOST_AT_ONCE * SS_SUMS_PLANE + SS_COLUMN * SS_SUMS_ROW)  // the last queries' rows end below
#define SS_WAIT 6

#define SS_ENTRY (2 + SS_RANKED)  // numbers of a kept candidate: rank, where it is, perhaps its score
#define SS_BEST (SS_ENTRY * SS_TOPK)
#define SS_REGISTERS (SS_COLUMN * SS_BEST > 4 * SS_CHANNELS ? SS_COLUMN * SS_BEST : 4 * SS_CHANNELS)

// Displacements of a tile in a slot.
struct Reach {
    int y, x, tall, wide;
};

// Displacements (dy, dx) ... (dy, dx + n - 1) of a reach, and which half of the sums they are in.
struct Step {
    int dy, dx, n, half;
};

#endif
