#include "machine.h"

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

// ThreadSanitizer is there when Python was started with it, and is told of every fiber then.
extern "C" {
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
}

namespace emu {
namespace {

constexpr unsigned MOST_THREADS = 1024, WARP = 32, MOST_WARPS = MOST_THREADS / WARP, MOST_MASKS = 8;
constexpr size_t STATIC_LIMIT = 48 << 10, SHARED_LIMIT = 227 << 10;  // of a block on sm_90
constexpr size_t PAGE = 4096, STACK = 128 << 10;
constexpr size_t BELOW_STACK = 1 << 20;  // that is not there: a frame that is too large begins far below
constexpr int UNWRITTEN = 0xff;  // as floats NaN, as integers -1

enum class State { ready, at_barrier, at_collective, done };

// A stack and, under ThreadSanitizer, a thread of its own to be blamed. No stack is used by two of its threads.
struct Context {
    char* stack;
    void* tsan;
};

struct Fiber : Thread {
    State state;
    Place place;    // where it waits
    unsigned mask;  // of the collective it waits in
    void* stack_pointer;
    Context context;
};

// The lanes of a warp that use one mask, and their exchange. Two sets of values: a lane may be one collective ahead.
struct Group {
    unsigned mask, generation;
    unsigned arrived, leaving;  // lanes that wait, and lanes that have yet to fetch the values of the last exchange
    Place place;
    const char* what;
    Deposits deposits[2];
};

struct Warp {
    unsigned live, ready;
    unsigned groups_used;
    Group groups[MOST_MASKS];
};

// The block that runs
Fiber fibers[MOST_THREADS];
Warp warps[MOST_WARPS];
unsigned thread_count, warp_count, live_threads;
uint64_t epoch;  // counts blocks, over all launches
Shared* shared_variables;
size_t static_bytes;
Shared dynamic_variable;

// Its barrier. Votes as values of a collective: a thread may be one barrier ahead.
struct {
    unsigned arrived, generation;
    Place place;
    struct {
        bool any, all;
        unsigned count;
    } votes[2];
} block_barrier;

// The launch
const Launch* launch;
Failure failure;
bool failed;
volatile sig_atomic_t out_of_time;
void* main_stack_pointer;
uint64_t random_state;
unsigned warp_order[MOST_WARPS], warp_turn;

// Contexts, which threads take in turn
Context contexts[2 * MOST_THREADS + 1];
unsigned context_count;

Fiber* current() { return static_cast<Fiber*>(const_cast<Thread*>(running)); }

unsigned random_bits() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<unsigned>(random_state >> 32);
}

// ---- ThreadSanitizer: who happens before whom ----

bool under_tsan() { return __tsan_create_fiber != nullptr; }

void* main_tsan;
// Prepares shared memory. It never learns what threads did, so that it orders no block after another.
void* keeper_tsan;
constexpr unsigned NO_ORDER = 1;  // a flag of __tsan_switch_to_fiber

enum Key : unsigned { BARRIER = 0, SHARED = 2, COLLECTIVE = 32 };
constexpr unsigned KEYS_OF_BLOCK = COLLECTIVE + 2 * MOST_WARPS * MOST_MASKS;
uint64_t key_pool[64 * KEYS_OF_BLOCK], launch_key, finish_key;

// An address that stands for something to synchronise on, another one for every block.
void* key(unsigned number) { return key_pool + epoch % 64 * KEYS_OF_BLOCK + number; }

void release(void* key) {
    if (under_tsan()) __tsan_release(key);
}

void acquire(void* key) {
    if (under_tsan()) __tsan_acquire(key);
}

void become(void* tsan) {
    if (under_tsan()) __tsan_switch_to_fiber(tsan, NO_ORDER);
}

// ---- Switching ----

// Saves this stack and goes on with the other. It ends by a jump, as the processor foresees that better than a return.
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.p2align 4
.type emu_switch,@function
emu_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp,(%rdi)
    mov %rsi,%rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    pop %rcx
    jmp *%rcx
.size emu_switch,.-emu_switch
)");

