// scores (B, G, T, h, w, K) = sum over patch pixels u and channels of phi(q(r + u), k(n + u)), phi = the product or,
// with SS_L2, the squared difference. q (B, qT, qH, qW, G * F), k (B, frames, H, W, G * F), offsets (B, G, T, h, w, K,
// 3). One thread per score. (t0, y0, x0) is the first query of the part of the grid that is asked.
#include "place.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
ss_score(const SS_SCALAR* q, const SS_SCALAR* k, const SS_OFFSET* offsets, SS_ACC* scores, int G, int T, int h, int w,
         int K, int F, int qT, int qH, int qW, int frames, int H, int W, int t0, int y0, int x0, long long count) {
    const long long i = ss_thread();
    if (i >= count) return;
    const Query r = ss_query(i, G, T, h, w, K);
    const int C = G * F;
    const long long t = t0 + r.t, y = (y0 + r.y) * SS_STRIDE, x = (x0 + r.x) * SS_STRIDE;
    const Place n = ss_place(offsets + 3 * i, t, y, x, frames, H, W);
    const SS_SCALAR* q_frame = q + (r.b * qT + t) * qH * qW * C + r.g * F;
    const SS_SCALAR* k_frame = k + (r.b * frames + n.frame) * (long long)H * W * C + r.g * F;

    SS_ACC sum = 0;
    for (int a = 0; a < SS_PATCH; ++a) {
        for (int b = 0; b < SS_PATCH; ++b) {
            const long long v = SS_SCALE * y + ss_pixel(a), u = SS_SCALE * x + ss_pixel(b);
            const SS_SCALAR* mine = ss_query_pixel(q_frame, v, u, qH, qW, C);
            const Sample theirs = ss_sample(k_frame, n, ss_pixel(a), ss_pixel(b), H, W, C);
            if (!mine || !theirs.exists) continue;
            for (int c = 0; c < F; ++c) {
                const SS_ACC one = ss_load(mine + c), other = ss_value(theirs, c);
                sum += SS_L2 ? (one - other) * (one - other) : one * other;
            }
        }
    }
    scores[i] = sum;
}
