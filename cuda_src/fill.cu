// Planes of half the size, and gaps that are filled from them. definition/fill.py has the formulas.
//
//   coarser   planes (n, h, w), out (n, (h + 1) / 2, (w + 1) / 2)
//   fill_up   levels (2, n, h, w), sums of what is found times weight, and of weight; coarse, filled before,
//             (n, (h + 1) / 2, (w + 1) / 2); out (n, h, w), what is found, or without `found` its mean, where there is
//             more weight than `least`, else what is coarse, if it is there
#include "number.cuh"

#define SS_THREADS 128

struct Planes {
    long long count;  // pixels of `out`
    int h, w;
};

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
coarser(const SS_ACC* planes, SS_ACC* out, const Planes s) {
    const long long number = thread_number();
    if (number >= s.count) return;
    const int across = (s.w + 1) / 2, down = (s.h + 1) / 2;
    const int x = (int)(number % across) * 2, y = (int)(number / across % down) * 2;
    const SS_ACC* const above = planes + (number / across / down * s.h + y) * s.w + x;
    const SS_ACC* const below = y + 1 < s.h ? above + s.w : above;
    const int next = x + 1 < s.w;
    out[number] = ((above[0] + below[0]) / 2 + (above[next] + below[next]) / 2) / 2;
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, 1)
fill_up(const SS_ACC* found, const SS_ACC* level, const SS_ACC* coarse, SS_ACC* out, SS_ACC least, const Planes s) {
    const long long number = thread_number();
    if (number >= s.count) return;
    const SS_ACC share = level[s.count + number];
    if (share > least || !coarse) {
        out[number] = found ? found[number] : level[number] / fmax(share, (SS_ACC)1e-12);
        return;
    }
    const long long row = number / s.w, plane = row / s.h;
    const int x = (int)(number % s.w), y = (int)(row % s.h);
    out[number] = coarse[(plane * ((s.h + 1) / 2) + y / 2) * ((s.w + 1) / 2) + x / 2];
}
