// What producers of search_tiles.cu do: compare pixels at several displacements, and sum along the rows of patches.
#ifndef SS_PRODUCE_CUH
#define SS_PRODUCE_CUH

#include "pairs.cuh"
#include "ring.cuh"

// Four pixels of q in a row, of which bit i of `there` says whether pixel i is one of the frame.
struct Four {
    int y, x;
    unsigned there;
};

__device__ inline Four four_at(const Plane& q, int y, int x) {
    Four four = {y, x, 0};
#pragma unroll
    for (int j = 0; j < 4; ++j) four.there |= (unsigned)q.has(y, x + j) << j;
    return four;
}

// Their channels from `first` on.
__device__ inline void load_four(const Plane& q, const Four& four, int first, int F, float* to) {
    const int y = reflect(four.y, q.H);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const bool there = !SS_ZEROS || (four.there >> j & 1);
        const SS_SCALAR* from = q.at(y, reflect(four.x + j, q.W)) + (long long)first * q.channel;
#pragma unroll
        for (int f = 0; f < SS_CHANNELS; f += SS_VECTORS ? SS_FEW : 1) {
            float* const few = to + j * SS_CHANNELS + f;
            const bool exists = there && (SS_FULL || first + f < F);
            if (SS_VECTORS && exists) load_few(from + f, few);
            if (SS_VECTORS && !exists)
#pragma unroll
                for (int i = 0; i < SS_FEW; ++i) few[i] = 0;
            if (!SS_VECTORS) few[0] = exists ? load(from) : 0, from += q.channel;
        }
    }
}

__device__ inline float pixel_sum(const float* q, const float* k) {
    float sum = 0;
#pragma unroll
    for (int f = 0; f < SS_CHANNELS; ++f) sum = add_pair(q[f], k[f], sum);
    return sum;
}

// From the distances of a row of pixels, four to a lane, to sums along the rows of patches: four queries'.
__device__ inline float4 sums_along(float a0, float a1, float a2, float a3) {
    const float even[2] = {a0, a2}, own[2] = {plus(a0, a1), plus(a2, a3)};
    float pair[SS_PAIRS + 3], last[2];
#pragma unroll
    for (int i = 0; i < 2 + (SS_PATCH - 1) / 2; ++i)
        pair[i] = i < 2 ? own[i % 2] : __shfl_down_sync(SS_ALL, own[i % 2], i / 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int at = i + SS_PAIRS;
        last[i] = at < 2 ? even[at % 2] : __shfl_down_sync(SS_ALL, even[at % 2], at / 2);
    }
    return {even_sum(pair, last[0]), odd_sum(pair, a1, last[0]), even_sum(pair + 1, last[1]),
            odd_sum(pair + 1, a3, last[1])};
}

// The pixels of a row, one after another: every fourth has 16 bytes behind it.
struct Along {
    const char* at;
    int place;

    __device__ const char* next() {
        const char* const found = at;
        at += ++place % 4 == 0 ? SS_PIXEL + 16 : SS_PIXEL;
        return found;
    }
};

// Four pixels of q and a row of k, pixel after pixel: pixel x of k is at displacement x - j of pixel j of the four.
struct Meeting {
    unsigned there;  // bits for the four
    int u, W;  // where the pixel is in its frame
    bool further, holds;
    float* sums;
    float e0[3], e1[2], e2;  // of the pixels before

