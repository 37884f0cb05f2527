// out (B, frames, G * F, H, W) = d sum(c * score) / dk. With the product this adds the patches of q at their places.
// With SS_PATCHES patches (B, G, T, h, w, K, F, SS_PATCH, SS_PATCH) are added in place of those of q, times c if
// SS_WEIGHTED. Other arrays as in score.cu.
//
// Adding from many threads to one pixel would need atomics, and sums that differ from run to run. Instead the
// candidates are sorted by the pixel that they lead to (ss_cells gives each its cell: a pixel of a frame, or of the
// margin of SS_REACH around it), and each pixel collects: one thread per number of `out`, in the order of the
// candidates.
#include "place.cuh"

__device__ inline long long ss_cell(long long frame, long long y, long long x, int H, int W) {
    return (frame * (H + 2LL * SS_REACH) + y + SS_REACH) * (W + 2LL * SS_REACH) + x + SS_REACH;
}

// cells (B, G, T, h, w, K): where each candidate lies; what reaches no pixel comes behind all others.
extern "C" __global__ void __launch_bounds__(128, 1)
ss_cells(const SS_OFFSET* offsets, long long* cells, int G, int T, int h, int w, int K, int frames, int H, int W,
         int t0, int y0, int x0, long long nowhere, long long count) {
    const long long i = ss_thread();
    if (i >= count) return;
    const Query r = ss_query(i, G, T, h, w, K);
    const Place n = ss_place(offsets + 3 * i, t0 + r.t, (y0 + r.y) * SS_STRIDE, (x0 + r.x) * SS_STRIDE, frames, H, W);
    const bool near = n.y >= -SS_REACH && n.y < H + SS_REACH && n.x >= -SS_REACH && n.x < W + SS_REACH;
    cells[i] = near ? ss_cell((r.b * G + r.g) * frames + n.frame, n.y, n.x, H, W) : nowhere;
}

// order: the candidates sorted by their cells. first: where in `order` each cell begins, and where the last one ends.
extern "C" __global__ void __launch_bounds__(128, 1)
ss_scatter(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* patches, const SS_ACC* c, const SS_OFFSET* offsets,
        const long long* order, const long long* first, SS_SCALAR* out, int G, int T, int h, int w, int K, int F,
        int qT, int qH, int qW, int frames, int H, int W, int t0, int y0, int x0, long long count) {
    long long i = ss_thread();
    if (i >= count) return;
    const int C = G * F, channel = (int)(i % C), g = channel / F;
    i /= C;
    const int x = (int)(i % W), y = (int)(i / W % H), t = (int)(i / W / H % frames);
    const long long batch = i / W / H / frames;

    SS_ACC sum = 0;
    const int corners = SS_WHOLE ? 1 : 4, margin = SS_ZEROS ? SS_REACH : 0;  // mirrored places lie in the frame
    // pixel (a, b), corner of its sample, straight or mirrored
    for (int m = 0; m < SS_PATCH * SS_PATCH * corners * 4; ++m) {
        const int corner = m / 4 % corners, a = m / 4 / corners / SS_PATCH, b = m / 4 / corners % SS_PATCH;
        const long long dy = ss_pixel(a) + corner / 2, dx = ss_pixel(b) + corner % 2;
        long long v, u;
        if (!ss_image(y, H, SS_ZEROS, m % 2, dy - margin, H - 1 + margin + dy, &v)) continue;
        if (!ss_image(x, W, SS_ZEROS, m / 2 % 2, dx - margin, W - 1 + margin + dx, &u)) continue;
        const long long cell = ss_cell((batch * G + g) * frames + t, v - dy, u - dx, H, W);
        for (long long at = first[cell]; at < first[cell + 1]; ++at) {
            const long long candidate = order[at];
            if (SS_WEIGHTED && c[candidate] == 0) continue;
            const Query r = ss_query(candidate, G, T, h, w, K);
            const long long row = (y0 + r.y) * SS_STRIDE, column = (x0 + r.x) * SS_STRIDE;
            const Place n = ss_place(offsets + 3 * candidate, t0 + r.t, row, column, frames, H, W);
            const SS_ACC weight = (SS_ACC)((corner / 2 ? n.fy : 1 - n.fy) * (corner % 2 ? n.fx : 1 - n.fx));
            if (weight == 0) continue;
            SS_ACC value;
            if (SS_PATCHES) {
                value = ss_load(patches + ((candidate * F + channel % F) * SS_PATCH + a) * SS_PATCH + b);
                if (SS_WEIGHTED) value *= c[candidate];
            } else {
                const SS_SCALAR* frame = q + (batch * qT + t0 + r.t) * qH * qW * C;
                const long long up = SS_SCALE * row + ss_pixel(a), left = SS_SCALE * column + ss_pixel(b);
                const SS_SCALAR* mine = ss_query_pixel(frame, up, left, qH, qW, C);
                if (!mine) continue;
                value = ss_load(mine + channel);
                if (SS_L2) {
                    const SS_SCALAR* there = k + (batch * frames + t) * (long long)H * W * C;
                    value = -2 * (value - ss_value(ss_sample(there, n, ss_pixel(a), ss_pixel(b), H, W, C), channel));
                }
                value *= c[candidate];
            }
            sum += weight * value;
        }
    }
    ss_store(out + (((batch * frames + t) * C + channel) * H + y) * W + x, sum);
}