void shuffle_warps() {
    for (unsigned i = warp_count; i > 1; --i) {
        const unsigned j = random_bits() % i, last = warp_order[i - 1];
        warp_order[i - 1] = warp_order[j];
        warp_order[j] = last;
    }
}

// The thread that runs next, or null when none can. Seed 0: warp by warp, each as far as it gets. Else some warps run
// far ahead of others for a while, as only then reads of what was overwritten too early show.
Fiber* next_ready() {
    if (failed || out_of_time) return nullptr;
    const bool in_turn = launch->seed == 0;
    if (!in_turn && random_bits() % 128 == 0) shuffle_warps();
    for (unsigned i = 0; i < warp_count; ++i) {
        const unsigned w = in_turn ? warp_turn : warp_order[i], ready = warps[w].ready;
        if (!ready) {
            warp_turn = warp_turn + 1 == warp_count ? 0 : warp_turn + 1;
            continue;
        }
        const unsigned skip = in_turn ? 0 : random_bits() % WARP;
        const unsigned rotated = skip ? ready >> skip | ready << (WARP - skip) : ready;
        const unsigned lane = (__builtin_ctz(rotated) + skip) % WARP;
        warps[w].ready &= ~(1u << lane);
        Fiber* fiber = &fibers[w * WARP + lane];
        fiber->state = State::ready;
        return fiber;
    }
    return nullptr;
}

// From the running thread, or from the machine, to the next thread, or back to the machine.
void leave() {
    Fiber *from = current(), *to = next_ready();
    if (to == from) return;
    running = to;
    become(to ? to->context.tsan : main_tsan);
    emu_switch(from ? &from->stack_pointer : &main_stack_pointer, to ? to->stack_pointer : main_stack_pointer);
}

// Ends an exchange: all lanes that it waits for have arrived.
void complete(Warp& warp, Group& group) {
    group.deposits[group.generation++ & 1].lanes = group.arrived;
    group.leaving = group.arrived;
    warp.ready |= group.arrived;
    group.arrived = 0;
}

// Where every thread begins and ends.
void thread_main() {
    acquire(&launch_key);
    launch->thread();
    Fiber* self = current();
    release(&finish_key);
    self->state = State::done;
    --live_threads;
    Warp& warp = warps[self->number / WARP];
    warp.live &= ~(1u << self->number % WARP);
    const unsigned waiting = block_barrier.arrived;
    const Place place = block_barrier.place;
    if (waiting) fail("returned while %u threads wait at __syncthreads in %s:%d", waiting, place.file, place.line);
    for (unsigned i = 0; i < warp.groups_used; ++i) {  // who waited for this lane only goes on
        Group& group = warp.groups[i];
        if (group.arrived && group.arrived == (group.mask & warp.live)) complete(warp, group);
    }
    leave();
    __builtin_trap();
}

void* stack_top(const Context& context) { return context.stack + STACK; }

void prepare(Fiber& fiber, const Context& context) {
    fiber.context = context;
    fiber.state = State::ready;
    // Stacks are a power of two apart: without different beginnings they would share a few sets of the cache.
    void** top = reinterpret_cast<void**>(static_cast<char*>(stack_top(context)) - 64 - fiber.number % 61 * 320);
    *top = reinterpret_cast<void*>(thread_main);  // where emu_switch jumps, the stack aligned as after a call
    fiber.stack_pointer = top - 6;
}

// ---- Failing ----

int name_thread() {
    if (!running) return 0;
    return snprintf(failure.message, sizeof failure.message, "block %u, thread %u: ", block_index.x, running->index.x);
}

void note(int written, const char* format, va_list arguments) {
    vsnprintf(failure.message + written, sizeof failure.message - written, format, arguments);
}

constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGILL};
struct sigaction actions_before[3], action_before_timer;
pid_t launching_thread;  // of the process: signals of others are not ours
bool fault_unaddressed;

pid_t this_thread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

// Whether the thread that a signal reached runs a kernel now.
bool kernel_interrupted() { return running && launching_thread == this_thread(); }

