// Windows along one axis: where their candidates lie. Places of a subpixel search are doubles, so that every form of it
// looks at the same ones.
//
// Constants: those of whole.cuh, SS_SUBPIXEL, SS_PLACE type of offsets that are found.
#ifndef SS_AXIS_CUH
#define SS_AXIS_CUH

#include "whole.cuh"

#if SS_SUBPIXEL
// Along one axis: the centre of a window, and how many of its candidates come before the centre.
struct Axis {
    double centre;
    int before;
};

typedef double Position;

// Position of the candidate in row (or column) i.
__device__ inline double position(const Axis& axis, int i) {
    return __dadd_rn(axis.centre, __dmul_rn(SS_STEP, (double)(i - axis.before)));
}

// Where the flow leads from pixel `at`, perhaps outside of the frame.
__device__ inline double moved_from(int at, SS_AROUND way) {
    return __dadd_rn((double)at, fmin(fmax(finite_or_zero((double)way), -SS_MOST), SS_MOST));
}

// A window of so many candidates around a centre. With SS_SLIDE it slides into the frame.
__device__ inline Axis window_at(int window, double centre, int n) {
    const int last = window - 1, usual = (last + SS_EVEN_BEFORE) / 2;
    if (!SS_SLIDE) return {centre, usual};
    double before = usual;
    if (__dadd_rn(centre, -__dmul_rn(SS_STEP, (double)usual)) < 0) before = floor(__ddiv_rn(centre, SS_STEP));
    if (__dadd_rn(centre, __dmul_rn(SS_STEP, last - before)) > n - 1)
        before = ceil(__dadd_rn(__ddiv_rn(__dadd_rn(centre, -(n - 1.0)), SS_STEP), (double)last));
    return {centre, (int)fmin(fmax(before, 0.0), (double)last)};
}

__device__ inline Axis axis_around(int window, int at, SS_AROUND way, int n) {
    int sign;
    const double there = moved_from(at, way);
    return window_at(window, SS_ZEROS ? there : mirror(there, n, &sign), n);
}
#else
typedef Span Axis;
typedef Whole Position;

__device__ inline Whole position(const Axis& axis, int i) { return axis.first + (Whole)SS_STEP * i; }

__device__ inline Axis axis_around(int window, int at, SS_AROUND way, int n) {
    return span_around(window, at, way, n);
}
#endif

// A place along one axis: its pixel, and how far behind it.
struct Spot {
    Whole pixel;
    SS_ACC behind;
};

// What is far away lies as far outside of the frame as anything does.
__device__ inline Spot spot_at(double x) {
    x = fmin(fmax(x, -SS_MOST), SS_MOST);
    return {(Whole)floor(x), (SS_ACC)(x - floor(x))};
}
__device__ inline Spot spot_at(Whole x) { return {x, 0}; }

__device__ inline SS_PLACE away_from(int query, double x) { return (SS_PLACE)__dadd_rn(x, -(double)query); }
__device__ inline SS_PLACE away_from(int query, Whole x) { return (SS_PLACE)(x - query); }

#endif
