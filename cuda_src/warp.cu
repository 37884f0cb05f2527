// Frames moved by flow: definition/warp.py has the formula.
//
//   warp   target, out (T, C, h, w), flow (T, 2, h, w): a thread has a pixel, and all its channels
#include "number.cuh"

#define SS_THREADS 128

struct Frames {
    long long count;  // pixels of all frames
    int channels, h, w;
};

// The two pixels that a place lies between, mirrored into n of them, and how far it is from the first.
struct Between {
    int first, second;
    SS_ACC share;

    __device__ Between(SS_ACC flow, int at, int n) {
        flow = fmin(fmax(flow, (SS_ACC)(-2.0 * n)), (SS_ACC)(2.0 * n));
        const SS_ACC whole = floor(flow);
        first = mirrored(at + (int)whole, n), second = mirrored(at + (int)whole + 1, n), share = flow - whole;
    }

    __device__ static int mirrored(int at, int n) { return min(max(n - 1 - abs(n - 1 - abs(at)), 0), n - 1); }
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
warp(const SS_ACC* target, const SS_ACC* flow, SS_ACC* out, const Frames s) {
    const long long number = thread_number();
    if (number >= s.count) return;
    const long long plane = (long long)s.h * s.w, frame = number / plane, at = number % plane;
    const SS_ACC* const led = flow + 2 * plane * frame + at;
    const bool known = led[0] == led[0] && led[plane] == led[plane];
    const Between x(led[0], (int)(at % s.w), s.w), y(led[plane], (int)(at / s.w), s.h);
    const long long upper = (long long)s.w * y.first, lower = (long long)s.w * y.second;
    for (int c = 0; c < s.channels; ++c) {
        const long long begin = (frame * s.channels + c) * plane;
        const auto between = [&](const SS_ACC* row) { return row[x.first] + x.share * (row[x.second] - row[x.first]); };
        const SS_ACC above = between(target + begin + upper), below = between(target + begin + lower);
        out[begin + at] = known ? above + y.share * (below - above) : led[0] + led[plane];
    }
}