bool in_kernel(unsigned long long instruction) {
    return instruction >= reinterpret_cast<uintptr_t>(launch->text_begin) &&
           instruction < reinterpret_cast<uintptr_t>(launch->text_end);
}

// Whether what was touched lies below the stack of this thread.
bool stack_overflow(const char* address) {
    const char* low = current()->context.stack;
    return address >= low - BELOW_STACK && address < low;
}

// Says more of the address where it is one of the machine's own; Python knows the arguments.
void report_fault() {
    const char* address = static_cast<const char*>(failure.address);
    const char* deed = failure.writes ? "write" : "read";
    if (fault_unaddressed) fail("misaligned vector access, or an address that cannot be");
    if (stack_overflow(address)) fail("a thread's local variables take more than %zu KB", STACK >> 10);
    for (const Shared* v = shared_variables; v; v = v->next) {
        if (address < v->mapped || address >= v->mapped + (v->pages + 2) * PAGE) continue;
        fail("%s outside of the shared array %s, byte %td of %zu", deed, v->name, address - v->data, v->size);
    }
    fail("%s outside of any array at %p", deed, static_cast<const void*>(address));
}

// A check of the compiler's met one of its traps, which do not say what they found.
void report_trap() {
    failure.trapped = 1;
    fail("undefined behaviour");
}

void report_time() { fail("no end after %llu ms: an endless loop?", launch->limit_ms); }

// Has the interrupted thread call `report` next. Its own stack may be what is full: it starts anew at the top.
void divert(ucontext_t* context, void (*report)()) {
    auto& registers = context->uc_mcontext.gregs;
    const unsigned long long instruction = registers[REG_RIP];
    if (in_kernel(instruction)) {
        failure.instruction = instruction - reinterpret_cast<uintptr_t>(launch->text_begin);
    }
    registers[REG_RSP] = reinterpret_cast<greg_t>(stack_top(current()->context)) - 8;
    registers[REG_RIP] = reinterpret_cast<greg_t>(report);
}

void on_fault(int signal, siginfo_t* info, void* context) {
    if (!kernel_interrupted()) {  // not of a kernel: once more, for whom it concerns
        for (int i = 0; i < 3; ++i) {
            if (FAULTS[i] == signal) sigaction(signal, &actions_before[i], nullptr);
        }
        return;
    }
    auto* user = static_cast<ucontext_t*>(context);
    if (signal == SIGILL) return divert(user, report_trap);
    failure.address = info->si_addr;
    failure.writes = user->uc_mcontext.gregs[REG_ERR] >> 1 & 1;
    fault_unaddressed = info->si_code == SI_KERNEL;
    divert(user, report_fault);
}

// A loop with barriers is left at the next one. One without is left at once, if the kernel itself is what runs, or
// else when the timer comes again.
void on_timer(int, siginfo_t*, void* context) {
    out_of_time = true;
    auto* user = static_cast<ucontext_t*>(context);
    if (kernel_interrupted() && in_kernel(user->uc_mcontext.gregs[REG_RIP])) divert(user, report_time);
}

// Signal handlers and a timer for the time of a launch.
class Watch {
public:
    explicit Watch(unsigned long long limit_ms) {
        launching_thread = this_thread();
        out_of_time = false;
        static char stack[1 << 16];
        stack_t alternative{};
        alternative.ss_sp = stack;
        alternative.ss_size = sizeof stack;
        sigaltstack(&alternative, &stack_before);
        struct sigaction action{};
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        action.sa_sigaction = on_fault;
        for (int i = 0; i < 3; ++i) sigaction(FAULTS[i], &action, &actions_before[i]);
        action.sa_sigaction = on_timer;
        action.sa_flags |= SA_RESTART;
        sigaction(SIGVTALRM, &action, &action_before_timer);
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGVTALRM;
        event._sigev_un._tid = launching_thread;
        timed = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
        const auto seconds = static_cast<time_t>(limit_ms / 1000);
        const itimerspec when{{0, 20000000}, {seconds, static_cast<long>(limit_ms % 1000 * 1000000)}};
        if (timed) timer_settime(timer, 0, &when, nullptr);
    }

