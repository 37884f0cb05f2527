// Channels of a pixel, SS_CHANNELS of them at a time, which share the work of finding a place.
//
// SS_CHANNELS divides the channels of a head. With SS_VECTORS a thread's channels are loaded 16 bytes at a time: see
// clip.cuh. SS_REPAIR: the channels of a tile, where a kernel does again what tiles could not, else 0.
#ifndef SS_CHANNELS_CUH
#define SS_CHANNELS_CUH

#include "place.cuh"

#define SS_RESIDENT (sizeof(SS_ACC) > 4 ? 2 : 4)  // blocks of a multiprocessor: doubles need more registers

#define SS_TILE_W 32  // pixels of a tile, of tiles.cuh
#define SS_TILE_H 8
#define SS_TILE_F (SS_REPAIR ? SS_REPAIR : 1)  // and channels, if some of them may have to be repaired

struct Values {
    SS_ACC of[SS_CHANNELS];
};

// --- loads -----------------------------------------------------------------------------------------
// Channels that are `apart` numbers from each other.
__device__ inline Values load_values(const SS_SCALAR* p, long long apart) {
    Values v;
    const int step = SS_VECTORS ? SS_FEW : 1;
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; c += step) {
        if (SS_VECTORS) load_few(p + c, v.of + c);
        else v.of[c] = load(p + c * apart);
    }
    return v;
}

// Channels f and on of a pixel.
__device__ inline Values values_at(const Plane& frame, const SS_SCALAR* pixel, int f) {
    return load_values(pixel + f * frame.channel, frame.channel);
}

__device__ inline Values no_values() {
    Values v;
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) v.of[c] = 0;
    return v;
}

__device__ inline void add_scaled(Values& sum, SS_ACC weight, const Values& v) {
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) sum.of[c] += weight * v.of[c];
}

// The same of a sample that exists.
__device__ inline Values values_of(const Plane& frame, const Sample& s, int f) {
    if (SS_WHOLE) return values_at(frame, s.at[0], f);
    Values sum = no_values();
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
        if (s.at[corner]) add_scaled(sum, s.weight[corner], values_at(frame, s.at[corner], f));
    return sum;
}

// --- a thread per pixel and part of its channels -----------------------------------------------------
// The first of a thread's channels f of head g, at a pixel of a video (videos, T, G * F, H, W).
struct Part {
    int video, t, g, f, y, x;
};

__device__ inline bool part_of_video(const Sizes& s, int T, int H, int W, Part* p) {
    Item item;
    if (!item_of(W, &item)) return false;
    const unsigned parts = s.F / SS_CHANNELS;
    unsigned i = item.row;
    p->x = item.at;
    p->y = (int)(i % H), i /= H;
    p->f = (int)(i % parts) * SS_CHANNELS, i /= parts;
    p->g = (int)(i % s.G), i /= s.G;
    p->t = (int)(i % T), p->video = (int)(i / T);
    return true;
}

// Where a thread's channels are in a video with channels first; they are a plane of H * W numbers apart.
__device__ inline SS_SCALAR* numbers_of(SS_SCALAR* out, const Part& p, const Sizes& s, int T, int H, int W) {
    const long long channel = ((long long)p.video * T + p.t) * s.G * s.F + p.g * s.F + p.f;
    return out + (channel * H + p.y) * W + p.x;
}

__device__ inline bool store_finite(SS_SCALAR* number, SS_ACC x) {
    store(number, x);
    return isfinite((SS_ACC)load(number));
}

// Whether the tile that has a thread's pixel wrote finite numbers only. Tiles have SS_REPAIR channels.
__device__ inline bool is_finite(const int* finite, const Part& p, const Sizes& s, int T, int H, int W) {
    const long long video = (((long long)p.video * T + p.t) * s.G + p.g) * (s.F / SS_TILE_F) + p.f / SS_TILE_F;
    const int across = (W + SS_TILE_W - 1) / SS_TILE_W, down = (H + SS_TILE_H - 1) / SS_TILE_H;
    return finite[(video * down + p.y / SS_TILE_H) * across + p.x / SS_TILE_W];
}

// With SS_REPAIR only numbers that are not finite are overwritten.
__device__ inline void store_values(SS_SCALAR* numbers, const Values& v, long long plane) {
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c)
        if (!SS_REPAIR || !isfinite((SS_ACC)load(numbers + c * plane))) store(numbers + c * plane, v.of[c]);
}

#endif
