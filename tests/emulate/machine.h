// The machine that stands in for a GPU: one fiber for each CUDA thread, one block at a time, on one CPU thread.
//
// This is its face towards kernels. machine.cpp is compiled once, without sanitizers, and serves the kernels of every
// mode, which therefore see the memory of the kernel only: no state of the machine is in any sanitizer's sight.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emu {

// Where in a kernel's source a collective is called: as a default argument, the place of the caller.
struct Place {
    const char* file;
    int line;

    static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

// What Python asks for.
struct Launch {
    unsigned blocks, threads;
    unsigned last;                    // of the blocks are run, and the others left out; 0: all of them
    unsigned long long shared_bytes;  // dynamic shared memory
    unsigned long long seed;          // of the order in which blocks, warps and lanes run; 0: in turn
    unsigned long long limit_ms;      // of CPU time
    int guard_at_end;                 // shared arrays end at a page that is not there, or else begin behind one
    const char *text_begin, *text_end;  // the kernel's code, for whom faults in it are reported
    void (*thread)();                   // the kernel with its arguments
};

// What went wrong. Of a fault also the instruction, from the start of the library, and the address.
struct Failure {
    char message[1024];
    unsigned long long instruction;
    const void* address;
    int writes, trapped;
};

struct Thread {
    uint3 index;
    unsigned number;
};

// Values of a warp's lanes, as they were put in by one collective.
struct Bits {
    uint64_t words[2];
};

struct Deposits {
    Bits value[32];
    unsigned lanes;  // that took part
};

// One variable in shared memory.
struct Shared {
    const char* name;
    char *mapped, *data;
    size_t size, pages;
    uint64_t epoch;  // of the block that used it last
    Shared* next;
};

extern const Thread* running;
extern uint3 block_index, block_size, grid_size;
extern size_t dynamic_bytes;

enum class Vote { none, any, all, count };

const Failure* run_grid(const Launch& launch);
[[gnu::format(printf, 1, 2)]] void fail(const char* format, ...);
void race();
unsigned barrier(Place place, Vote vote, int predicate);
const Deposits& collect(unsigned mask, const char* what, Place place, Bits value, bool orders_memory);
unsigned live_lanes();
void* static_shared(Shared& variable, const char* name, size_t size, size_t alignment);
void* dynamic_shared();

}  // namespace emu
