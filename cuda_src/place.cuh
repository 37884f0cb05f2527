// Places in a video and the patches around them: the one file that reads pixels.
//
// Constants: SS_OFFSET type of offsets, SS_WHOLE (1: they are whole numbers), SS_ZEROS (1: nothing lies outside of
// the frame; 0: it is mirrored), SS_QUERY_ZEROS (the same for the frames of queries), SS_PATCH, SS_DILATION, SS_STRIDE,
// SS_SCALE (pixels of q for one of k), SS_STACKED of video.cuh.
#ifndef SS_PLACE_CUH
#define SS_PLACE_CUH

#include "grid.cuh"
#include "video.cuh"

// A place in a frame of k: its pixel, how far behind it (fy, fx) it lies, and the signs of its mirror image.
struct Place {
    int frame;
    long long y, x;
    double fy, fx;
    int sy, sx;
};

// Position (y, x) as it is, perhaps outside of the frame.
__device__ inline Place place_at(int frame, double y, double x) {
    Place p = {frame, 0, 0, 0, 0, 1, 1};
    y = fmin(fmax(y, -SS_AWAY), SS_AWAY), x = fmin(fmax(x, -SS_AWAY), SS_AWAY);
    p.y = (long long)floor(y), p.x = (long long)floor(x);
    p.fy = y - p.y, p.fx = x - p.x;
    return p;
}

// The same mirrored into the frame, unless nothing lies outside of it.
__device__ inline Place place_in(int frame, double y, double x, const Sizes& s) {
    if (SS_ZEROS) return place_at(frame, y, x);
    int sy, sx;
    y = mirror(y, s.kH, &sy), x = mirror(x, s.kW, &sx);
    Place p = place_at(frame, y, x);
    p.sy = sy, p.sx = sx;
    return p;
}

// The frame that dt leads to from frame t: rounded, half to even.
template <class Offset> __device__ inline int frame_after(int t, Offset dt, const Sizes& s) {
    int sign;
    return (int)mirror(__dadd_rn((double)t, rint(finite_or_zero((double)dt))), s.kT, &sign);
}

// The place that an offset leads to from a query. What is not finite counts as 0.
__device__ inline Place place_of(const SS_OFFSET* offset, const Query& r, const Sizes& s) {
    const double dy = finite_or_zero((double)offset[1]), dx = finite_or_zero((double)offset[2]);
    return place_in(frame_after(r.t, offset[0], s), __dadd_rn((double)r.y, dy), __dadd_rn((double)r.x, dx), s);
}

// How far pixel i of a patch lies from its centre.
__device__ inline long long patch_offset(int i) { return (long long)SS_DILATION * (i - SS_PATCH / 2); }

// Up to four pixels of a frame with weights: one bilinear sample. Corners without weight or pixel are not there.
struct Sample {
    const SS_SCALAR* at[4];
    SS_ACC weight[4];
    bool exists;
};

// Whether no sample with fraction f has a pixel at row y (or column) of n.
__device__ inline bool beyond(long long y, double f, int n) { return y < -1 || (y == -1 && f == 0) || y >= n; }

__device__ inline Sample corners_of(const Frame& frame, const Place& p, long long dy, long long dx,
                                    const double* weights) {
    Sample s;
    const long long y = p.y + dy, x = p.x + dx;
    s.exists = !(SS_ZEROS && (beyond(y, p.fy, frame.H) || beyond(x, p.fx, frame.W)));
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        const long long v = y + corner / 2, u = x + corner % 2;
        const bool inside = !SS_ZEROS || (v >= 0 && v < frame.H && u >= 0 && u < frame.W);
        const bool there = s.exists && inside && weights[corner] != 0;
        const long long pixel = (long long)reflect(v, frame.H) * frame.W + reflect(u, frame.W);
        s.at[corner] = there ? frame.first + pixel * frame.apart : 0;
        s.weight[corner] = (SS_ACC)weights[corner];
    }
    return s;
}

// The sample at (dy, dx) from a place of a frame.
__device__ inline Sample sample(const Frame& frame, const Place& p, long long dy, long long dx) {
    const double weights[4] = {(1 - p.fy) * (1 - p.fx), (1 - p.fy) * p.fx, p.fy * (1 - p.fx), p.fy * p.fx};
    return corners_of(frame, p, dy, dx, weights);
}

// Its derivatives by y and x: at whole positions towards the next pixel.
__device__ inline Sample slope_y(const Frame& frame, const Place& p, long long dy, long long dx) {
    const double weights[4] = {p.fx - 1, -p.fx, 1 - p.fx, p.fx};
    return corners_of(frame, p, dy, dx, weights);
}

__device__ inline Sample slope_x(const Frame& frame, const Place& p, long long dy, long long dx) {
    const double weights[4] = {p.fy - 1, 1 - p.fy, -p.fy, p.fy};
    return corners_of(frame, p, dy, dx, weights);
}

// Channel f of a sample.
__device__ inline SS_ACC value_of(const Sample& s, int f) {
    if (SS_WHOLE) return s.at[0] ? (SS_ACC)load(s.at[0] + f) : (SS_ACC)0;
    SS_ACC sum = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
        if (s.at[corner]) sum += s.weight[corner] * load(s.at[corner] + f);
    return sum;
}

// Whether the frame of a query has pixel (y, x): outside of a border of zeros there is none.
__device__ inline bool has_pixel(const Frame& frame, long long y, long long x) {
    return !SS_QUERY_ZEROS || (y >= 0 && y < frame.H && x >= 0 && x < frame.W);
}

// First channel of pixel (y, x) of a query's frame, or nothing.
__device__ inline const SS_SCALAR* query_pixel(const Frame& frame, long long y, long long x) {
    if (!has_pixel(frame, y, x)) return 0;
    return frame.first + ((long long)reflect(y, frame.H) * frame.W + reflect(x, frame.W)) * frame.apart;
}

// Pixel (dy, dx) of the patch of a query: q has SS_SCALE pixels for one of k.
__device__ inline const SS_SCALAR* patch_pixel(const Frame& frame, const Query& r, long long dy, long long dx) {
    return query_pixel(frame, SS_SCALE * r.y + dy, SS_SCALE * r.x + dx);
}

#endif