    // With pixels `from` to `to` of the four. With the last of them, a displacement is complete, and summed along rows.
    __device__ void next(int from, int to, const char* k, const float* q) {
        float theirs[SS_CHANNELS], e[4] = {0, 0, 0, 0};
#pragma unroll
        for (int f = 0; f < SS_CHANNELS; f += SS_FEW_HELD)
            load_few(reinterpret_cast<const SS_HELD*>(k) + f, theirs + f);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (j < from || j > to) continue;
            e[j] = pixel_sum(q + j * SS_CHANNELS, theirs);
            if (SS_ZEROS && !((unsigned)u < (unsigned)W && (there >> j & 1))) e[j] = 0;
        }
        if (to == 3) write(sums_along(e0[2], e1[1], e2, e[3]));
        e0[2] = e0[1], e0[1] = e0[0], e0[0] = e[0], e1[1] = e1[0], e1[0] = e[1], e2 = e[2];
        ++u;
    }

    __device__ void write(float4 found) {
        float4* const to = reinterpret_cast<float4*>(sums);
        sums += SS_SUMS_PLANE;
        if (!holds) return;
        if (further) {
            const float4 before = *to;
            found = {plus(before.x, found.x), plus(before.y, found.y), plus(before.z, found.z),
                     plus(before.w, found.w)};
        }
        *to = found;
    }
};

// Compares four pixels with those of a row from `first` on, at n displacements, three or more. Those of a whole window
// are unrolled: the compiler then knows where each pixel is. (Not of products: it would keep -q as well, with too few
// registers.) Of others two are compared at once: then what waits for the pixels behind it stays where it is.
__device__ inline void produce(Meeting four, char* row, int first, int n, const float* q) {
    if (SS_L2 && SS_WINDOW_X >= SS_FEWEST && SS_WINDOW_X <= SS_MOST_AT_ONCE && n == SS_WINDOW_X && first % 4 == 0) {
        const char* const k = pixel_of(row, first);
#pragma unroll
        for (int x = 0; x < SS_WINDOW_X + 3; ++x)
            four.next(max(x - SS_WINDOW_X + 1, 0), min(x, 3), k + x * SS_PIXEL + x / 4 * 16, q);
        return;
    }
    Along k = {pixel_of(row, first), first};
    four.next(0, 0, k.next(), q), four.next(0, 1, k.next(), q), four.next(0, 2, k.next(), q);
    int x = 3;
#pragma unroll 1
    for (; x + 1 < n; x += 2) four.next(0, 3, k.next(), q), four.next(0, 3, k.next(), q);
#pragma unroll 1
    for (; x < n; ++x) four.next(0, 3, k.next(), q);
    four.next(1, 3, k.next(), q), four.next(2, 3, k.next(), q), four.next(3, 3, k.next(), q);
}

// One step of a thread whose pixels are `four`, of strip `strip` in row `line`, into its half of the sums.
__device__ inline void produce_step(const Ring& ring, const Plane& mine, const Four& four, int strip, int line,
                                    const Step& now, const Slot& slot, float* q, float* sums, const Sizes& s) {
    const bool inside = !SS_ZEROS || (unsigned)(slot.y + line + now.dy) < (unsigned)s.kH;
    sums += now.half * SS_SUMS + now.plane * SS_SUMS_PLANE + line * SS_SUMS_ROW + 4 * strip;
#pragma unroll 1
    for (int chunk = 0; chunk < SS_CHUNKS; ++chunk) {
        if (SS_CHUNKS > 1) load_four(mine, four, chunk * SS_CHANNELS, s.F, q);
        char* const row = ring.row(line + now.dy) + strip * SS_STRIP + chunk * SS_CHANNELS * sizeof(SS_HELD);
        produce({inside ? four.there : 0, slot.x + 4 * strip + now.dx, s.kW, chunk > 0, strip < SS_STRIPS, sums}, row,
                now.dx, now.n, q);
    }
}

// All steps of a slot, as far as they are in `part` of its reach.
__device__ inline void produce_all(const Ring& ring, const Plane& mine, const Four& four, int strip, int line,
                                   const Slot& slot, const Part& part, float* q, float* sums, const Sizes& s) {
    Steps steps(slot.reach);
#pragma unroll 1
    for (int dy = 0; dy < slot.reach.tall; ++dy) {
#pragma unroll 1
        for (steps.begin(dy); steps.left(); steps.go_on()) {
            const Step some = within(steps.now, part);
            if (some.n) produce_step(ring, mine, four, strip, line, some, slot, q, sums, s);
            meet();
        }
    }
    meet();  // consumers are one step behind
}

#endif
