// Products of a warp's queries with the pixels of a row by tensor cores, and by how much they may be off.
//
// Numbers of 16 bits are multiplied as they are. A float is the sum of two bfloat16 and a rest, which counts as doubt.
//
// Products are exact, their sums are not: terms are aligned to the largest and cut off, at 24 bits or more (Fasi,
// Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7, 2021). So 16 products
// and what they are added to are off by less than 24 * 2^-23 = 2^-18.4 of the sum of their magnitudes, three times of
// that with floats, whose rests are 3 * 2^-18. SS_DOUBT is more than twice of what may be lost in any of these ways and
// in rounding the scores themselves, of which each channel has 2^-24.
#ifndef SS_MULTIPLY_CUH
#define SS_MULTIPLY_CUH

#include "ptx.cuh"
#include "reach.cuh"

#define SS_COLUMNS 36  // pairs of floats of two columns: 4 lanes write, and 16 read, in different banks
#define SS_PARTS ((int)sizeof(SS_SCALAR) / 2)  // numbers of 16 bits that stand for one
#define SS_DOUBT (SS_CHUNKS * (SS_PARTS == 1 ? 0x1p-16f : 0x1p-14f))

template <class Scalar> struct Part {
    typedef Scalar type;
};
template <> struct Part<float> {
    typedef __nv_bfloat16 type;
};
typedef Part<SS_SCALAR>::type Small;

// Two neighbouring channels as the parts that they are multiplied by.
template <class Half> __device__ inline void parts_of(const Half* p, unsigned* parts) {
    parts[0] = *reinterpret_cast<const unsigned*>(p);
}

__device__ inline unsigned bits_of(__nv_bfloat162 x) { return *reinterpret_cast<const unsigned*>(&x); }

__device__ inline void parts_of(const float* p, unsigned* parts) {
    const float2 x = *reinterpret_cast<const float2*>(p);
    parts[0] = bits_of(__floats2bfloat162_rn(x.x, x.y));
    const float2 most = two(parts[0], (const Small*)0);
    parts[1] = bits_of(__floats2bfloat162_rn(__fsub_rn(x.x, most.x), __fsub_rn(x.y, most.y)));
}

// Adds the products of parts of 16 channels, but for those of two small parts.
__device__ inline void multiply_parts(const unsigned (*q)[4], const unsigned (*k)[2], float* sums) {
    const Small* const kind = 0;
    multiply(q[0], k[0], sums, kind);
    if (SS_PARTS == 1) return;
    multiply(q[0], k[SS_PARTS - 1], sums, kind);
    multiply(q[SS_PARTS - 1], k[0], sums, kind);
}

typedef unsigned Queries[2][SS_CHUNKS][SS_PARTS][4];  // of both halves of a warp

__device__ inline void load_queries(Queries& to, const Staged& own) {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 2 * SS_TILE_X + lane / 4;
#pragma unroll
    for (int i = 0; i < 2 * SS_CHUNKS * 4; ++i) {
        const int half = i / 4 / SS_CHUNKS, chunk = i / 4 % SS_CHUNKS, piece = i % 4;
        unsigned parts[SS_PARTS];
        parts_of(own.eight(2 * chunk + piece / 2, first + 8 * half + piece % 2 * SS_TILE_X) + lane % 4 * 2, parts);
#pragma unroll
        for (int part = 0; part < SS_PARTS; ++part) to[half][chunk][part][piece] = parts[part] ^ 0x80008000u;
    }
}

// What a lane needs to multiply a row: its part of the pixels and of half their squares from the first column on, bytes
// from 8 channels to the next, and where its products are.
struct Row {
    const char* pixels;
    const float* halves;
    int next;
    float2* products;
};

__device__ inline void load_strip(unsigned (*to)[SS_PARTS][2], float* sums, const Row& row, int strip) {
#pragma unroll
    for (int i = 0; i < 2 * SS_CHUNKS; ++i) {
        unsigned parts[SS_PARTS];
        parts_of(reinterpret_cast<const SS_SCALAR*>(row.pixels + i * row.next + strip * 8 * SS_EIGHT), parts);
#pragma unroll
        for (int part = 0; part < SS_PARTS; ++part) to[i / 2][part][i % 2] = parts[part];
    }
    const float2 halves = SS_L2 ? *reinterpret_cast<const float2*>(row.halves + 8 * strip) : float2{0, 0};
    sums[0] = halves.x, sums[1] = halves.y;
}

// Half the squares of 8 pixels, or nothing, without their products with half a warp's queries, to their columns.
__device__ inline void multiply_strip(float2* to, const unsigned (*queries)[SS_PARTS][4],
                                      const unsigned (*theirs)[SS_PARTS][2], float left, float right) {
    float sums[4] = {left, right, left, right};
#pragma unroll
    for (int chunk = 0; chunk < SS_CHUNKS; ++chunk) multiply_parts(queries[chunk], theirs[chunk], sums);
    to[0] = {sums[0], sums[1]}, to[8] = {sums[2], sums[3]};
}

#define SS_USUAL ((SS_WINDOW_X + 14) / 8)  // strips of half a warp whose windows move together

// A row of pixels by all queries of a warp. `together`: the second half of the warp looks one strip further.
__device__ inline void multiply_row(const Row& row, const Queries& queries, unsigned strips, bool together) {
    unsigned theirs[SS_CHUNKS][SS_PARTS][2];
    float sums[2];
    if (together) {
#pragma unroll
        for (int strip = 0; strip <= SS_USUAL; ++strip) {
            load_strip(theirs, sums, row, strip);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (strip < half || strip >= half + SS_USUAL) continue;
                float2* const to = row.products + 4 * (strip - half) * SS_COLUMNS + 16 * half;
                multiply_strip(to, queries[half], theirs, sums[0], sums[1]);
            }
        }
        return;
    }
    const int begin[2] = {__ffs(strips & 255) - 1, __ffs(strips >> 8) - 1};
    const unsigned any = (strips | strips >> 8) & 255;
#pragma unroll 1
    for (int strip = 0; any >> strip; ++strip) {
        load_strip(theirs, sums, row, strip);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (!(strips >> (8 * half + strip) & 1)) continue;
            float2* const to = row.products + 4 * (strip - begin[half]) * SS_COLUMNS + 16 * half;
            multiply_strip(to, queries[half], theirs, sums[0], sums[1]);
        }
    }
}

#endif
