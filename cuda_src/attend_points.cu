// Attention to the SS_TOPK best candidates of patches of one pixel, in one launch: attend_best.cu, faster. See
// points.cuh, and for the arrays attend_best.cuh. Tiles that are marked in `wild` are left to attend_best.cu.
//
// Constants beside those: SS_APART (1: what is found goes through shared memory, as it is not all there at a time, or
// more than its places is asked for), SS_FOUND (bytes of shared memory before it).
#include "attend_tile.cuh"
#include "points.cuh"

// A score as searches return it, never -0.
__device__ inline float returned(float score) { return SS_L2 ? plus(score, 0.f) : __fsub_rn(0, score); }

// Where the regions of slots begin in a clip: in numbers of v, and as pixels.
struct Begin {
    long long value;
    int pixel;
};

__device__ inline void find_begins(Begin* begins, const Slots& slots, const Values& m, const Sizes& s) {
    __syncthreads();
    for (int slot = threadIdx.x; slot < SS_SLOTS; slot += SS_THREADS) {
        const Region& r = slots.regions[slot];
        const int t = slots.frames[slot];
        begins[slot] = {t * m.v_t + (long long)r.y * m.v_y + (long long)r.x * m.v_x, (t * s.kH + r.y) * s.kW + r.x};
    }
    __syncthreads();
}

__device__ inline bool is_there(int place, const Slots& slots, const Sizes& s) {
    const Region& r = slots.regions[slot_at(place)];
    return (unsigned)(r.y + row_at(place)) < (unsigned)s.kH && (unsigned)(r.x + column_at(place)) < (unsigned)s.kW;
}

// `best`: scores, and as many places.
__device__ inline void attend(float* best, const Begin* begins, const Slots& slots, const Asker& asker,
                              const Tile& tile, const SS_SCALAR* v, float factor, const Attended& to, const Values& m,
                              const Sizes& s) {
#pragma unroll
    for (int e = 0; e < SS_TOPK; ++e) best[e] = returned(best[e]);
    const Softmax found = weigh(best, SS_TOPK, factor);
    const SS_SCALAR* clip = clip_of_v(v, tile.b, tile.g, m);
    SS_SCALAR* out = pixel_of_out(to.out, tile.b, tile.t, tile.g, asker.y, asker.x, m, s);
    const int plane = s.kH * s.kW;
#pragma unroll 1
    for (int first = 0; first < m.FV; first += SS_RUN_V, clip += SS_RUN_V * (long long)m.v_c) {
        float sum[SS_RUN_V];
#pragma unroll
        for (int c = 0; c < SS_RUN_V; ++c) sum[c] = 0;
#pragma unroll
        for (int e = 0; e < SS_TOPK; ++e) {
            const int place = __float_as_int(best[SS_TOPK + e]);
            if (best[e] == 0 || (SS_OUTSIDE && !is_there(place, slots, s))) continue;
            const long long pixel = row_at(place) * m.v_y + column_at(place) * m.v_x + begins[slot_at(place)].value;
            add_value<SS_RUN_V>(sum, best[e], clip + pixel, m.v_c);
        }
#pragma unroll
        for (int c = 0; c < SS_RUN_V; ++c, out += plane) store(out, sum[c] * found.share);
    }
    const long long clip_number = ((long long)tile.b * s.G + tile.g) * s.T + tile.t;
    const long long query = (clip_number * s.h + asker.y) * s.w + asker.x;
    reinterpret_cast<float2*>(to.sums)[query] = {found.most, found.total};
}

// The place of each candidate, which lie together in shared memory first.
__device__ inline void write_places(const float* best, int* memory, const Begin* begins, const Slots& slots,
                                    const Asker& asker, const Tile& tile, int* places, const Sizes& s) {
    __syncthreads();
    int* const mine = memory + (asker.row * SS_TILE_X + asker.column) * SS_TOPK;
#pragma unroll
    for (int e = 0; e < SS_TOPK && asker.exists; ++e) {
        const int place = __float_as_int(best[SS_TOPK + e]);
        const int pixel = begins[slot_at(place)].pixel + row_at(place) * s.kW + column_at(place);
        mine[e] = SS_OUTSIDE && !is_there(place, slots, s) ? -1 : pixel;
    }
    __syncthreads();
    write_rows(memory, places, SS_TOPK, SS_TOPK, tile, s);
}

// Adds what has been found in a frame, or in all.
__device__ inline void hand_over(const Found& to, const float* best, const Asker& asker, int first) {
    const int at = (asker.row * SS_TILE_X + asker.column) * SS_ATTENDED + first;
#pragma unroll
    for (int e = 0; e < SS_TOPK && asker.exists; ++e) {
        to.scores[at + e] = returned(best[e]);
        to.places[at + e] = __float_as_int(best[SS_TOPK + e]);
    }
}

extern "C" __global__ void __launch_bounds__(SS_THREADS, SS_BLOCKS)
attend_points(const SS_SCALAR* q, const SS_SCALAR* k, const SS_SCALAR* v, const SS_AROUND* around, const SS_ACC* scales,
              SS_SCALAR* out, SS_ACC* sums, int* places, SS_ACC* weights, SS_PLACE* offsets, int* wild, SS_ACC factor,
              const Sizes s, const Strides strides, const Values of_v, const Around a, int across, int down) {
    extern __shared__ float4 memory[];
    __shared__ Slots slots;
    __shared__ Begin begins[SS_SLOTS];
    char* const pool = reinterpret_cast<char*>(memory);
    float* const scores = reinterpret_cast<float*>(pool + SS_FOUND);
    const Found found = {scores, reinterpret_cast<int*>(scores + SS_EACH)};
    const Attended to = {out, sums, places, weights, offsets};
    const Tile tile = tile_of((int)blockIdx.x, s, across, down);
    const SS_ACC of_head = factor_of(factor, scales, tile.g);
    const auto finish = [&](float* best, const Asker& asker, int first) {
        if (SS_APART) {
            if (!SS_PER_FRAME) __syncthreads();
            hand_over(found, best, asker, first);
            return;
        }
        find_begins(begins, slots, of_v, s);
        if (asker.exists) attend(best, begins, slots, asker, tile, v, of_head, to, of_v, s);
        if (places) write_places(best, reinterpret_cast<int*>(memory), begins, slots, asker, tile, places, s);
    };
    const bool done = search_tile(pool, slots, tile, q, k, around, wild, s, strides, a, finish);
    if (!SS_APART || !done) return;
    const auto locate = [&](int place, int, int) {
        const Region& r = slots.regions[slot_at(place)];
        return pixel_at(slots.frames[slot_at(place)], r.y + row_at(place), r.x + column_at(place), s);
    };
    attend_tile(found, tile, v, of_head, to, of_v, s, locate);
}
