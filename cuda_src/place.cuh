// Places in a video, and how the pixels of the patches around them are read.
//
// Constants: SS_OFFSET type of offsets, SS_WHOLE (1: they are integers), SS_ZEROS (1: the frame is empty outside; 0: it
// is mirrored), SS_QUERY_ZEROS (the same for the frames of queries), SS_PATCH, SS_DILATION, SS_STRIDE, SS_SCALE (pixels
// of q for one of k), SS_STACKED of video.cuh.
#ifndef SS_PLACE_CUH
#define SS_PLACE_CUH

#include "clip.cuh"
#include "grid.cuh"
#include "video.cuh"

// A position along an axis: a pixel, the weights of it and of the next pixel, and the sign of its mirror image. Each
// weight has full precision, even if the other one is nearly 1.
struct Along {
    int at;
    SS_ACC share, next;
    int sign;
};

// A place in a frame of k.
struct Place {
    int frame;
    Along y, x;
};

// --- from positions to places ----------------------------------------------------------------------
// Position x of an axis of n pixels, which may lie outside the frame.
__device__ inline Along along(double x, int n, int sign) {
    if (SS_ZEROS) x = fmin(fmax(x, -(double)SS_FAR), 2.0 * SS_FAR);  // outside of every frame
    else if (n == 1 && fabs(x) >= SS_FAR) x = 0;
    else if (fabs(x) >= SS_FAR) x = within_period(x, 2.0 * (n - 1));
    const double before = floor(x), past = x - before;
    return {(int)before, (SS_ACC)(1 - past), (SS_ACC)past, sign};
}

// The same, mirrored into the frame unless its border is empty.
__device__ inline Along along_in(double x, int n) {
    int sign = 1;
    if (!SS_ZEROS) x = mirror(x, n, &sign);
    return along(x, n, sign);
}

// The same for the position x + past, where |past| is at most half a pixel.
__device__ inline Along along_in(int x, SS_ACC past, int n) {
    int sign = SS_ZEROS || n > 1;
    const int last = n - 1;
    const bool outside = x < 0 || x > last || (x == 0 && past < 0) || (x == last && past > 0);
    if (!SS_ZEROS && outside) {
        if (n == 1) return {0, 1, 0, 0};
        x = within_period(x, 2 * last);
        if (x > last || (x == 0 && past < 0) || (x == last && past > 0)) {
            x = x == 0 ? 0 : 2 * last - x, past = -past, sign = -1;
        }
    }
    if (past < 0) return {x - 1, -past, 1 + past, sign};
    return {x, 1 - past, past, sign};
}

// The position that an offset leads to from pixel `at` of an axis of n pixels: the sum of both, rounded as in double.
// Integers are added without doubles, and so are floats, unless they are so small that the sum would lose digits.
template <class Whole> __device__ inline Along moved(int at, Whole d, int n) {
    if (d > -SS_FAR && d < SS_FAR) return along_in(at + (int)d, (SS_ACC)0, n);
    return along_in(__dadd_rn((double)at, (double)d), n);
}

__device__ inline Along moved(int at, double d, int n) {
    return along_in(__dadd_rn((double)at, finite_or_zero(d)), n);
}

__device__ inline Along moved(int at, float d, int n) {
    const float size = fabsf(d), whole = rintf(d);
    if (size < (float)SS_FAR && (size >= 0x1p-14f || d == 0)) return along_in(at + (int)whole, (SS_ACC)(d - whole), n);
    return moved(at, (double)d, n);
}

// Offsets of frames are rounded, half to even.
template <class Whole> __device__ inline int rounded(Whole dt) { return (int)dt; }
__device__ inline int rounded(float dt) { return __float2int_rn(dt); }
__device__ inline int rounded(double dt) { return __double2int_rn(dt); }

// The frame that dt leads to from frame t.
template <class Offset> __device__ inline int frame_after(int t, Offset dt, const Sizes& s) {
    if (dt > -SS_FAR && dt < SS_FAR) return reflect(t + rounded(dt), s.kT);
    int sign;
    return (int)mirror(__dadd_rn((double)t, rint(finite_or_zero((double)dt))), s.kT, &sign);
}

