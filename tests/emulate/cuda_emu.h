// CUDA's names for kernels that g++ compiles, on top of the machine.
//
// What NVRTC does not know, such as INFINITY, is not known here either. Conversions do what PTX does where C++ says
// nothing. Every collective knows the line that called it.
#pragma once
#include <string.h>

#include <cstdio>
#include <type_traits>
#include <utility>

#include "machine.h"

#undef NULL
#define NULL 0  // without a header

// ---- Words of the language ----

#define __CUDA_ARCH__ 900
#define SS_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define threadIdx (emu::running->index)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)
#define warpSize 32

// ---- Vectors ----

#define EMU_VECTORS(T, NAME, ALIGN2, ALIGN4) \
    struct alignas(ALIGN2) NAME##2 { T x, y; }; \
    struct NAME##3 { T x, y, z; }; \
    struct alignas(ALIGN4) NAME##4 { T x, y, z, w; }; \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; } \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; } \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(long long, longlong, 16, 16)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- Shared memory: emulator.py puts these in place of __shared__ declarations ----

namespace emu {

template <class T, size_t least_alignment> T& shared(Shared& variable, const char* name) {
    constexpr size_t alignment = alignof(T) > least_alignment ? alignof(T) : least_alignment;
    return *static_cast<T*>(static_shared(variable, name, sizeof(T), alignment));
}

// ---- Collectives of a warp ----

inline int lane() { return static_cast<int>(running->number % 32); }

template <class T> Bits to_bits(T value) {
    static_assert(sizeof(T) <= sizeof(Bits) && std::is_trivially_copyable_v<T>);
    Bits bits{};
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T> T from_bits(const Bits& bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The value that lane `source` of the warp has left.
template <class T> T shuffle(unsigned mask, const char* what, Place place, T value, int source) {
    static_assert(std::is_arithmetic_v<T> || sizeof(T) <= 4, "CUDA shuffles numbers");
    const Deposits& deposits = collect(mask, what, place, to_bits(value), false);
    if (!(deposits.lanes >> source & 1)) {
        fail("%s at %s:%d reads lane %d, which takes no part (mask %08x)", what, place.file, place.line, source, mask);
    }
    return from_bits<T>(deposits.value[source]);
}

// All lanes' values, put together by `join(result, value, lane)`.
template <class R, class T, class Join>
R fold(unsigned mask, const char* what, Place place, T value, R result, Join join) {
    const Deposits& deposits = collect(mask, what, place, to_bits(value), false);
    for (int i = 0; i < 32; ++i) {
        if (deposits.lanes >> i & 1) result = join(result, from_bits<T>(deposits.value[i]), i);
    }
    return result;
}

}  // namespace emu

#define EMU_HERE emu::Place place = emu::Place::here()

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_HERE) {
    const int first = emu::lane() & ~(width - 1);
    return emu::shuffle(mask, "__shfl_sync", place, value, first | (source & (width - 1)));
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMU_HERE) {
    const int lane = emu::lane(), source = lane ^ bits;
    return emu::shuffle(mask, "__shfl_xor_sync", place, value, source / width > lane / width ? lane : source);
}

template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_HERE) {
    const int lane = emu::lane(), source = lane - static_cast<int>(by);
    return emu::shuffle(mask, "__shfl_up_sync", place, value, source < (lane & ~(width - 1)) ? lane : source);
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_HERE) {
    const int lane = emu::lane(), source = lane + static_cast<int>(by);
    return emu::shuffle(mask, "__shfl_down_sync", place, value, source > (lane | (width - 1)) ? lane : source);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_HERE) {
    return emu::fold(mask, "__ballot_sync", place, predicate != 0, 0u,
                     [](unsigned result, bool set, int lane) { return result | static_cast<unsigned>(set) << lane; });
}

inline int __any_sync(unsigned mask, int predicate, EMU_HERE) {
    return emu::fold(mask, "__any_sync", place, predicate != 0, false, [](bool a, bool b, int) { return a || b; });
}

inline int __all_sync(unsigned mask, int predicate, EMU_HERE) {
    return emu::fold(mask, "__all_sync", place, predicate != 0, true, [](bool a, bool b, int) { return a && b; });
}

template <class T> unsigned __match_any_sync(unsigned mask, T value, EMU_HERE) {
    return emu::fold(mask, "__match_any_sync", place, value, 0u, [value](unsigned result, T other, int lane) {
        return result | static_cast<unsigned>(value == other) << lane;
    });
}

#define EMU_REDUCE(NAME, T, FIRST, JOINED) \
    inline T __reduce_##NAME##_sync(unsigned mask, T value, EMU_HERE) { \
        return emu::fold(mask, "__reduce_" #NAME "_sync", place, value, T(FIRST), \
                         [](T a, T b, int) -> T { return JOINED; }); \
    }
