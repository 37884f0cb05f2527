// out = factor * v / 2^times, a thread for each number.
#include "number.cuh"

extern "C" __global__ void halve(const SS_SCALAR* v, const SS_ACC* factor, SS_SCALAR* out, int width, long long count) {
    const long long i = thread_number();
    if (i >= count) return;
    SS_ACC x = load(v + i) * factor[i / width];
    for (int n = 0; n < SS_TIMES; ++n) x /= 2;
    store(out + i, x);
}
