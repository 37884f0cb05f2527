// Flow from each frame along its trajectory to the frames it looks at, from flow to the next and to the last frame.
// forward, backward (B, frames, 2, H, W), channel 0 = dx, 1 = dy; what is not finite counts as 0.
// Constants: SS_RADIUS, SS_STRIDE. One thread per query (batch, t, y, x), which walks along its slots.
#define SS_SLOTS (2 * SS_RADIUS)
#define SS_ZEROS 0
#define SS_QUERY_ZEROS 0
#define SS_WHOLE 0
#define SS_OFFSET double
#define SS_PATCH 1
#define SS_DILATION 1
#include "place.cuh"

// One step along the trajectory: which flow is read, at which frame, and whether it begins at the query.
struct Step {
    bool ahead, first;
    int frame;
};

__device__ inline Step ss_step(int t, int slot, int frames) {
    const int to = ss_frame(t, slot, frames, SS_RADIUS);
    Step s;
    s.ahead = to > t;
    s.first = slot == 1 || (!s.ahead && ss_frame(t, slot - 1, frames, SS_RADIUS) >= t);
    s.frame = s.ahead ? to - 1 : to + 1;
    return s;
}

// Sum of weights times flow at the four pixels around a place, of the plane `flow` (H, W).
__device__ inline double ss_flow(const SS_SCALAR* flow, const Place& p, const double* weights, int H, int W) {
    double sum = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        const int y = ss_reflect(p.y + corner / 2, H), x = ss_reflect(p.x + corner % 2, W);
        if (weights[corner] != 0) sum += weights[corner] * ss_finite((double)ss_load(flow + (long long)y * W + x));
    }
    return sum;
}

__device__ inline const SS_SCALAR* ss_planes(const SS_SCALAR* forward, const SS_SCALAR* backward, const Step& s,
                                             long long b, int frames, int H, int W) {
    return (s.ahead ? forward : backward) + (b * frames + s.frame) * 2LL * H * W;
}

// chained (B, frames, SS_SLOTS, 2, h, w).
extern "C" __global__ void __launch_bounds__(128, 1)
ss_chain_flow(const SS_SCALAR* forward, const SS_SCALAR* backward, double* chained, int frames, int H, int W, int h, int w,
         long long count) {
    const long long i = ss_thread();
    if (i >= count) return;
    const long long x = i % w, y = i / w % h, t = i / w / h % frames, b = i / w / h / frames, plane = (long long)h * w;
    double dy = 0, dx = 0;
    for (int slot = 1; slot <= SS_SLOTS; ++slot) {
        const Step s = ss_step((int)t, slot, frames);
        if (s.first) dy = dx = 0;
        const Place p = ss_between(s.frame, (double)(y * SS_STRIDE) + dy, (double)(x * SS_STRIDE) + dx);
        const double weights[4] = {(1 - p.fy) * (1 - p.fx), (1 - p.fy) * p.fx, p.fy * (1 - p.fx), p.fy * p.fx};
        const SS_SCALAR* flow = ss_planes(forward, backward, s, b, frames, H, W);
        dx += ss_flow(flow, p, weights, H, W);
        dy += ss_flow(flow + (long long)H * W, p, weights, H, W);
        double* out = chained + ((b * frames + t) * SS_SLOTS + slot - 1) * 2 * plane + y * w + x;
        out[0] = dx, out[plane] = dy;
    }
}

// From grad (B, frames, SS_SLOTS, 2, h, w) of `chained` to what arrives at each step's sample of flow: places (B, 1,
// frames, h, w, SS_SLOTS, 3), where it was read, arrived (..., SS_SLOTS, 2), and 1 in forwards or backwards (...,
// SS_SLOTS).
extern "C" __global__ void __launch_bounds__(128, 1)
ss_chain_flow_backward(const SS_SCALAR* grad, const SS_SCALAR* forward, const SS_SCALAR* backward, const double* chained,
           double* places, double* arrived, double* forwards, double* backwards, int frames, int H, int W, int h,
           int w, long long count) {
    const long long i = ss_thread();
    if (i >= count) return;
    const long long x = i % w, y = i / w % h, t = i / w / h % frames, b = i / w / h / frames, plane = (long long)h * w;
    double later_x = 0, later_y = 0;  // what arrives from the next step, if it went on from this one
    for (int slot = SS_SLOTS; slot >= 1; --slot) {
        const Step s = ss_step((int)t, slot, frames);
        const long long here = ((b * frames + t) * SS_SLOTS + slot - 1) * 2 * plane + y * w + x;
        const long long at = i * SS_SLOTS + slot - 1;
        const double dx = s.first ? 0 : chained[here - 2 * plane], dy = s.first ? 0 : chained[here - plane];
        const double gx = ss_load(grad + here) + later_x, gy = ss_load(grad + here + plane) + later_y;
        places[3 * at] = s.frame - t, places[3 * at + 1] = dy, places[3 * at + 2] = dx;
        arrived[2 * at] = gx, arrived[2 * at + 1] = gy;
        forwards[at] = s.ahead, backwards[at] = !s.ahead;
        later_x = later_y = 0;
        if (s.first) continue;
        const Place p = ss_between(s.frame, (double)(y * SS_STRIDE) + dy, (double)(x * SS_STRIDE) + dx);
        const double down[4] = {p.fx - 1, -p.fx, 1 - p.fx, p.fx}, across[4] = {p.fy - 1, 1 - p.fy, -p.fy, p.fy};
        const SS_SCALAR* flow = ss_planes(forward, backward, s, b, frames, H, W);
        const SS_SCALAR* flow_y = flow + (long long)H * W;
        later_y = gy + gx * ss_flow(flow, p, down, H, W) + gy * ss_flow(flow_y, p, down, H, W);
        later_x = gx + gx * ss_flow(flow, p, across, H, W) + gy * ss_flow(flow_y, p, across, H, W);
    }
}
