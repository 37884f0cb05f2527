// out (B, kT, G * F, kH, kW) = dS/dk of form.cuh. With the product this adds the patches of q at their places, and k is
// not read. `fold` is scatter of patches: with SS_PATCHES the numbers of patches (B, G, T, h, w, K, F, SS_PATCH,
// SS_PATCH), times weights if SS_WEIGHTED, are added in place of the derivatives. Other arrays: video.cuh.
//
// Adding from many threads to one pixel would need atomics, and give sums that differ from run to run. Instead the
// kept candidates are sorted by the pixel that their place begins at (`landing` finds it), and each pixel collects:
// one thread per number of `out` adds what arrives at it, in the order of the candidates.
#include "form.cuh"

// Number of pixel (y, x) of a frame with SS_REACH more pixels at each side, from where patches reach into the video.
__device__ inline long long padded_pixel(long long frame, long long y, long long x, const Sizes& s) {
    return (frame * (s.kH + 2LL * SS_REACH) + y + SS_REACH) * (s.kW + 2LL * SS_REACH) + x + SS_REACH;
}

__device__ inline bool near(long long y, int n) { return y >= -SS_REACH && y < n + SS_REACH; }

// pixels (B, G, T, h, w, K): where each candidate lands. What is too far away to reach the video lands behind it all.
extern "C" __global__ void __launch_bounds__(128, 1)
landing(const SS_OFFSET* offsets, long long* pixels, long long behind, const Sizes s, long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Query r = query_of(i / s.K, s);
    const Place place = place_of(offsets + 3 * i, r, s);
    const bool there = near(place.y, s.kH) && near(place.x, s.kW);
    pixels[i] = there ? padded_pixel(((long long)r.b * s.G + r.g) * s.kT + place.frame, place.y, place.x, s) : behind;
}

// The part of a sample that one corner has.
__device__ inline SS_ACC part_of(const Place& place, int corner) {
    return (SS_ACC)((corner / 2 ? place.fy : 1 - place.fy) * (corner % 2 ? place.fx : 1 - place.fx));
}

// What candidate c of query r adds at pixel (a, b) of its patch: weights * dphi/dk.
__device__ inline SS_ACC of_form(const SS_SCALAR* q, const Frame& k_frame, const SS_ACC* weights, long long c,
                                 const Query& r, const Place& place, int a, int b, int f, const Sizes& s) {
    const long long dy = patch_offset(a), dx = patch_offset(b);
    const SS_SCALAR* mine = patch_pixel(frame_of_q(q, r, (int)(c % s.K), s), r, dy, dx);
    if (!mine) return 0;
    const SS_ACC theirs = SS_L2 ? value_of(sample(k_frame, place, dy, dx), f) : (SS_ACC)0;
    return dphi_dk(load(mine + f), theirs) * weights[c];
}

// The same of a patch that is given: its number (a, b) of channel f.
__device__ inline SS_ACC of_patch(const SS_SCALAR* patches, const SS_ACC* weights, long long c, int a, int b, int f,
                                  const Sizes& s) {
    const SS_ACC value = load(patches + ((c * s.F + f) * SS_PATCH + a) * SS_PATCH + b);
    return SS_WEIGHTED ? value * weights[c] : value;
}

// order: the candidates sorted by where they land. begins: where in `order` those of each padded pixel begin.
extern "C" __global__ void __launch_bounds__(128, 1)
scatter(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* patches, const SS_ACC* weights,
        const SS_OFFSET* offsets, const long long* order, const long long* begins, SS_SCALAR* out, const Sizes s,
        long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Number p = number_of(i, s, s.kT, s.kH, s.kW);
    const int corners = SS_WHOLE ? 1 : 4, margin = SS_ZEROS ? SS_REACH : 0;  // mirrored places lie in the frame
    const Frame k_frame = frame_of_k(k, p.video, p.g, p.t, s);
    SS_ACC sum = 0;
    // each pixel of a patch, each corner of its sample, straight or mirrored
    for (int m = 0; m < SS_PATCH * SS_PATCH * corners * 4; ++m) {
        const int corner = m / 4 % corners, a = m / 4 / corners / SS_PATCH, b = m / 4 / corners % SS_PATCH;
        const long long dy = patch_offset(a) + corner / 2, dx = patch_offset(b) + corner % 2;
        long long v, u;
        if (!image(p.y, s.kH, SS_ZEROS, m % 2, dy - margin, s.kH - 1 + margin + dy, &v)) continue;
        if (!image(p.x, s.kW, SS_ZEROS, m / 2 % 2, dx - margin, s.kW - 1 + margin + dx, &u)) continue;
        const long long pixel = padded_pixel(((long long)p.video * s.G + p.g) * s.kT + p.t, v - dy, u - dx, s);
        for (long long at = begins[pixel]; at < begins[pixel + 1]; ++at) {
            const long long c = order[at];
            if (SS_WEIGHTED && weights[c] == 0) continue;
            Query r = query_of(c / s.K, s);
            r.b = p.video, r.g = p.g;  // as of all that lands here: known without dividing
            const Place place = place_of(offsets + 3 * c, r, s);
            const SS_ACC part = part_of(place, corner);
            if (part == 0) continue;
            sum += part * (SS_PATCHES ? of_patch(patches, weights, c, a, b, p.f, s)
                                      : of_form(q, k_frame, weights, c, r, place, a, b, p.f, s));
        }
    }
    store(out + channels_first(p, s, s.kT, s.kH, s.kW), sum);
}
