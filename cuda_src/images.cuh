// A tile at whose border our frame is mirrored: a pixel collects what its images do, too. A thread has pixels of a
// column, with all channels.
#ifndef SS_IMAGES_CUH
#define SS_IMAGES_CUH

#include "tiles.cuh"

#define SS_EACH (SS_TILE_W * SS_TILE_H / SS_THREADS)  // pixels of a thread

// Positions of which pixel y of n is the image, from SS_AFTER before the frame to SS_BEFORE behind it, in order.
struct Images {
    int y, n;
    bool only;  // itself
};

__device__ inline Images images_of(int y, int n) {
    return {y, n, SS_OUR_ZEROS || (n > 1 && kinds_of_images(y, n, SS_OUR_ZEROS, SS_AFTER) == 1)};
}

__device__ inline int image_after(const Images& of, int v) {
    if (of.only) return v < of.y ? of.y : of.n + SS_BEFORE;
    if (of.n == 1) return v + 1;
    const int period = 2 * (of.n - 1), next = v + 1;
    const int straight = within_period(of.y - next, period), mirrored = within_period(-of.y - next, period);
    return next + (straight < mirrored ? straight : mirrored);
}

__device__ inline int first_image(const Images& of) { return image_after(of, -SS_AFTER - 1); }

struct WithImages {
    Tile tile;
    Steps steps;
    StepRow line;
    SS_ACC* rows;  // sums along rows, (SS_STEPS, SS_SUMS)
    Step step;  // the first of those that are taken
    Values mine[SS_EACH], sum[SS_EACH];

    __device__ int row(int i) const { return threadIdx.x / SS_TILE_W + i * (SS_TILE_H / SS_EACH); }
    __device__ int column() const { return threadIdx.x % SS_TILE_W; }

    template <class Side> __device__ void begin(const Side& side) {
        line.begin(steps);
        const Plane ours = side.ours();
#pragma unroll
        for (int i = 0; i < SS_EACH; ++i) {
            mine[i] = sum[i] = no_values();
            if (SS_L2 && tile.has(row(i), column()))
                mine[i] = values_at(ours, ours.at(tile.top + row(i), tile.left + column()), tile.f);
        }
    }

    __device__ unsigned first(unsigned next) {
        step = line.step_of(steps, next);
        return next;
    }

    template <class Side> __device__ void next(const Side&, const SS_ACC* planes, unsigned present) {
        filter_rows(planes, rows, present);
    }

    template <class Side> __device__ void add(const Side& side, unsigned present) {
        const Plane frame = side.frame(step.t);
        const Images columns = images_of(tile.left + column(), tile.W);
#pragma unroll
        for (int i = 0; i < SS_EACH; ++i) {
            if (!tile.has(row(i), column())) continue;
            const Images down = images_of(tile.top + row(i), tile.H);
#pragma unroll 1
            for (unsigned left = present; left; left &= left - 1) {
#pragma unroll 1
                for (int v = first_image(down); v < tile.H + SS_BEFORE; v = image_after(down, v)) {
#pragma unroll 1
                    for (int u = first_image(columns); u < tile.W + SS_BEFORE; u = image_after(columns, u))
                        add_image(side, frame, __ffs(left) - 1, v, u, mine[i], sum[i]);
                }
            }
        }
    }

    // What a step adds at position (v, u).
    template <class Side>
    __device__ void add_image(const Side& side, const Plane& frame, int number, int v, int u, const Values& mine,
                              Values& sum) const {
        const SS_ACC weight = weight_at(rows, number, v - tile.top, u - tile.left);
        const int y = side.line(v + step.dy, frame.H), x = side.line(u + step.dx + number, frame.W);
        if (is_nothing(weight) || y < 0 || x < 0) return;
        const Values theirs = values_at(frame, frame.at(y, x), tile.f);
#pragma unroll
        for (int c = 0; c < SS_CHANNELS; ++c) sum.of[c] += weight * change(mine.of[c], theirs.of[c]);
    }

    // `out`: a video with channels first. Returns whether all numbers are finite.
    template <class Side> __device__ bool finish(const Side& side, SS_SCALAR* out) const {
        bool finite = true;
        const long long plane = (long long)tile.H * tile.W;
#pragma unroll
        for (int i = 0; i < SS_EACH; ++i) {
            if (!tile.has(row(i), column())) continue;
            const auto result = side.result(tile.top + row(i), tile.left + column());
            SS_SCALAR* at = out + (long long)(tile.top + row(i)) * tile.W + tile.left + column();
#pragma unroll
            for (int c = 0; c < SS_CHANNELS; ++c)
                finite &= store_finite(at + c * plane, result.of(changed(sum[i].of[c])));
        }
        return finite;
    }
};

#endif
