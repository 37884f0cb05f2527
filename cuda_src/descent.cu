// out (5, n, h, w): what tells how far flow (n, 2, h, w) is off, by which frames `moved` (n, h, w) were moved to look
// like `grey`. definition/descent.py has the formula. A thread has a pixel.
#include "number.cuh"

#define SS_THREADS 128

struct Frames {
    long long count;  // pixels of all frames
    int h, w;
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
descent(const SS_ACC* moved, const SS_ACC* grey, const SS_ACC* flow, SS_ACC* out, SS_ACC same, const Frames s) {
    const long long number = thread_number();
    if (number >= s.count) return;
    const long long plane = (long long)s.h * s.w, led = number + number / plane * plane;
    const int x = (int)(number % s.w), y = (int)(number % plane / s.w);
    const auto mean = [&](int way) { return (moved[number + way] + grey[number + way]) / 2; };
    const SS_ACC a = (mean(x + 1 < s.w) - mean(-(x > 0))) / 2;
    const SS_ACC b = (mean(y + 1 < s.h ? s.w : 0) - mean(y > 0 ? -s.w : 0)) / 2;
    const SS_ACC c = moved[number] - grey[number];
    const SS_ACC dx = flow[led], dy = flow[led + plane];
    const bool inside = dx >= -x && dx <= s.w - 1 - x && dy >= -y && dy <= s.h - 1 - y;
    const SS_ACC weight = (inside ? (SS_ACC)1 : (SS_ACC)0) / (same + c * c);
    out[number] = weight * (a * a);
    out[number + s.count] = weight * (a * b);
    out[number + 2 * s.count] = weight * (b * b);
    out[number + 3 * s.count] = weight * (a * c);
    out[number + 4 * s.count] = weight * (b * c);
}
