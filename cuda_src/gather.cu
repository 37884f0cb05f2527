// patches (B, G, T, h, w, K, F, SS_PATCH, SS_PATCH) = k(n + u), the patches at the places n of the kept candidates.
// Other arrays: video.cuh.
//
// One thread per number of a patch.
#include "place.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
gather(const SS_SCALAR* k, const SS_OFFSET* offsets, SS_SCALAR* patches, const Sizes s, long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const int b = (int)(i % SS_PATCH), a = (int)(i / SS_PATCH % SS_PATCH), f = (int)(i / (SS_PATCH * SS_PATCH) % s.F);
    const long long candidate = i / (SS_PATCH * SS_PATCH) / s.F;
    const Query r = query_of(candidate / s.K, s);
    const Place place = place_of(offsets + 3 * candidate, r, s);
    const Frame frame = frame_of_k(k, r.b, r.g, place.frame, s);
    store(patches + i, value_of(sample(frame, place, patch_offset(a), patch_offset(b)), f));
}
