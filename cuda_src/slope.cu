// slopes (B, G, T, h, w, K, 3) = dS/d(dt, dy, dx) of form.cuh: how S changes as the place of each kept candidate moves.
// The derivative by dt is 0. With SS_PATCHES the same for sum(patches * gather(k)): patches (B, G, T, h, w, K, F,
// SS_PATCH, SS_PATCH) replace q and weights. Other arrays: video.cuh.
//
// One thread per kept candidate.
#include "channels.cuh"
#include "form.cuh"

struct Slope {
    SS_ACC by_y, by_x;
};

// Add the channels f ... f + SS_CHANNELS - 1 of one pixel of the patch, at lines y and x. `mine` is channel f of q, or
// of the given patch, and `apart` the distance from channel to channel there.
__device__ inline void add_slope(Slope& sum, const SS_SCALAR* mine, long long apart, const Plane& frame,
                                 const Line& y, const Line& x, int f) {
    const Sample theirs = sample_at(frame, y, x);
    const Values value = SS_PATCHES || !SS_L2 ? no_values() : values_of(frame, theirs, f);
    const Values down = values_of(frame, sample_at(frame, slope_of(y), x), f);
    const Values across = values_of(frame, sample_at(frame, y, slope_of(x)), f);
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) {
        const SS_ACC ours = load(mine + c * apart), factor = SS_PATCHES ? ours : dphi_dk(ours, value.of[c]);
        sum.by_y += factor * down.of[c];
        sum.by_x += factor * across.of[c];
    }
}

extern "C" __global__ void __launch_bounds__(128, SS_RESIDENT)
slope(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* patches, const SS_ACC* weights,
      const SS_OFFSET* offsets, SS_ACC* slopes, const Sizes s, const Strides m,
      int across) {
    Item item;
    if (!item_of(across, &item)) return;
    const Kept kept = kept_at(item.row, item.at, s);
    const Query& r = kept.r;
    const Place place = place_of(offsets + 3 * kept.index, r, s);
    const Plane q_frame = frame_of_q(q, r, kept.n, s, m), k_frame = plane_of_k(k, r.b, r.g, place.frame, s, m);

    const SS_ACC weight = SS_PATCHES ? 1 : weights[kept.index];
    Slope sum = {0, 0};
    bool there = false;
    const long long apart = SS_PATCHES ? SS_PATCH * SS_PATCH : q_frame.channel;
    for (int i = 0; weight != 0 && i < SS_PATCH * SS_PATCH; ++i) {
        const int dy = patch_offset(i / SS_PATCH), dx = patch_offset(i % SS_PATCH);
        const Line y = line_at(place.y, dy, s.kH), x = line_at(place.x, dx, s.kW);
        const SS_SCALAR* mine = SS_PATCHES ? patches + kept.index * s.F * SS_PATCH * SS_PATCH + i
                                           : patch_pixel(q_frame, r, dy, dx);
        if (!mine || !exists(y) || !exists(x)) continue;
        there = true;
#pragma unroll 1
        for (int f = 0; f < s.F; f += SS_CHANNELS)
            add_slope(sum, mine + f * apart, apart, k_frame, y, x, f);
    }
    slopes[3 * kept.index] = 0;
    slopes[3 * kept.index + 1] = there && place.y.sign ? place.y.sign * weight * sum.by_y : 0;
    slopes[3 * kept.index + 2] = there && place.x.sign ? place.x.sign * weight * sum.by_x : 0;
}
