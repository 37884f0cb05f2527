// Where kept candidates land: cells are the pixels of k with SS_REACH more at each side, from where patches reach into
// the video, (B, G, kT, kH + 2 * SS_REACH, kW + 2 * SS_REACH).
#ifndef SS_LANDING_CUH
#define SS_LANDING_CUH

#include "cells.cuh"
#include "place.cuh"

__device__ inline long long cell_at(long long frame, int y, int x, const Sizes& s) {
    return (frame * (s.kH + 2LL * SS_REACH) + y + SS_REACH) * (s.kW + 2LL * SS_REACH) + x + SS_REACH;
}

__device__ inline bool within_reach(int y, int n) { return y >= -SS_REACH && y < n + SS_REACH; }

// The cell of a candidate, -1 too far away to reach the video.
__device__ inline long long cell_of(const Place& place, const Query& r, const Sizes& s) {
    if (!within_reach(place.y.at, s.kH) || !within_reach(place.x.at, s.kW)) return -1;
    return cell_at(((long long)r.b * s.G + r.g) * s.kT + place.frame, place.y.at, place.x.at, s);
}

#endif