// Position (y, x), mirrored into the frame unless its border is empty.
__device__ inline Place place_in(int frame, double y, double x, const Sizes& s) {
    return {frame, along_in(y, s.kH), along_in(x, s.kW)};
}

// The place that an offset leads to from a query. Components that are not finite count as 0.
__device__ inline Place place_of(const SS_OFFSET* offset, const Query& r, const Sizes& s) {
    return {frame_after(r.t, offset[0], s), moved(r.y, offset[1], s.kH), moved(r.x, offset[2], s.kW)};
}

// How far pixel i of a patch lies from its centre.
__device__ inline int patch_offset(int i) { return SS_DILATION * (i - SS_PATCH / 2); }

// --- samples ---------------------------------------------------------------------------------------
// One axis of a bilinear sample: two pixels, -1 where there is none, and their weights.
struct Line {
    int at[2];
    SS_ACC weight[2];
};

__device__ inline int pixel_or_none(int x, int n) {
    if (SS_ZEROS) return x >= 0 && x < n ? x : -1;
    return reflect(x, n);
}

// The pixels at distance d from a position. With integer offsets the second one has no weight and is not read.
__device__ inline Line line_at(const Along& p, int d, int n) {
    const int x = p.at + d;
    return {{pixel_or_none(x, n), SS_WHOLE ? -1 : pixel_or_none(x + 1, n)}, {p.share, p.next}};
}

// Whether a pixel of the line has a weight: otherwise the sample does not exist.
__device__ inline bool exists(const Line& line) {
    if (SS_WHOLE) return line.at[0] >= 0;
    return !SS_ZEROS || (line.at[0] >= 0 && line.weight[0] != 0) || (line.at[1] >= 0 && line.weight[1] != 0);
}

// The derivative, at whole positions towards the next pixel.
__device__ inline Line slope_of(const Line& line) { return {{line.at[0], line.at[1]}, {-1, 1}}; }

// One bilinear sample: up to four pixels of a frame and their weights. `at` is 0 for corners without a weight or a
// pixel.
struct Sample {
    const SS_SCALAR* at[4];
    SS_ACC weight[4];
    bool exists;
};

__device__ inline Sample sample_at(const Plane& frame, const Line& y, const Line& x) {
    Sample s;
    s.exists = exists(y) && exists(x);
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        const int i = corner / 2, j = corner % 2;
        const bool there = y.at[i] >= 0 && x.at[j] >= 0 && y.weight[i] != 0 && x.weight[j] != 0;
        s.at[corner] = there ? frame.at(y.at[i], x.at[j]) : 0;
        s.weight[corner] = y.weight[i] * x.weight[j];
    }
    return s;
}

// The sample at (dy, dx) from a place of a frame.
__device__ inline Sample sample(const Plane& frame, const Place& p, int dy, int dx) {
    return sample_at(frame, line_at(p.y, dy, frame.H), line_at(p.x, dx, frame.W));
}

// --- queries ---------------------------------------------------------------------------------------
// Row y (or column) of a query's frame, -1 outside of a border of zeros.
__device__ inline int query_line(int y, int n) {
    if (SS_QUERY_ZEROS) return y >= 0 && y < n ? y : -1;
    return reflect(y, n);
}

// The frame of a query, in the video that its kept candidate n belongs to.
__device__ inline Plane frame_of_q(const SS_SCALAR* q, const Query& r, int n, const Sizes& s, const Strides& m) {
    return plane_of_q(q, SS_STACKED ? r.b * s.K + n : r.b, r.g, r.t, s, m);
}

// Pixel (dy, dx) of the patch of a query, or 0 if it does not exist. q has SS_SCALE pixels for one of k.
__device__ inline const SS_SCALAR* patch_pixel(const Plane& frame, const Query& r, int dy, int dx) {
    const int y = query_line(SS_SCALE * r.y + dy, frame.H), x = query_line(SS_SCALE * r.x + dx, frame.W);
    return y >= 0 && x >= 0 ? frame.at(y, x) : 0;
}

#endif
