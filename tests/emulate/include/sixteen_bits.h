// Floats of 16 bits: stored as bits, computed in float and rounded once, which is exact for + - * /.
#pragma once

namespace emu {

// `value` as a float that a second rounding, to less bits, takes where one rounding would: cut off, and odd if inexact.
inline float round_to_odd(double value) {
    const float nearest = static_cast<float>(value);
    if (nearest == value || value != value) return nearest;
    const unsigned away = fabs(static_cast<double>(nearest)) > fabs(value);
    return __uint_as_float((__float_as_uint(nearest) - away) | 1);
}

}  // namespace emu

#define EMU_SIXTEEN_BITS(NAME, KIND, TO_FLOAT, FROM_FLOAT) \
    struct NAME { \
        uint16_t bits; \
        NAME() = default; \
        NAME(float x) : bits(FROM_FLOAT(x)) {} \
        NAME(double x) : bits(FROM_FLOAT(emu::round_to_odd(x))) {} \
        NAME(int x) : NAME(static_cast<double>(x)) {} \
        operator float() const { return TO_FLOAT(bits); } \
        NAME& operator+=(NAME other) { return *this = NAME(float(*this) + float(other)); } \
        NAME& operator-=(NAME other) { return *this = NAME(float(*this) - float(other)); } \
        NAME& operator*=(NAME other) { return *this = NAME(float(*this) * float(other)); } \
    }; \
    inline NAME operator+(NAME a, NAME b) { return NAME(float(a) + float(b)); } \
    inline NAME operator-(NAME a, NAME b) { return NAME(float(a) - float(b)); } \
    inline NAME operator*(NAME a, NAME b) { return NAME(float(a) * float(b)); } \
    inline NAME operator/(NAME a, NAME b) { return NAME(float(a) / float(b)); } \
    inline NAME __hadd(NAME a, NAME b) { return a + b; } \
    inline NAME __hsub(NAME a, NAME b) { return a - b; } \
    inline NAME __hmul(NAME a, NAME b) { return a * b; } \
    struct alignas(4) NAME##2 { NAME x, y; }; \
    template <> struct emu::code<NAME> { static constexpr char kind = KIND; static constexpr int size = 2; };
