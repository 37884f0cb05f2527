// slopes (B, G, T, h, w, K, 3) = dS/d(dt, dy, dx) of form.cuh: how S changes as the place of each kept candidate moves.
// Frames do not move. With SS_PATCHES the same for sum(patches * gather(k)): patches (B, G, T, h, w, K, F, SS_PATCH,
// SS_PATCH) take the place of q and weights. Other arrays: video.cuh.
//
// One thread per kept candidate.
#include "form.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
slope(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* patches, const SS_ACC* weights,
      const SS_OFFSET* offsets, SS_ACC* slopes, const Sizes s, long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Query r = query_of(i / s.K, s);
    const Place place = place_of(offsets + 3 * i, r, s);
    const Frame q_frame = frame_of_q(q, r, (int)(i % s.K), s), k_frame = frame_of_k(k, r.b, r.g, place.frame, s);

    const SS_ACC weight = SS_PATCHES ? 1 : weights[i];
    SS_ACC by_y = 0, by_x = 0;
    bool there = false;
    for (int m = 0; weight != 0 && m < SS_PATCH * SS_PATCH; ++m) {
        const long long dy = patch_offset(m / SS_PATCH), dx = patch_offset(m % SS_PATCH);
        const SS_SCALAR* mine = SS_PATCHES ? 0 : patch_pixel(q_frame, r, dy, dx);
        const Sample theirs = sample(k_frame, place, dy, dx);
        if ((!SS_PATCHES && !mine) || !theirs.exists) continue;
        const Sample down = slope_y(k_frame, place, dy, dx), across = slope_x(k_frame, place, dy, dx);
        there = true;
        for (int f = 0; f < s.F; ++f) {
            const SS_ACC factor = SS_PATCHES ? (SS_ACC)load(patches + (i * s.F + f) * SS_PATCH * SS_PATCH + m)
                                             : dphi_dk(load(mine + f), value_of(theirs, f));
            by_y += factor * value_of(down, f);
            by_x += factor * value_of(across, f);
        }
    }
    slopes[3 * i] = 0;
    slopes[3 * i + 1] = there && place.sy ? place.sy * weight * by_y : 0;
    slopes[3 * i + 2] = there && place.sx ? place.sx * weight * by_x : 0;
}
