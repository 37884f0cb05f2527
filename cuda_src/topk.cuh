// The SS_TOPK best of a stream of candidates, kept by one warp. They come in the order of their numbers, and of equal
// ranks the smaller number is better, so that what is kept does not depend on the schedule.
//
// Up to 32 * SS_REGISTERS are kept sorted in registers, entry e in register e / 32 of lane e % 32. More are collected
// in a bag of SS_ROOM in shared or global memory: what ranks no better than the last of the best SS_TOPK so far stays
// out, and a bag that is full is sorted and cut to them. Each score is computed once, and each cut makes room for
// many.
#ifndef SS_BEST_CUH
#define SS_BEST_CUH

#include "number.cuh"

#define SS_ALL 0xffffffffu

struct Candidate {
    SS_ACC rank, score;
    int number;
};

__device__ inline Candidate ss_from_lane(const Candidate& c, int lane) {
    return {__shfl_sync(SS_ALL, c.rank, lane), __shfl_sync(SS_ALL, c.score, lane), __shfl_sync(SS_ALL, c.number, lane)};
}

__device__ inline Candidate ss_from_below(const Candidate& c) {
    return {__shfl_up_sync(SS_ALL, c.rank, 1), __shfl_up_sync(SS_ALL, c.score, 1), __shfl_up_sync(SS_ALL, c.number, 1)};
}

#if SS_REGISTERS > 0
struct Best {
    Candidate kept[SS_REGISTERS];
    int count;
    SS_ACC worst;  // rank that a candidate must beat

    __device__ void start(Candidate*) { count = 0, worst = ss_infinity(); }

    __device__ Candidate entry(int e) const {
        Candidate found = kept[0];
        for (int r = 1; r < SS_REGISTERS; ++r)
            if (e / 32 == r) found = kept[r];
        return found;
    }

    // The candidates of a warp, one per lane or none, in the order of the lanes.
    __device__ void offer(const Candidate& mine, bool there, int lane) {
        unsigned offered = __ballot_sync(SS_ALL, there && (count < SS_TOPK || mine.rank < worst));
        while (offered) {
            const int from = __ffs(offered) - 1;
            offered &= offered - 1;
            const Candidate c = ss_from_lane(mine, from);
            if (count < SS_TOPK || c.rank < worst) insert(c, lane);
        }
    }

    __device__ void finish(int) {}

    // All lanes give the same candidate.
    __device__ void insert(const Candidate& c, int lane) {
        int place = 0;
        for (int r = 0; r < SS_REGISTERS; ++r)
            place += __popc(__ballot_sync(SS_ALL, r * 32 + lane < count && kept[r].rank <= c.rank));
        for (int r = SS_REGISTERS - 1; r >= 0; --r) {
            Candidate moved = ss_from_below(kept[r]);
            const Candidate last = r > 0 ? ss_from_lane(kept[r > 0 ? r - 1 : 0], 31) : moved;
            if (lane == 0) moved = last;
            if (r * 32 + lane > place) kept[r] = moved;
            if (r * 32 + lane == place) kept[r] = c;
        }
        if (count < SS_TOPK) ++count;
        const Candidate end = ss_from_lane(entry(SS_TOPK - 1), (SS_TOPK - 1) % 32);
        if (count == SS_TOPK) worst = end.rank;
    }
};
#else
__device__ inline bool ss_better(const Candidate& a, const Candidate& b) {
    return a.rank < b.rank || (a.rank == b.rank && a.number < b.number);
}

// Sorts the first n of a bag: a bitonic sort whose comparisons all point one way, so that what lies behind n is as if
// it were worse than all, and n may be any number.
__device__ inline void ss_sort(Candidate* bag, int n, int lane) {
    for (int run = 1; run < n; run *= 2) {  // pairs of sorted runs become one
        for (int apart = run; apart > 0; apart /= 2) {
            __syncwarp();
            for (int pair = lane;; pair += 32) {
                const int i = pair / apart * 2 * apart + pair % apart;
                const int j = apart == run ? i ^ (2 * run - 1) : i + apart;
                if (i >= n) break;
                if (j >= n || !ss_better(bag[j], bag[i])) continue;
                const Candidate c = bag[i];
                bag[i] = bag[j], bag[j] = c;
            }
        }
    }
    __syncwarp();
}

struct Best {
    Candidate* bag;  // of this warp, SS_ROOM long
    int count;
    bool full;  // of SS_TOPK, and the last of them ranks `worst`
    SS_ACC worst;

    __device__ void start(Candidate* memory) { bag = memory, count = 0, full = false, worst = ss_infinity(); }

    __device__ Candidate entry(int e) const { return bag[e]; }

    __device__ void offer(const Candidate& mine, bool there, int lane) {
        const bool taken = there && (!full || mine.rank < worst);
        const unsigned all = __ballot_sync(SS_ALL, taken);
        if (taken) bag[count + __popc(all & ((1u << lane) - 1))] = mine;
        count += __popc(all);
        if (count > SS_ROOM - 32) finish(lane);
    }

    __device__ void finish(int lane) {
        ss_sort(bag, count, lane);
        if (count < SS_TOPK) return;
        count = SS_TOPK, full = true, worst = bag[SS_TOPK - 1].rank;
    }
};
#endif

#endif
