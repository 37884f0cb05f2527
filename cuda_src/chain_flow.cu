// Flow from each frame along its trajectory to the frames around it, from flow between neighbouring frames:
// chained[slot] = chained[slot before] + flow(r + chained[slot before]), in the frame that the slot before leads to.
//
//   forward, backward  (B, T, 2, H, W), channel 0 = dx, 1 = dy; components that are not finite count as 0
//   chained, grad      (B, T, SS_SLOTS, 2, h, w)
//
// Constants: SS_RADIUS, SS_STRIDE. One thread per query (b, t, y, x), which does its slots forward, or backward for
// gradients.
#define SS_SLOTS (2 * SS_RADIUS)
#define SS_ZEROS 0
#define SS_QUERY_ZEROS 0
#define SS_WHOLE 0
#define SS_OFFSET double
#define SS_PATCH 1
#define SS_DILATION 1
#define SS_STACKED 0
#define SS_SCALE 1
#undef SS_ACC
#define SS_ACC double  // errors would add up along the chain
#include "place.cuh"

// Sizes of the flows (T, H, W) and of the queries' grid.
struct Flows {
    int T, H, W, h, w;
};

// A query of (B, T, h, w), and where its flow to slot 1 lies in `chained` and `grad`.
struct Start {
    int b, t, y, x;
    long long at;
};

__device__ inline Start start_of(long long i, const Flows& s) {
    Start r = {(int)(i / s.w / s.h / s.T), (int)(i / s.w / s.h % s.T), (int)(i / s.w % s.h), (int)(i % s.w), 0};
    r.at = (((long long)r.b * s.T + r.t) * SS_SLOTS * 2 * s.h + r.y) * s.w + r.x;
    return r;
}

// One step along the trajectory: which flow is read, at which frame, and whether it begins at the query.
struct Step {
    bool ahead, first;
    int frame;
};

__device__ inline Step step_to(int t, int slot, int frames) {
    const int to = frame_of_slot(t, slot, frames, SS_RADIUS);
    Step step;
    step.ahead = to > t;
    step.first = slot == 1 || (!step.ahead && frame_of_slot(t, slot - 1, frames, SS_RADIUS) >= t);
    step.frame = step.ahead ? to - 1 : to + 1;
    return step;
}

// Channel 0 or 1 of the flow that a step reads, as a frame of one channel.
__device__ inline Plane flow_of(const SS_SCALAR* forward, const SS_SCALAR* backward, const Step& step, int b,
                                int channel, const Flows& s) {
    const SS_SCALAR* flow = step.ahead ? forward : backward;
    return {flow + (((long long)b * s.T + step.frame) * 2 + channel) * s.H * s.W, s.H, s.W, s.W, 1, 1};
}

// The flow of a channel between two lines.
__device__ inline double flow_at(const Plane& frame, const Line& y, const Line& x) {
    const Sample s = sample_at(frame, y, x);
    double sum = 0;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
        if (s.at[corner]) sum += s.weight[corner] * finite_or_zero((double)load(s.at[corner]));
    return sum;
}

// Where a step reads flow, (dy, dx) from its query.
struct Spot {
    Line y, x;
};

__device__ inline Spot spot_of(const Start& r, double dy, double dx, const Flows& s) {
    return {line_at(along((double)(r.y * SS_STRIDE) + dy, s.H, 1), 0, s.H),
            line_at(along((double)(r.x * SS_STRIDE) + dx, s.W, 1), 0, s.W)};
}

extern "C" __global__ void __launch_bounds__(128, 1)
chain_flow(const SS_SCALAR* forward, const SS_SCALAR* backward, double* chained, const Flows s, long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Start r = start_of(i, s);
    const long long plane = (long long)s.h * s.w;
    double dy = 0, dx = 0;
    for (int slot = 1; slot <= SS_SLOTS; ++slot) {
        const Step step = step_to(r.t, slot, s.T);
        if (step.first) dy = dx = 0;
        const Spot at = spot_of(r, dy, dx, s);
        dx += flow_at(flow_of(forward, backward, step, r.b, 0, s), at.y, at.x);
        dy += flow_at(flow_of(forward, backward, step, r.b, 1, s), at.y, at.x);
        double* out = chained + r.at + (slot - 1) * 2 * plane;
        out[0] = dx, out[plane] = dy;
    }
}

// From the gradient of `chained` to the gradient of the sample of flow that each step reads, `arrived` (B, 1, T, h, w,
// SS_SLOTS, 2). `scatter` adds it to the flow, by offsets (..., SS_SLOTS, 3), where flow was read, and the weights
// forwards and backwards (..., SS_SLOTS), 1 for the flow that was read and 0 for the other.
extern "C" __global__ void __launch_bounds__(128, 1)
chain_flow_backward(const SS_SCALAR* grad, const SS_SCALAR* forward, const SS_SCALAR* backward, const double* chained,
                    double* offsets, double* arrived, double* forwards, double* backwards, const Flows s,
                    long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    const Start r = start_of(i, s);
    const long long plane = (long long)s.h * s.w;
    double later_x = 0, later_y = 0;  // gradient from the next step, if that went on from this one
    for (int slot = SS_SLOTS; slot >= 1; --slot) {
        const Step step = step_to(r.t, slot, s.T);
        const long long here = r.at + (slot - 1) * 2 * plane, at = i * SS_SLOTS + slot - 1;
        const double dx = step.first ? 0 : chained[here - 2 * plane], dy = step.first ? 0 : chained[here - plane];
        const double gx = load(grad + here) + later_x, gy = load(grad + here + plane) + later_y;
        offsets[3 * at] = step.frame - r.t, offsets[3 * at + 1] = dy, offsets[3 * at + 2] = dx;
        arrived[2 * at] = gx, arrived[2 * at + 1] = gy;
        forwards[at] = step.ahead, backwards[at] = !step.ahead;
        later_x = later_y = 0;
        if (step.first) continue;
        later_x = gx, later_y = gy;
        const Spot read = spot_of(r, dy, dx, s);
        for (int channel = 0; channel < 2; ++channel) {
            const Plane flow = flow_of(forward, backward, step, r.b, channel, s);
            const double g = channel ? gy : gx;
            later_y += g * flow_at(flow, slope_of(read.y), read.x);
            later_x += g * flow_at(flow, read.y, slope_of(read.x));
        }
    }
}
