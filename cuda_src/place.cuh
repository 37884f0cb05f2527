// Places in a video, and the patches around them. Videos are channels last: (B, frames, H, W, C).
//
// Constants: SS_OFFSET type of offsets, SS_WHOLE (1: they are whole numbers), SS_ZEROS (1: nothing lies outside of
// the frame; 0: it is mirrored), SS_QUERY_ZEROS (the same for the frames of queries), SS_PATCH, SS_DILATION, SS_STRIDE,
// SS_SCALE (pixels of q for one of k).
#ifndef SS_PLACE_CUH
#define SS_PLACE_CUH

#include "grid.cuh"
#include "number.cuh"

// A place in a frame of k: its pixel, how far behind it (fy, fx) it lies, and the signs of its mirror image.
struct Place {
    int frame;
    long long y, x;
    double fy, fx;
    int sy, sx;
};

// Position (y, x) as it is, perhaps outside of the frame.
__device__ inline Place ss_between(int frame, double y, double x) {
    Place p = {frame, 0, 0, 0, 0, 1, 1};
    y = fmin(fmax(y, -SS_AWAY), SS_AWAY), x = fmin(fmax(x, -SS_AWAY), SS_AWAY);
    p.y = (long long)floor(y), p.x = (long long)floor(x);
    p.fy = y - p.y, p.fx = x - p.x;
    return p;
}

// The same mirrored into the frame, unless nothing lies outside of it.
__device__ inline Place ss_at(int frame, double y, double x, int H, int W) {
    if (SS_ZEROS) return ss_between(frame, y, x);
    int sy, sx;
    y = ss_mirror(y, H, &sy), x = ss_mirror(x, W, &sx);
    Place p = ss_between(frame, y, x);
    p.sy = sy, p.sx = sx;
    return p;
}

// The place that `offset` (dt, dy, dx) leads to from pixel (y, x) of frame t. What is not finite counts as 0.
__device__ inline Place ss_place(const SS_OFFSET* offset, long long t, long long y, long long x, int frames, int H,
                                 int W) {
    int sign;
    const double dt = rint(ss_finite((double)offset[0]));
    const int frame = (int)ss_mirror(__dadd_rn((double)t, dt), frames, &sign);
    const double dy = ss_finite((double)offset[1]), dx = ss_finite((double)offset[2]);
    return ss_at(frame, __dadd_rn((double)y, dy), __dadd_rn((double)x, dx), H, W);
}

// Pixel i of a patch along one axis, relative to its query.
__device__ inline long long ss_pixel(int i) { return (long long)SS_DILATION * (i - SS_PATCH / 2); }

// Up to four pixels of a frame with weights: one bilinear sample. Corners without weight or pixel are not there.
struct Sample {
    const SS_SCALAR* at[4];
    SS_ACC weight[4];
    bool exists;
};

// Whether pixel row y (or column) can be part of a sample with fraction f along an axis of n.
__device__ inline bool ss_beyond(long long y, double f, int n) { return y < -1 || (y == -1 && f == 0) || y >= n; }

__device__ inline Sample ss_corners(const SS_SCALAR* frame, const Place& p, long long dy, long long dx, int H, int W,
                                    int C, const double* weights) {
    Sample s;
    const long long y = p.y + dy, x = p.x + dx;
    s.exists = !(SS_ZEROS && (ss_beyond(y, p.fy, H) || ss_beyond(x, p.fx, W)));
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        const long long v = y + corner / 2, u = x + corner % 2;
        const bool inside = !SS_ZEROS || (v >= 0 && v < H && u >= 0 && u < W);
        const bool there = s.exists && inside && weights[corner] != 0;
        s.at[corner] = there ? frame + ((long long)ss_reflect(v, H) * W + ss_reflect(u, W)) * C : 0;
        s.weight[corner] = (SS_ACC)weights[corner];
    }
    return s;
}

// The sample at (dy, dx) from a place of a frame, whose first channel of pixel (0, 0) is `frame`.
__device__ inline Sample ss_sample(const SS_SCALAR* frame, const Place& p, long long dy, long long dx, int H, int W,
                                   int C) {
    const double weights[4] = {(1 - p.fy) * (1 - p.fx), (1 - p.fy) * p.fx, p.fy * (1 - p.fx), p.fy * p.fx};
    return ss_corners(frame, p, dy, dx, H, W, C, weights);
}

// Its derivatives by y and x: at whole positions towards the next pixel.
__device__ inline Sample ss_slope_y(const SS_SCALAR* frame, const Place& p, long long dy, long long dx, int H, int W,
                                    int C) {
    const double weights[4] = {p.fx - 1, -p.fx, 1 - p.fx, p.fx};
    return ss_corners(frame, p, dy, dx, H, W, C, weights);
}

__device__ inline Sample ss_slope_x(const SS_SCALAR* frame, const Place& p, long long dy, long long dx, int H, int W,
                                    int C) {
    const double weights[4] = {p.fy - 1, 1 - p.fy, -p.fy, p.fy};
    return ss_corners(frame, p, dy, dx, H, W, C, weights);
}

__device__ inline SS_ACC ss_value(const Sample& s, int c) {
    if (SS_WHOLE) return s.at[0] ? (SS_ACC)ss_load(s.at[0] + c) : (SS_ACC)0;
    SS_ACC sum = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
        if (s.at[corner]) sum += s.weight[corner] * ss_load(s.at[corner] + c);
    return sum;
}

// First channel of pixel (y, x) of a query's frame, or nothing outside of a border of zeros.
__device__ inline const SS_SCALAR* ss_query_pixel(const SS_SCALAR* frame, long long y, long long x, int H, int W,
                                                  int C) {
    if (SS_QUERY_ZEROS && (y < 0 || y >= H || x < 0 || x >= W)) return 0;
    return frame + ((long long)ss_reflect(y, H) * W + ss_reflect(x, W)) * C;
}

#endif