EMU_REDUCE(add, unsigned, 0, a + b)
EMU_REDUCE(min, unsigned, ~0u, a < b ? a : b)
EMU_REDUCE(max, unsigned, 0, a > b ? a : b)
EMU_REDUCE(and, unsigned, ~0u, a & b)
EMU_REDUCE(or, unsigned, 0, a | b)
EMU_REDUCE(xor, unsigned, 0, a ^ b)
EMU_REDUCE(add, int, 0, a + b)
EMU_REDUCE(min, int, 0x7fffffff, a < b ? a : b)
EMU_REDUCE(max, int, 0x80000000, a > b ? a : b)

inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_HERE) { emu::collect(mask, "__syncwarp", place, {}, true); }
inline unsigned __activemask() { return emu::live_lanes(); }

// ---- Collectives of a block ----

inline void __syncthreads(EMU_HERE) { emu::barrier(place, emu::Vote::none, 0); }
inline int __syncthreads_or(int set, EMU_HERE) { return emu::barrier(place, emu::Vote::any, set); }
inline int __syncthreads_and(int set, EMU_HERE) { return emu::barrier(place, emu::Vote::all, set); }
inline int __syncthreads_count(int set, EMU_HERE) { return emu::barrier(place, emu::Vote::count, set); }

// Nothing here runs at once, and ThreadSanitizer is not told: hand-made signals between threads are races to it.
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Atomic operations: for ThreadSanitizer's eyes too ----

namespace emu {

template <class T, class Change> T atomically(T* address, Change change) {
    using Word = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
    static_assert(sizeof(T) == sizeof(Word));
    Word* word = reinterpret_cast<Word*>(address);
    Word seen = __atomic_load_n(word, __ATOMIC_RELAXED), wanted;
    T before;
    do {
        memcpy(static_cast<void*>(&before), &seen, sizeof before);
        const T after = change(before);
        memcpy(&wanted, static_cast<const void*>(&after), sizeof after);
    } while (!__atomic_compare_exchange_n(word, &seen, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return before;
}

template <class T> struct same { using type = T; };
template <class T> using same_t = typename same<T>::type;  // a parameter that deduces nothing

}  // namespace emu

#define EMU_ATOMIC(NAME, CHANGED) \
    template <class T> T atomic##NAME(T* address, emu::same_t<T> b) { \
        return emu::atomically(address, [b](T a) -> T { return CHANGED; }); \
    }
EMU_ATOMIC(Add, a + b)
EMU_ATOMIC(Sub, a - b)
EMU_ATOMIC(Min, b < a ? b : a)
EMU_ATOMIC(Max, a < b ? b : a)
EMU_ATOMIC(And, a & b)
EMU_ATOMIC(Or, a | b)
EMU_ATOMIC(Exch, (static_cast<void>(a), b))
template <class T> T atomicCAS(T* address, emu::same_t<T> compared, emu::same_t<T> b) {
    return emu::atomically(address, [compared, b](T a) -> T { return a == compared ? b : a; });
}

// ---- Loads and stores ----

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, emu::same_t<T> value) { *p = value; }
template <class T> void __stcg(T* p, emu::same_t<T> value) { *p = value; }

// ---- Numbers as bits ----

#define EMU_BITS(NAME, TO, FROM) \
    inline TO NAME(FROM value) { \
        TO bits; \
        memcpy(&bits, &value, sizeof bits); \
        return bits; \
    }
EMU_BITS(__int_as_float, float, int)
EMU_BITS(__float_as_int, int, float)
EMU_BITS(__uint_as_float, float, unsigned)
EMU_BITS(__float_as_uint, unsigned, float)
EMU_BITS(__longlong_as_double, double, long long)
EMU_BITS(__double_as_longlong, long long, double)

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

// ---- Functions of numbers: those of <math.h> are so many that reading them takes longer than compiling some kernels ----

