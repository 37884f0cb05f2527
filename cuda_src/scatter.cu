// out (B, kT, G * F, kH, kW) = dS/dk of form.cuh. With the product this adds the patches of q at their places, and k
// is not read. `fold` is scatter of patches: with SS_PATCHES the numbers of patches (B, G, T, h, w, K, F, SS_PATCH,
// SS_PATCH), times weights if SS_WEIGHTED, are added in place of the derivatives, and with SS_COVERS `coverage` (B,
// kT, G, kH, kW) is how much weight arrives at each pixel of a head: at whole places fold.cu is faster. Other arrays:
// video.cuh.
//
// Adding from many threads to one pixel would need atomics, and give sums that differ from run to run. Instead the
// kept candidates are sorted by the cell that they land at (landing.cu), and each pixel collects: one thread per pixel
// of `out` and part of its channels adds what arrives at it, in the order of the candidates.
#include "channels.cuh"
#include "form.cuh"
#include "landing.cuh"

// The part of a sample that one corner has.
__device__ inline SS_ACC part_of(const Place& place, int corner) {
    return (corner / 2 ? place.y.next : place.y.share) * (corner % 2 ? place.x.next : place.x.share);
}

__device__ inline bool has_part(const Place& place, int corner) {
    return (corner / 2 ? place.y.next : place.y.share) != 0 && (corner % 2 ? place.x.next : place.x.share) != 0;
}

// What candidate n of query r adds at pixel (dy, dx) of its patch: weight * dphi/dk. `there`: k at a whole place.
__device__ inline void add_of_form(Values& sum, SS_ACC part, const SS_SCALAR* q, const Plane& k_frame,
                                   const Values& there, SS_ACC weight, const Query& r, int n, const Place& place,
                                   int dy, int dx, int f, const Sizes& s, const Strides& m) {
    const Plane q_frame = frame_of_q(q, r, n, s, m);
    const SS_SCALAR* pixel = patch_pixel(q_frame, r, dy, dx);
    if (!pixel) return;
    const Values mine = values_at(q_frame, pixel, f);
    const Values theirs = SS_L2 && !SS_WHOLE ? values_of(k_frame, sample(k_frame, place, dy, dx), f) : there;
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) sum.of[c] += part * (dphi_dk(mine.of[c], theirs.of[c]) * weight);
}

// The same of a patch that is given, from its number (a, b) of a channel on.
__device__ inline void add_of_patch(Values& sum, SS_ACC part, const SS_SCALAR* number, SS_ACC weight) {
#pragma unroll
    for (int c = 0; c < SS_CHANNELS; ++c) {
        const SS_ACC value = load(number + c * SS_PATCH * SS_PATCH);
        sum.of[c] += part * (SS_WEIGHTED ? value * weight : value);
    }
}

extern "C" __global__ void __launch_bounds__(128, SS_RESIDENT)
scatter(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* patches, const SS_ACC* weights,
        const SS_OFFSET* offsets, const int* order, const int* ends, const int* counts,
        SS_SCALAR* out, SS_ACC* coverage, const int* finite, const Sizes s, const Strides m) {
    Part p;
    if (!part_of_video(s, s.kT, s.kH, s.kW, &p)) return;
    SS_SCALAR* numbers = numbers_of(out, p, s, s.kT, s.kH, s.kW);
    const long long plane = (long long)s.kH * s.kW;
    if (SS_REPAIR && is_finite(finite, p, s, s.kT, s.kH, s.kW)) return;
    const int corners = SS_WHOLE ? 1 : 4, margin = SS_ZEROS ? SS_REACH : 0;  // mirrored places lie in the frame
    const int kinds_y = kinds_of_images(p.y, s.kH, SS_ZEROS, SS_REACH);
    const int kinds_x = kinds_of_images(p.x, s.kW, SS_ZEROS, SS_REACH);
    const int shift = kinds_y + kinds_x - 2;  // there are one or two of each
    const bool inside = !SS_ZEROS && shift == 0 && s.kH > 1 && s.kW > 1;  // it is the only pixel that is shown there
    const Plane k_frame = plane_of_k(k, p.video, p.g, p.t, s, m);
    const bool reads_k = SS_L2 && !SS_PATCHES;
    const Values there = reads_k && SS_WHOLE ? values_at(k_frame, k_frame.at(p.y, p.x), p.f) : no_values();
    const long long frame = ((long long)p.video * s.G + p.g) * s.kT + p.t;
    Values sum = no_values();
    SS_ACC covered = 0;
    // each pixel of a patch, each corner of its sample, straight or mirrored
    for (int i = 0; i < SS_PATCH * SS_PATCH * corners << shift; ++i) {
        const int n = i >> shift, mirrored_y = i & (kinds_y - 1), mirrored_x = i >> (kinds_y - 1) & (kinds_x - 1);
        const int corner = n % corners, a = n / corners / SS_PATCH, b = n / corners % SS_PATCH;
        const int dy = patch_offset(a) + corner / 2, dx = patch_offset(b) + corner % 2;
        int v = p.y, u = p.x;
        if (!inside) {
            if (!image(p.y, s.kH, SS_ZEROS, mirrored_y, dy - margin, s.kH - 1 + margin + dy, &v)) continue;
            if (!image(p.x, s.kW, SS_ZEROS, mirrored_x, dx - margin, s.kW - 1 + margin + dx, &u)) continue;
        }
        const long long cell = cell_at(frame, v - dy, u - dx, s);
        for (int at = begin_of(ends, counts, cell); at < ends[cell]; ++at) {
            const int c = order[at];
            const Query r = query_of_head(c / s.K, p.video, p.g, s);
            const Place place = place_of(offsets + 3LL * c, r, s);
            if (!has_part(place, corner)) continue;
            const SS_ACC part = part_of(place, corner), weight = SS_WEIGHTED ? weights[c] : (SS_ACC)1;
            covered += part * weight;
            if (SS_PATCHES)
                add_of_patch(sum, part, patches + (((long long)c * s.F + p.f) * SS_PATCH + a) * SS_PATCH + b, weight);
            else
                add_of_form(sum, part, q, k_frame, there, weight, r, c % s.K, place, patch_offset(a), patch_offset(b),
                            p.f, s, m);
        }
    }
    store_values(numbers, sum, plane);
    if (SS_COVERS && p.f == 0) {
        const long long of_head = ((long long)p.video * s.kT + p.t) * s.G + p.g;
        coverage[(of_head * s.kH + p.y) * s.kW + p.x] = covered;
    }
}
