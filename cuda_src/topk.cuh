// The top-k of a stream of candidates: the SS_TOPK of smallest rank, kept by one warp.
//
// Each lane adds one candidate at a time. They come in the order of their numbers, and of equal ranks the smaller
// number is better, so the result does not depend on the order in which warps run. There are two forms:
//
// - Few (SS_REGISTERS > 0, up to 32 * SS_REGISTERS): a sorted list in registers, entry e in register e / 32 of lane
//   e % 32. Candidates are inserted one by one, and worse ones move by one entry.
// - Many: a buffer in shared or global memory with room for SS_ROOM, more than SS_TOPK. Candidates are written behind
//   each other; a full buffer is sorted and cut to the best SS_TOPK. From then on only candidates better than
//   the last of these are added, so that it is seldom full again.
#ifndef SS_TOPK_CUH
#define SS_TOPK_CUH

#include "number.cuh"

#define SS_ALL 0xffffffffu  // lanes of a warp

struct Candidate {
    SS_ACC rank, score;
    int number;
};

#if SS_REGISTERS > 0
__device__ inline Candidate from_lane(const Candidate& c, int lane) {
    return {__shfl_sync(SS_ALL, c.rank, lane), __shfl_sync(SS_ALL, c.score, lane), __shfl_sync(SS_ALL, c.number, lane)};
}

__device__ inline Candidate from_lane_below(const Candidate& c) {
    return {__shfl_up_sync(SS_ALL, c.rank, 1), __shfl_up_sync(SS_ALL, c.score, 1), __shfl_up_sync(SS_ALL, c.number, 1)};
}

struct TopK {
    Candidate kept[SS_REGISTERS];
    int count;
    SS_ACC worst;  // rank that a candidate must beat

    __device__ void start(Candidate*) { count = 0, worst = infinity(); }

    // Begins with candidates in order: those from number 32 * r on, one per lane or none.
    __device__ void take(const Candidate& mine, bool there, int r, int) {
        kept[r] = mine;
        count += __popc(__ballot_sync(SS_ALL, there));
        const Candidate end = from_lane(entry(SS_TOPK - 1), (SS_TOPK - 1) % 32);
        if (count == SS_TOPK) worst = end.rank;
    }

    __device__ Candidate entry(int e) const {
        Candidate found = kept[0];
        for (int r = 1; r < SS_REGISTERS; ++r)
            if (e / 32 == r) found = kept[r];
        return found;
    }

    // The candidates of a warp, one per lane or none, in the order of the lanes.
    __device__ void add(const Candidate& mine, bool there, int lane) {
        unsigned waiting = __ballot_sync(SS_ALL, there && (count < SS_TOPK || mine.rank < worst));
        while (waiting) {
            const int from = __ffs(waiting) - 1;
            waiting &= waiting - 1;
            const Candidate c = from_lane(mine, from);
            if (count < SS_TOPK || c.rank < worst) insert(c, lane);
        }
    }

    __device__ void sort(int) {}  // it always is

    // All lanes pass the same candidate.
    __device__ void insert(const Candidate& c, int lane) {
        int place = 0;
        for (int r = 0; r < SS_REGISTERS; ++r)
            place += __popc(__ballot_sync(SS_ALL, r * 32 + lane < count && kept[r].rank <= c.rank));
        for (int r = SS_REGISTERS - 1; r >= 0; --r) {
            Candidate moved = from_lane_below(kept[r]);
            const Candidate last = r > 0 ? from_lane(kept[r > 0 ? r - 1 : 0], 31) : moved;
            if (lane == 0) moved = last;
            if (r * 32 + lane > place) kept[r] = moved;
            if (r * 32 + lane == place) kept[r] = c;
        }
        if (count < SS_TOPK) ++count;
        const Candidate end = from_lane(entry(SS_TOPK - 1), (SS_TOPK - 1) % 32);
        if (count == SS_TOPK) worst = end.rank;
    }
};
#else
__device__ inline bool better(const Candidate& a, const Candidate& b) {
    return a.rank < b.rank || (a.rank == b.rank && a.number < b.number);
}

// Sorts the first n of a buffer by a bitonic sort whose comparisons all point one way: entries from n on would stay
// there if they were worse than all others, so n need not be a power of two.
__device__ inline void sort_buffer(Candidate* buffer, int n, int lane) {
    for (int run = 1; run < n; run *= 2) {  // pairs of sorted runs become one
        for (int apart = run; apart > 0; apart /= 2) {
            __syncwarp();
            for (int pair = lane;; pair += 32) {
                const int i = pair / apart * 2 * apart + pair % apart;
                const int j = apart == run ? i ^ (2 * run - 1) : i + apart;
                if (i >= n) break;
                if (j >= n || !better(buffer[j], buffer[i])) continue;
                const Candidate c = buffer[i];
                buffer[i] = buffer[j], buffer[j] = c;
            }
        }
    }
    __syncwarp();
}

struct TopK {
    Candidate* buffer;  // of this warp, SS_ROOM long
    int count;
    bool full;  // it has been cut to SS_TOPK, of which the last has rank `worst`
    SS_ACC worst;

    __device__ void start(Candidate* mine) { buffer = mine, count = 0, full = false, worst = infinity(); }

    __device__ Candidate entry(int e) const { return buffer[e]; }

    __device__ void take(const Candidate& mine, bool there, int, int lane) { add(mine, there, lane); }

    // The candidates of a warp, one per lane or none, in the order of the lanes.
    __device__ void add(const Candidate& mine, bool there, int lane) {
        const bool added = there && (!full || mine.rank < worst);
        const unsigned all = __ballot_sync(SS_ALL, added);
        if (added) buffer[count + __popc(all & ((1u << lane) - 1))] = mine;
        count += __popc(all);
        if (count > SS_ROOM - 32) sort(lane);
    }

    // Sort, and cut to the best SS_TOPK.
    __device__ void sort(int lane) {
        sort_buffer(buffer, count, lane);
        if (count < SS_TOPK) return;
        count = SS_TOPK, full = true, worst = buffer[SS_TOPK - 1].rank;
    }
};
#endif

#endif