#define EMU_OF_ONE(NAME) \
    extern "C" double NAME(double) noexcept; \
    extern "C" float NAME##f(float) noexcept; \
    inline float NAME(float x) { return NAME##f(x); }
EMU_OF_ONE(ceil)
EMU_OF_ONE(exp)
EMU_OF_ONE(fabs)
EMU_OF_ONE(floor)
EMU_OF_ONE(log)
EMU_OF_ONE(rint)
EMU_OF_ONE(sqrt)
EMU_OF_ONE(trunc)

#define EMU_OF_TWO(NAME) \
    extern "C" double NAME(double, double) noexcept; \
    extern "C" float NAME##f(float, float) noexcept; \
    inline float NAME(float x, float y) { return NAME##f(x, y); }
EMU_OF_TWO(fmax)
EMU_OF_TWO(fmin)
EMU_OF_TWO(fmod)

extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" int abs(int) noexcept;
template <class T> bool isfinite(T x) { return __builtin_isfinite(x); }
template <class T> bool isinf(T x) { return __builtin_isinf(x); }
template <class T> bool isnan(T x) { return __builtin_isnan(x); }

// ---- Arithmetic that names its rounding: g++ is told to contract nothing ----

#define EMU_ROUNDED(PREFIX, T, FMA) \
    inline T __##PREFIX##add_rn(T a, T b) { return a + b; } \
    inline T __##PREFIX##sub_rn(T a, T b) { return a - b; } \
    inline T __##PREFIX##mul_rn(T a, T b) { return a * b; } \
    inline T __##PREFIX##div_rn(T a, T b) { return a / b; } \
    inline T __##PREFIX##sqrt_rn(T a) { return sqrt(a); } \
    inline T FMA(T a, T b, T c) { return fma(a, b, c); }
EMU_ROUNDED(f, float, __fmaf_rn)
EMU_ROUNDED(d, double, __fma_rn)

namespace emu {

// Out of range: the nearest integer there is. Not a number: what the PTX manual says, zero unless 64 bits take part.
template <class To, class From> To to_integer(From rounded) {
    constexpr To least = static_cast<To>(1ull << (8 * sizeof(To) - 1)), most = static_cast<To>(~least);
    if (rounded != rounded) return sizeof(From) == 8 || sizeof(To) == 8 ? least : To(0);
    if (rounded < static_cast<From>(least)) return least;
    if (rounded >= -static_cast<From>(least)) return most;
    return static_cast<To>(rounded);
}

}  // namespace emu

#define EMU_CONVERSIONS(NAME, FROM, TO) \
    inline TO __##NAME##_rn(FROM x) { return emu::to_integer<TO>(rint(x)); } \
    inline TO __##NAME##_rd(FROM x) { return emu::to_integer<TO>(floor(x)); } \
    inline TO __##NAME##_ru(FROM x) { return emu::to_integer<TO>(ceil(x)); } \
    inline TO __##NAME##_rz(FROM x) { return emu::to_integer<TO>(trunc(x)); }
EMU_CONVERSIONS(float2int, float, int)
EMU_CONVERSIONS(float2ll, float, long long)
EMU_CONVERSIONS(double2int, double, int)
EMU_CONVERSIONS(double2ll, double, long long)

inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }

// Approximations are exact here.
inline float __expf(float x) { return exp(x); }
inline float __logf(float x) { return log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.f ? x < 1.f ? x : 1.f : 0.f; }
inline float rsqrtf(float x) { return 1.f / sqrt(x); }
inline double rsqrt(double x) { return 1. / sqrt(x); }

// Of floats the one that is a number.
#define EMU_EXTREME(NAME, COMPARED) \
    template <class A, class B, \
              class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>> \
    std::common_type_t<A, B> NAME(A left, B right) { \
        using C = std::common_type_t<A, B>; \
        const C a = static_cast<C>(left), b = static_cast<C>(right); \
        if constexpr (std::is_floating_point_v<C>) return f##NAME(a, b); \
        else return COMPARED; \
    }
EMU_EXTREME(min, b < a ? b : a)
EMU_EXTREME(max, a < b ? b : a)

// ---- Launching: what Python calls ----

namespace emu {

// A type as NumPy spells it: 'f4', or 'V12' for a struct.
template <class T> struct code {
    static constexpr char number = std::is_floating_point_v<T> ? 'f' : std::is_unsigned_v<T> ? 'u' : 'i';
    static constexpr char kind = std::is_class_v<T> ? 'V' : std::is_same_v<T, bool> ? 'b' : number;
    static constexpr int size = sizeof(T);
};

// One parameter: "wf4 " or "rf4 " for a pointer, to what is written or only read, "vf4 " for a value.
template <class T> int describe(char* text) {
    using Pointed = std::remove_pointer_t<T>;
    using Spelled = code<std::remove_cv_t<Pointed>>;
    const char access = !std::is_pointer_v<T> ? 'v' : std::is_const_v<Pointed> ? 'r' : 'w';
    return sprintf(text, "%c%c%d ", access, Spelled::kind, Spelled::size);
}

template <auto kernel> struct Kernel;
template <class... Parameters, void (*kernel)(Parameters...)> struct Kernel<kernel> {
    static inline void* const* values;

    template <size_t... i> static void call(std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_cv_t<Parameters>*>(values[i])...);
    }

    static void thread() { call(std::index_sequence_for<Parameters...>{}); }

    static const char* signature() {
        static char text[8 * sizeof...(Parameters) + 1];
        char* end = text;
        ((end += describe<Parameters>(end)), ...);
        return text;
    }
};

// The first of a kernel's __launch_bounds__.
template <class... Others> constexpr unsigned most_threads(unsigned threads, Others...) { return threads; }

}  // namespace emu

// The linker's names for the beginning and the end of a library's code.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start, etext;

#define EMU_EXPORT(NAME, ...) \
    extern "C" __attribute__((visibility("default"))) const emu::Failure* emu_launch_##NAME(emu::Launch* launch, \
                                                                                           void** values) { \
        emu::Kernel<NAME>::values = values; \
        launch->thread = emu::Kernel<NAME>::thread; \
        launch->text_begin = &__ehdr_start; \
        launch->text_end = &etext; \
        return emu::run_grid(*launch); \
    } \
    extern "C" __attribute__((visibility("default"))) const char* emu_signature_##NAME() { \
        return emu::Kernel<NAME>::signature(); \
    } \
    extern "C" __attribute__((visibility("default"))) const unsigned emu_bound_##NAME = \
        emu::most_threads(__VA_ARGS__);
