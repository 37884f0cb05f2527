// One step of flow (n, 2, h, w) towards what data (n, h, w) says, and its neighbours. definition/settle.py has the
// formula. Neighbours pull the less, the farther they are apart in `bonded`, the flow some steps ago.
//
//   flow, bonded, out   (n, 2, h, w)
//   xx, xy, yy, x, y    (n, h, w)
#include "number.cuh"

#define SS_THREADS 128

struct Field {
    long long count;  // pixels of all frames
    int h, w;
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
settle(const SS_ACC* flow, const SS_ACC* bonded, const SS_ACC* xx, const SS_ACC* xy, const SS_ACC* yy, const SS_ACC* x,
       const SS_ACC* y, SS_ACC* out, SS_ACC stiff, SS_ACC held, const Field s) {
    const long long number = (long long)blockIdx.x * SS_THREADS + threadIdx.x;
    if (number >= s.count) return;
    const long long plane = (long long)s.h * s.w, here = number + number / plane * plane;
    const int row = (int)(number % plane / s.w), column = (int)(number % s.w);
    SS_ACC total = held, dx = x[number] + held * flow[here], dy = y[number] + held * flow[here + plane];
    const auto pull = [&](bool exists, int way) {
        if (!exists) return;
        const SS_ACC* const there = bonded + here + way;
        const SS_ACC across = there[0] - bonded[here], down = there[plane] - bonded[here + plane];
        const SS_ACC bond = stiff / (1 + across * across + down * down);
        total += bond, dx += bond * flow[here + way], dy += bond * flow[here + way + plane];
    };
    pull(column + 1 < s.w, 1);
    pull(column > 0, -1);
    pull(row + 1 < s.h, s.w);
    pull(row > 0, -s.w);
    const SS_ACC a = xx[number] + total, b = xy[number], c = yy[number] + total;
    const SS_ACC scale = 1 / fmax(a * c - b * b, held * held);
    out[here] = (c * dx - b * dy) * scale;
    out[here + plane] = (a * dy - b * dx) * scale;
}
