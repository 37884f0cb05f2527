// slopes (B, G, T, h, w, K, 3) = d sum(c * score) / d(dt, dy, dx): how the score of each kept candidate changes as its
// place moves. Frames do not move. With SS_PATCHES the same for sum(patches * gather(k)): patches (B, G, T, h, w, K,
// F, SS_PATCH, SS_PATCH) take the place of c and q. One thread per candidate; other arrays as in score.cu.
#include "place.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
ss_slope(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* patches, const SS_ACC* c, const SS_OFFSET* offsets,
         SS_ACC* slopes, int G, int T, int h, int w, int K, int F, int qT, int qH, int qW, int frames, int H, int W,
         int t0, int y0, int x0, long long count) {
    const long long i = ss_thread();
    if (i >= count) return;
    const Query r = ss_query(i, G, T, h, w, K);
    const int C = G * F;
    const long long t = t0 + r.t, y = (y0 + r.y) * SS_STRIDE, x = (x0 + r.x) * SS_STRIDE;
    const Place n = ss_place(offsets + 3 * i, t, y, x, frames, H, W);
    const SS_SCALAR* q_frame = SS_PATCHES ? 0 : q + (r.b * qT + t) * qH * qW * C + r.g * F;
    const SS_SCALAR* k_frame = k + (r.b * frames + n.frame) * (long long)H * W * C + r.g * F;

    const SS_ACC whole = SS_PATCHES ? 1 : c[i];
    SS_ACC by_y = 0, by_x = 0;
    bool there = false;
    for (int a = 0; whole != 0 && a < SS_PATCH; ++a) {
        for (int b = 0; b < SS_PATCH; ++b) {
            const SS_SCALAR* mine = 0;
            if (!SS_PATCHES) {
                mine = ss_query_pixel(q_frame, SS_SCALE * y + ss_pixel(a), SS_SCALE * x + ss_pixel(b), qH, qW, C);
                if (!mine) continue;
            }
            const Sample down = ss_slope_y(k_frame, n, ss_pixel(a), ss_pixel(b), H, W, C);
            const Sample across = ss_slope_x(k_frame, n, ss_pixel(a), ss_pixel(b), H, W, C);
            const Sample theirs = ss_sample(k_frame, n, ss_pixel(a), ss_pixel(b), H, W, C);
            if (!theirs.exists) continue;
            there = true;
            for (int f = 0; f < F; ++f) {
                SS_ACC factor;
                if (SS_PATCHES) factor = ss_load(patches + ((i * F + f) * SS_PATCH + a) * SS_PATCH + b);
                else if (SS_L2) factor = -2 * (ss_load(mine + f) - ss_value(theirs, f));
                else factor = ss_load(mine + f);
                by_y += factor * ss_value(down, f);
                by_x += factor * ss_value(across, f);
            }
        }
    }
    slopes[3 * i] = 0;
    slopes[3 * i + 1] = there && n.sy ? n.sy * whole * by_y : 0;
    slopes[3 * i + 2] = there && n.sx ? n.sx * whole * by_x : 0;
}
