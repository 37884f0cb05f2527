// patches (B, G, T, h, w, K, F, SS_PATCH, SS_PATCH) = k(n + u), the patches at the places n of the kept candidates.
// Other arrays: video.cuh.
//
// One thread per column of a patch, which copies all its rows and channels: of these, only the row has to be found.
#include "channels.cuh"

extern "C" __global__ void __launch_bounds__(128, SS_RESIDENT)
gather(const SS_SCALAR* k, const SS_OFFSET* offsets, SS_SCALAR* patches, const Sizes s, const Strides m,
       int across) {
    Item item;
    if (!item_of(across, &item)) return;
    const int size = SS_PATCH * SS_PATCH, column = item.at % SS_PATCH;
    const Kept kept = kept_at(item.row, item.at / SS_PATCH, s);
    const Place place = place_of(offsets + 3 * kept.index, kept.r, s);
    const Plane frame = plane_of_k(k, kept.r.b, kept.r.g, place.frame, s, m);
    const Line x = line_at(place.x, patch_offset(column), frame.W);
    SS_SCALAR* to = patches + kept.index * s.F * size + column;
#pragma unroll 1
    for (int row = 0; row < SS_PATCH; ++row, to += SS_PATCH) {
        const Sample theirs = sample_at(frame, line_at(place.y, patch_offset(row), frame.H), x);
#pragma unroll 1
        for (int f = 0; f < s.F; f += SS_CHANNELS) {
            const Values values = theirs.exists ? values_of(frame, theirs, f) : no_values();
#pragma unroll
            for (int c = 0; c < SS_CHANNELS; ++c) store(to + (long long)(f + c) * size, values.of[c]);
        }
    }
}
