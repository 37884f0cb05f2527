// The queries of attend.cu and attend_places.cu: a thread has a part of the channels of one.
#ifndef SS_ATTEND_QUERY_CUH
#define SS_ATTEND_QUERY_CUH

#include "attend.cuh"

// A query's thread: its rectangle, the pixel that it stands at, whether it exists, and its number.
struct Asker {
    Share share;
    Pixel at;
    bool exists;
    long long number;
};

// A query that does not exist does what the last of its row or column does, and writes nothing.
__device__ inline bool asker_of(int batch, const Sizes& s, Asker* asker) {
    const Grid grid = grid_of(s.h, s.w);
    if (!share_of(grid, batch, s.T, s, &asker->share)) return false;
    const Pixel at = pixel_of(grid, asker->share.rect);
    asker->exists = at.y < s.h && at.x < s.w;
    asker->at = {min(at.y, s.h - 1), min(at.x, s.w - 1)};
    const Share& share = asker->share;
    const long long clip = ((long long)share.b * s.G + share.g) * s.T + share.t;
    asker->number = (clip * s.h + asker->at.y) * s.w + asker->at.x;
    return true;
}

// The pixel of a query in the videos.
__device__ inline int pixel_of_query(const Asker& asker, const Sizes& s) {
    return asker.at.y * SS_STRIDE * s.kW + asker.at.x * SS_STRIDE;
}

// What a pixel of `out` (channels first) and the gradient that arrives there multiply to.
__device__ inline SS_ACC product_with(const SS_SCALAR* out, const SS_ACC* arrives, const Asker& asker, int here, int FV,
                                      const Sizes& s) {
    const long long pixels = (long long)s.kH * s.kW;
    const Share& share = asker.share;
    const SS_SCALAR* const from = out + (((long long)share.b * s.T + share.t) * s.G + share.g) * FV * pixels + here;
    SS_ACC sum = 0;
#pragma unroll
    for (int n = 0; n < SS_NUMBERS_V; ++n)
        if (channel_of(n) < FV) sum += arrives[n] * load(from + channel_of(n) * pixels);
    return sum_of_lanes(sum);
}

#endif