    ~Watch() {
        if (timed) timer_delete(timer);
        sigaction(SIGVTALRM, &action_before_timer, nullptr);
        for (int i = 0; i < 3; ++i) sigaction(FAULTS[i], &actions_before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
        launching_thread = 0;
    }

private:
    stack_t stack_before;
    timer_t timer;
    bool timed;
};

// ---- Shared memory ----

size_t pages_for(size_t size) { return size ? (size + PAGE - 1) / PAGE : 1; }

// Room for a variable: whole pages between two that are not there.
void map_shared(Shared& variable, size_t size) {
    if (variable.mapped) munmap(variable.mapped, (variable.pages + 2) * PAGE);
    variable.pages = pages_for(size);
    const size_t bytes = (variable.pages + 2) * PAGE;
    variable.mapped = static_cast<char*>(mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(variable.mapped + PAGE, variable.pages * PAGE, PROT_READ | PROT_WRITE);
}

// Places a variable for a block, in pages that hold what nobody wrote. No block comes before another, but they use the
// same addresses: a new mapping makes ThreadSanitizer forget who used them, and a thread of its own makes it.
void place_shared(Shared& variable, const char* name, size_t size, size_t alignment) {
    become(keeper_tsan);
    if (variable.pages != pages_for(size)) map_shared(variable, size);
    char* pages = variable.mapped + PAGE;
    const size_t bytes = variable.pages * PAGE;
    if (under_tsan()) mmap(pages, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(pages, UNWRITTEN, bytes);
    release(key(SHARED));
    become(current()->context.tsan);
    variable.data = launch->guard_at_end ? pages + (bytes - size) / alignment * alignment : pages;
    variable.name = name;
    variable.size = size;
    variable.epoch = epoch;
    variable.next = shared_variables;
    shared_variables = &variable;
}

void* shared(Shared& variable, const char* name, size_t size, size_t alignment) {
    if (variable.epoch != epoch) place_shared(variable, name, size, alignment);
    acquire(key(SHARED));
    return variable.data;
}

// The first byte in a range that somebody wrote, or null.
const char* find_written(const char* begin, const char* end) {
    unsigned char all = UNWRITTEN;
    for (const char* p = begin; p < end; ++p) all &= static_cast<unsigned char>(*p);
    if (all == UNWRITTEN) return nullptr;
    while (static_cast<unsigned char>(*begin) == UNWRITTEN) ++begin;
    return begin;
}

// Writes that missed a variable and met its own pages.
void check_shared() {
    for (const Shared* v = shared_variables; v; v = v->next) {
        const char* pages = v->mapped + PAGE;
        const char* written = find_written(pages, v->data);
        if (!written) written = find_written(v->data + v->size, pages + v->pages * PAGE);
        if (!written) continue;
        fail("block %u: write outside of the shared array %s, byte %td of %zu", block_index.x, v->name,
             written - v->data, v->size);
    }
}

// ---- Blocks ----

// Says where the threads wait that can not go on, by line.
void describe_stuck() {
    failed = true;
    char* text = failure.message;
    const size_t room = sizeof failure.message;
    size_t written = snprintf(text, room, "block %u is stuck:", block_index.x);
    int line = 0;
    for (int lines = 0; lines < 4; ++lines) {
        const Fiber* first = nullptr;
        unsigned count = 0;
        for (unsigned i = 0; i < thread_count; ++i) {
            const Fiber& f = fibers[i];
            if (f.state == State::done || f.place.line <= line) continue;
            if (!first || f.place.line < first->place.line) first = &f, count = 0;
            count += f.place.line == first->place.line;
        }
        if (!first) return;
        line = first->place.line;
        written += snprintf(text + written, room - written, " %u threads at %.80s:%d ", count, first->place.file, line);
        if (first->state == State::at_barrier) {
            written += snprintf(text + written, room - written, "(__syncthreads)");
        } else {
            written += snprintf(text + written, room - written, "(warp, mask %08x)", first->mask);
        }
    }
}

void run_block(unsigned index) {
    block_index = {index, 0, 0};
    ++epoch;
    live_threads = thread_count;
    warp_turn = 0;
    block_barrier.arrived = 0;
    shared_variables = nullptr;
    static_bytes = 0;
    for (unsigned i = 0; i < warp_count; ++i) {
        const unsigned lanes = thread_count - i * WARP;
        warp_order[i] = i;
        warps[i].groups_used = 0;
        warps[i].live = warps[i].ready = lanes >= WARP ? ~0u : (1u << lanes) - 1;
    }
    // Contexts in turn: a thread of one block is not ordered before the same thread of the next.
    const unsigned first = under_tsan() ? epoch % context_count * thread_count : 0;
    for (unsigned i = 0; i < thread_count; ++i) prepare(fibers[i], contexts[(first + i) % context_count]);
    leave();
    running = nullptr;
    if (failed) return;
    if (out_of_time) report_time();
    else if (live_threads) describe_stuck();
    else check_shared();
}

// Enough contexts for a block. ThreadSanitizer: for two and one more, which shares none between neighbours.
void create_contexts() {
    const unsigned wanted = under_tsan() ? 2 * thread_count + 1 : thread_count;
    for (unsigned i = 0; i < wanted; ++i) {
        Context& context = contexts[i];
        if (!context.stack) {
            const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            void* const mapped = mmap(nullptr, BELOW_STACK + STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
            mprotect(mapped, BELOW_STACK, PROT_NONE);
            context.stack = static_cast<char*>(mapped) + BELOW_STACK;
        }
        if (under_tsan() && !context.tsan) context.tsan = __tsan_create_fiber(0);
    }
    context_count = wanted;
    if (under_tsan()) {
        main_tsan = __tsan_get_current_fiber();
        if (!keeper_tsan) keeper_tsan = __tsan_create_fiber(0);
    }
}

// What threads did has happened when the launch returns. Threads that were left in the middle are forgotten.
void finish_contexts() {
    if (!under_tsan()) return;
    for (unsigned i = 0; failed && i < context_count; ++i) {
        become(contexts[i].tsan);
        release(&finish_key);
        become(main_tsan);
        __tsan_destroy_fiber(contexts[i].tsan);
        contexts[i].tsan = nullptr;
    }
    acquire(&finish_key);
}

unsigned greatest_common_divisor(unsigned a, unsigned b) { return b ? greatest_common_divisor(b, a % b) : a; }

// Any order of blocks must do: in turn, or by a stride that meets each once. Of a grid that is too large, the last ones.
void run_blocks() {
    const unsigned blocks = launch->last && launch->last < launch->blocks ? launch->last : launch->blocks;
    const unsigned first = launch->blocks - blocks;
    unsigned stride = 1;
    if (launch->seed != 0 && blocks > 2) {
        stride = random_bits() % blocks | 1;
        while (greatest_common_divisor(stride, blocks) != 1) stride += 2;
    }
    for (uint64_t i = 0; i < blocks && !failed; ++i) run_block(first + static_cast<unsigned>(i * stride % blocks));
}

// What a driver refuses.
void check_launch() {
    if (launch->blocks == 0 || launch->blocks > 2147483647u) fail("%u blocks, expected 1 to 2**31 - 1", launch->blocks);
    if (thread_count == 0 || thread_count > MOST_THREADS) fail("%u threads a block, expected 1 to 1024", thread_count);
    if (launch->shared_bytes > SHARED_LIMIT) {
        fail("%llu bytes of dynamic shared memory, a block has %zu", launch->shared_bytes, SHARED_LIMIT);
    }
}

}  // namespace

const Thread* running;
uint3 block_index, block_size, grid_size;
size_t dynamic_bytes;

const Failure* run_grid(const Launch& wanted) {
    launch = &wanted;
    thread_count = wanted.threads;
    warp_count = (thread_count + WARP - 1) / WARP;
    block_size = {thread_count, 1, 1};
    grid_size = {wanted.blocks, 1, 1};
    dynamic_bytes = wanted.shared_bytes;
    random_state = wanted.seed * 0x9E3779B97F4A7C15ull + 1;
    running = nullptr;
    failed = false;
    failure = {};
    check_launch();
    if (failed) return &failure;
    for (unsigned i = 0; i < thread_count; ++i) {
        fibers[i].index = {i, 0, 0};
        fibers[i].number = i;
    }
    create_contexts();
    release(&launch_key);
    {
        Watch watch(wanted.limit_ms);
        run_blocks();
    }
    running = nullptr;
    finish_contexts();
    return failed ? &failure : nullptr;
}

// Ends the launch with a message; of several the first counts. Called by a thread it does not return.
void fail(const char* format, ...) {
    if (!failed) {
        va_list arguments;
        va_start(arguments, format);
        note(name_thread(), format, arguments);
        va_end(arguments);
    }
    failed = true;
    if (running) leave();
}

// The launch ends at the next switch, as ThreadSanitizer is in the middle of the thread now.
void race() {
    failed = true;
    snprintf(failure.message, sizeof failure.message, "data race");
}

// __syncthreads and its votes.
unsigned barrier(Place place, Vote vote, int predicate) {
    auto& b = block_barrier;
    if (b.arrived && b.place.line != place.line) {
        fail("__syncthreads at %s:%d while other threads wait at the one in %s:%d", place.file, place.line,
             b.place.file, b.place.line);
    }
    if (live_threads != thread_count) {
        fail("__syncthreads at %s:%d after %u threads of the block have returned", place.file, place.line,
             thread_count - live_threads);
    }
    const unsigned turn = b.generation & 1;
    auto& votes = b.votes[turn];
    if (!b.arrived) {
        b.place = place;
        votes = {false, true, 0};
    }
    votes.any |= predicate != 0;
    votes.all &= predicate != 0;
    votes.count += predicate != 0;
    release(key(BARRIER + turn));
    Fiber* self = current();
    self->place = place;
    self->state = State::at_barrier;
    if (++b.arrived == thread_count) {
        ++b.generation;
        b.arrived = 0;
        for (unsigned i = 0; i < warp_count; ++i) warps[i].ready = warps[i].live;
    }
    leave();
    acquire(key(BARRIER + turn));
    return vote == Vote::any ? votes.any : vote == Vote::all ? votes.all : votes.count;
}

namespace {

// The group of lanes that uses `mask`, or one that nobody is in.
Group& find_group(Warp& warp, unsigned mask, const char* what, Place place) {
    Group* found = nullptr;
    for (unsigned i = 0; i < warp.groups_used; ++i) {
        Group& group = warp.groups[i];
        if (group.mask == mask) return group;
        if (!group.arrived && !group.leaving) found = &group;
    }
    if (warp.groups_used < MOST_MASKS) found = &warp.groups[warp.groups_used++];
    if (!found) fail("%s at %s:%d: more than %u masks in use", what, place.file, place.line, MOST_MASKS);
    found->mask = mask;
    found->arrived = found->leaving = found->generation = 0;
    return *found;
}

}  // namespace

// Leaves `value`, waits for the live lanes of `mask` and gives what all of them left.
const Deposits& collect(unsigned mask, const char* what, Place place, Bits value, bool orders_memory) {
    Fiber* self = current();
    const unsigned w = self->number / WARP, lane = self->number % WARP;
    Warp& warp = warps[w];
    if (!(mask >> lane & 1)) {
        fail("%s at %s:%d: the calling lane is not in its mask %08x", what, place.file, place.line, mask);
    }
    Group& group = find_group(warp, mask, what, place);
    if (group.arrived && (group.place.line != place.line || (group.what != what && strcmp(group.what, what) != 0))) {
        fail("%s at %s:%d while lanes %08x wait in %s at %s:%d", what, place.file, place.line, group.arrived,
             group.what, group.place.file, group.place.line);
    }
    const unsigned turn = group.generation & 1;
    Deposits& deposits = group.deposits[turn];
    group.place = place;
    group.what = what;
    group.arrived |= 1u << lane;
    deposits.value[lane] = value;
    self->place = place;
    self->mask = mask;
    self->state = State::at_collective;
    const unsigned number = COLLECTIVE + 2 * (w * MOST_MASKS + static_cast<unsigned>(&group - warp.groups)) + turn;
    if (orders_memory) release(key(number));
    if (group.arrived == (mask & warp.live)) complete(warp, group);
    leave();
    group.leaving &= ~(1u << lane);
    if (orders_memory) acquire(key(number));
    return deposits;
}

unsigned live_lanes() { return warps[running->number / WARP].live; }

void* static_shared(Shared& variable, const char* name, size_t size, size_t alignment) {
    if (variable.epoch != epoch) {
        static_bytes += size;
        if (static_bytes > STATIC_LIMIT) fail("%zu bytes of static shared memory, the limit is 48 KB", static_bytes);
        if (static_bytes + dynamic_bytes > SHARED_LIMIT) {
            fail("%zu static and %zu dynamic bytes of shared memory, a block has %zu", static_bytes, dynamic_bytes,
                 SHARED_LIMIT);
        }
    }
    return shared(variable, name, size, alignment);
}

// All `extern __shared__` arrays are the same memory, aligned for vectors.
void* dynamic_shared() { return shared(dynamic_variable, "(dynamic)", dynamic_bytes, 16); }

}  // namespace emu

// ---- ThreadSanitizer ----

// Called after every report. One is enough: the others would be the same race, of other threads.
extern "C" void __tsan_on_report(void*) { emu::race(); }

// ---- UndefinedBehaviorSanitizer ----

// The functions that instrumented code calls, in place of those of libubsan, which would end the process. What they are
// told begins with the place in the source, whatever the fault; only the kind of access tells more.
namespace {

struct UndefinedPlace {
    const char* file;
    unsigned line, column;
};

// A type, as the compiler describes it.
struct UndefinedType {
    short kind, info;
    char name[1];
};

struct Access {
    UndefinedPlace place;
    const UndefinedType* type;
    unsigned char log_alignment, kind;
};

void undefined(const void* data, const char* what) {
    const auto* place = static_cast<const UndefinedPlace*>(data);
    emu::fail("%s at %s:%u", what, place->file, place->line);
}

}  // namespace

#define EMU_UNDEFINED(NAME, WHAT) \
    extern "C" void __ubsan_handle_##NAME##_abort(void* data) { undefined(data, WHAT); }
EMU_UNDEFINED(add_overflow, "signed integer overflow")
EMU_UNDEFINED(sub_overflow, "signed integer overflow")
EMU_UNDEFINED(mul_overflow, "signed integer overflow")
EMU_UNDEFINED(negate_overflow, "signed integer overflow")
EMU_UNDEFINED(divrem_overflow, "integer division by zero, or overflow of one")
EMU_UNDEFINED(shift_out_of_bounds, "shift by too much, or of a negative number")
EMU_UNDEFINED(out_of_bounds, "index out of bounds")
EMU_UNDEFINED(vla_bound_not_positive, "array without elements")
EMU_UNDEFINED(float_cast_overflow, "float that the integer can not hold")
EMU_UNDEFINED(load_invalid_value, "value that the type does not have")
EMU_UNDEFINED(nonnull_arg, "null pointer")
EMU_UNDEFINED(invalid_builtin, "builtin of zero")

extern "C" void __ubsan_handle_builtin_unreachable(void* data) { undefined(data, "code that can not be reached"); }
extern "C" void __ubsan_handle_missing_return(void* data) { undefined(data, "no value returned"); }

extern "C" void __ubsan_handle_type_mismatch_v1_abort(void* data, uintptr_t address) {
    const auto* access = static_cast<const Access*>(data);
    const unsigned alignment = 1u << access->log_alignment;
    const char* type = access->type->name;
    const auto& place = access->place;
    if (!address) {
        emu::fail("null pointer to %s used at %s:%u", type, place.file, place.line);
    } else if (address % alignment) {
        emu::fail("misaligned address of %s, which needs %u bytes, at %s:%u", type, alignment, place.file, place.line);
    } else {
        emu::fail("access outside of an object as %s at %s:%u", type, place.file, place.line);
    }
}
