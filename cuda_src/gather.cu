// patches (B, G, T, h, w, K, F, SS_PATCH, SS_PATCH) = k(n + u), the patches at the kept places.
// One thread per number; arrays as in score.cu.
#include "place.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
ss_gather(const SS_SCALAR* k, const SS_OFFSET* offsets, SS_SCALAR* patches, int G, int T, int h, int w, int K, int F,
          int frames, int H, int W, int t0, int y0, int x0, long long count) {
    const long long i = ss_thread();
    if (i >= count) return;
    const int b = (int)(i % SS_PATCH), a = (int)(i / SS_PATCH % SS_PATCH), f = (int)(i / (SS_PATCH * SS_PATCH) % F);
    const long long candidate = i / (SS_PATCH * SS_PATCH) / F;
    const Query r = ss_query(candidate, G, T, h, w, K);
    const long long y = (y0 + r.y) * SS_STRIDE, x = (x0 + r.x) * SS_STRIDE;
    const Place n = ss_place(offsets + 3 * candidate, t0 + r.t, y, x, frames, H, W);
    const SS_SCALAR* frame = k + (r.b * frames + n.frame) * (long long)H * W * G * F + r.g * F;
    ss_store(patches + i, ss_value(ss_sample(frame, n, ss_pixel(a), ss_pixel(b), H, W, G * F), f));
}
