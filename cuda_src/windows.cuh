// Tiles of queries of a frame and head, and where the windows of their queries lie.
//
// Constants: SS_TILE_X, SS_TILE_Y, SS_RADIUS, SS_FIRST_SLOT, and those of whole.cuh.
#ifndef SS_WINDOWS_CUH
#define SS_WINDOWS_CUH

#include "video.cuh"
#include "whole.cuh"

struct Tile {
    int b, g, t, top, left;
};

__device__ inline Tile tile_of(int number, const Sizes& s, int across, int down) {
    const int clip = number / (across * down), in_clip = number % (across * down);
    return {clip / s.T / s.G, clip / s.T % s.G, clip % s.T, in_clip / across * SS_TILE_Y, in_clip % across * SS_TILE_X};
}

struct Around {
    int groups, slots, windows;
};

// Number of query (y, x) of the tile's frame, of all.
__device__ inline long long number_of_query(const Tile& tile, int y, int x, const Sizes& s) {
    const long long clip = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
    return (clip * s.h + y) * s.w + x;
}

// The window of a query in row y and column x of the grid in a slot, as displacements. Without flow nothing moves.
struct Window {
    Span y, x;
};

__device__ inline Window window_of(const SS_AROUND* flow, int y, int x, const Sizes& s) {
    const long long plane = (long long)s.h * s.w, at = (long long)y * s.w + x;
    Window window = {span_around(SS_WINDOW_Y, y * SS_STRIDE, flow ? flow[plane + at] : (SS_AROUND)0, s.kH),
                     span_around(SS_WINDOW_X, x * SS_STRIDE, flow ? flow[at] : (SS_AROUND)0, s.kW)};
    window.y.first -= y * SS_STRIDE, window.x.first -= x * SS_STRIDE;
    return window;
}

__device__ inline const SS_AROUND* flow_of(const SS_AROUND* around, const Tile& tile, int slot, const Sizes& s,
                                           const Around& a) {
    const int in_clip = slot + SS_FIRST_SLOT, followed = 2 * SS_RADIUS + 1 - a.slots;
    if (in_clip < followed) return 0;
    const long long group = (long long)tile.b * a.groups + (a.groups > 1 ? tile.g : 0);
    return around + ((group * s.T + tile.t) * a.slots + in_clip - followed) * 2 * s.h * s.w;
}

#endif
