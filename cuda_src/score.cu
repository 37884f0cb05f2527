// scores (B, G, T, h, w, K) = dS/dweights of form.cuh = sum over patch pixels u and channels of phi(q(r + u),
// k(n + u)), where n = r + offset is the place of a kept candidate of query r. Other arrays: video.cuh.
//
// One thread per score.
#include "channels.cuh"
#include "form.cuh"

extern "C" __global__ void __launch_bounds__(128, SS_RESIDENT)
score(const SS_SCALAR* q, const SS_SCALAR* k, const SS_OFFSET* offsets, SS_ACC* scores, const Sizes s,
      const Strides m, int across) {
    Item item;
    if (!item_of(across, &item)) return;
    const Kept kept = kept_at(item.row, item.at, s);
    const Query& r = kept.r;
    const Place place = place_of(offsets + 3 * kept.index, r, s);
    const Plane q_frame = frame_of_q(q, r, kept.n, s, m), k_frame = plane_of_k(k, r.b, r.g, place.frame, s, m);

    SS_ACC sum = 0;
    for (int a = 0; a < SS_PATCH; ++a) {
        const Line y = line_at(place.y, patch_offset(a), s.kH);
        for (int b = 0; b < SS_PATCH; ++b) {
            const SS_SCALAR* mine = patch_pixel(q_frame, r, patch_offset(a), patch_offset(b));
            const Sample theirs = sample_at(k_frame, y, line_at(place.x, patch_offset(b), s.kW));
            if (!mine || !theirs.exists) continue;
#pragma unroll 1
            for (int f = 0; f < s.F; f += SS_CHANNELS) {
                const Values ours = values_at(q_frame, mine, f), values = values_of(k_frame, theirs, f);
#pragma unroll
                for (int c = 0; c < SS_CHANNELS; ++c) sum += phi(ours.of[c], values.of[c]);
            }
        }
    }
    scores[kept.index] = sum;
}
