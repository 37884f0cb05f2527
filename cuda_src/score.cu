// scores (B, G, T, h, w, K) = dS/dweights of form.cuh = sum over patch pixels u and channels of phi(q(r + u),
// k(n + u)), where n = r + offset is the place of a kept candidate of query r. Other arrays: video.cuh.
//
// One thread per score.
#include "form.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
score(const SS_SCALAR* q, const SS_SCALAR* k, const SS_OFFSET* offsets, SS_ACC* scores, const Sizes s,
      long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Query r = query_of(i / s.K, s);
    const Place place = place_of(offsets + 3 * i, r, s);
    const Frame q_frame = frame_of_q(q, r, (int)(i % s.K), s), k_frame = frame_of_k(k, r.b, r.g, place.frame, s);

    SS_ACC sum = 0;
    for (int a = 0; a < SS_PATCH; ++a) {
        for (int b = 0; b < SS_PATCH; ++b) {
            const SS_SCALAR* mine = patch_pixel(q_frame, r, patch_offset(a), patch_offset(b));
            const Sample theirs = sample(k_frame, place, patch_offset(a), patch_offset(b));
            if (!mine || !theirs.exists) continue;
            for (int f = 0; f < s.F; ++f) sum += phi(load(mine + f), value_of(theirs, f));
        }
    }
    scores[i] = sum;
}
