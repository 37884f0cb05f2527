// The K best of a stream of candidates, kept sorted by one warp. Candidates come in the order of their numbers, and one
// that ties with a kept one is placed behind it: equal ones stay in order, whatever the schedule.
//
// Up to 32 * SS_REGISTERS are kept in registers, entry e in register e / 32 of lane e % 32; more in memory.
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
struct Best {
    Candidate* kept;  // of this warp, SS_TOPK long
    int count;
    SS_ACC worst;

    __device__ void start(Candidate* memory) { kept = memory, count = 0, worst = ss_infinity(); }

    __device__ Candidate entry(int e) const { return kept[e]; }

    __device__ void insert(const Candidate& c, int lane) {
        int low = 0, high = count;  // the first entry that is worse lies between
        while (low < high) {
            const int middle = (low + high) / 2;
            if (kept[middle].rank <= c.rank) low = middle + 1;
            else high = middle;
        }
        __syncwarp();  // all lanes have read what one will write
        const int end = count < SS_TOPK ? count : SS_TOPK - 1;  // entries from low to end - 1 move up by one
        for (int top = end; top > low; top -= 32) {
            const int e = top - lane;
            Candidate moved;
            if (e > low) moved = kept[e - 1];
            __syncwarp();
            if (e > low) kept[e] = moved;
            __syncwarp();
        }
        if (lane == 0) kept[low] = c;
        __syncwarp();
        if (count < SS_TOPK) ++count;
        if (count == SS_TOPK) worst = kept[SS_TOPK - 1].rank;
        __syncwarp();
    }
};
#endif

// The candidates of a warp, one per lane or none, in the order of the lanes.
__device__ inline void ss_offer(Best& best, const Candidate& mine, bool there, int lane) {
    unsigned offered = __ballot_sync(SS_ALL, there && (best.count < SS_TOPK || mine.rank < best.worst));
    while (offered) {
        const int from = __ffs(offered) - 1;
        offered &= offered - 1;
        const Candidate c = ss_from_lane(mine, from);
        if (best.count < SS_TOPK || c.rank < best.worst) best.insert(c, lane);
    }
}

#endif
