// out (B, qT, G * F, qH, qW) = d sum(c * score) / dq. With the product this is the weighted sum of patches of k, which
// is what aggregating means. c (B, G, T, h, w, K), other arrays as in score.cu.
//
// One thread per number of `out`, channels first in order, so that neighbouring threads read one run of memory. It asks
// which queries have this pixel in their patch, in a fixed order: nothing is added up by two threads, and the sum is
// the same in every run.
#include "place.cuh"

extern "C" __global__ void __launch_bounds__(128, 1)
ss_aggregate(const SS_SCALAR* q, const SS_SCALAR* k, const SS_ACC* c, const SS_OFFSET* offsets, SS_SCALAR* out, int G,
        int T, int h, int w, int K, int F, int qT, int qH, int qW, int frames, int H, int W, int t0, int y0, int x0,
        long long count) {
    long long i = ss_thread();
    if (i >= count) return;
    const int C = G * F, channel = (int)(i % C), g = channel / F, apart = SS_STRIDE * SS_SCALE;
    i /= C;
    const int x = (int)(i % qW), y = (int)(i / qW % qH), t = (int)(i / qW / qH % qT);
    const long long batch = i / qW / qH / qT;
    const SS_ACC mine = SS_L2 ? (SS_ACC)ss_load(q + i * C + channel) : (SS_ACC)0;

    SS_ACC sum = 0;
    const bool asked = t >= t0 && t < t0 + T;
    for (int m = 0; asked && m < SS_PATCH * SS_PATCH * 4; ++m) {  // pixel (a, b) of the patch, straight or mirrored
        const int a = m / 4 / SS_PATCH, b = m / 4 % SS_PATCH;
        long long v, u;  // where the patch has this pixel, perhaps outside of the frame
        const long long dy = ss_pixel(a), dx = ss_pixel(b), top = (long long)y0 * apart, left = (long long)x0 * apart;
        if (!ss_image(y, qH, SS_QUERY_ZEROS, m % 2, top + dy, top + (h - 1LL) * apart + dy, &v)) continue;
        if (!ss_image(x, qW, SS_QUERY_ZEROS, m / 2 % 2, left + dx, left + (w - 1LL) * apart + dx, &u)) continue;
        if ((v - dy) % apart || (u - dx) % apart) continue;
        const long long row = (v - dy) / apart, column = (u - dx) / apart;
        const long long first = ((((batch * G + g) * T + t - t0) * h + row - y0) * w + column - x0) * K;
        for (int n = 0; n < K; ++n) {
            if (c[first + n] == 0) continue;
            const SS_OFFSET* offset = offsets + 3 * (first + n);
            const Place place = ss_place(offset, t, row * SS_STRIDE, column * SS_STRIDE, frames, H, W);
            const SS_SCALAR* frame = k + (batch * frames + place.frame) * (long long)H * W * C;
            const Sample theirs = ss_sample(frame, place, dy, dx, H, W, C);
            if (!theirs.exists) continue;
            const SS_ACC value = ss_value(theirs, channel);
            sum += c[first + n] * (SS_L2 ? 2 * (mine - value) : value);
        }
    }
    ss_store(out + (((batch * qT + t) * C + channel) * qH + y) * qW + x, sum);
}
