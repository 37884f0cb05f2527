// Things by the cells that they are in. `order` has the numbers of those of a cell behind one another; `ends` says
// where they end, and `counts` how many there are.
#ifndef SS_CELLS_CUH
#define SS_CELLS_CUH

__device__ inline int begin_of(const int* ends, const int* counts, long long cell) { return ends[cell] - counts[cell]; }

#endif
