// A tile whose pixels are their only images, from shared memory. The values of the other video that a few steps beside
// each other lead to are staged; a thread has four pixels of a row and half of the channels, and reads each value of a
// channel once for all these pixels and steps. Rows stay where they are while steps only go down.
#ifndef SS_DENSE_CUH
#define SS_DENSE_CUH

#include "tiles.cuh"

#define SS_SPARE 4  // columns more than SS_STEPS steps need: the next few steps are taken without staging again
#define SS_STAGED_W (SS_TILE_W + SS_IN_FOURS(SS_STEPS - 1) + SS_SPARE)
#define SS_HALF ((SS_CHANNELS + 1) / 2)  // channels of a thread
#define SS_NARROW (sizeof(SS_ACC) > 4 ? SS_STEPS : SS_STEPS / 2 + 1)  // steps, where no more are present

struct Dense {
    Tile tile;
    Steps steps;
    StepRow line;
    SS_ACC *weights, *values;  // (SS_STEPS, SS_TILE_H, SS_TILE_W), (SS_CHANNELS, SS_TILE_H, SS_STAGED_W)
    int t, y, x;  // frame, and row and column less the tile's, from which on values are staged
    int kept, shift;  // rows that are staged already, and columns before those of the first step
    SS_ACC mine[SS_HALF][4], sum[SS_HALF][4];

    __device__ int row() const { return threadIdx.x / SS_QUADS % SS_TILE_H; }
    __device__ int column() const { return threadIdx.x % SS_QUADS * 4; }
    __device__ int channel() const { return threadIdx.x / (SS_QUADS * SS_TILE_H) * SS_HALF; }
    __device__ bool has(int c, int j) const { return channel() + c < SS_CHANNELS && tile.has(row(), column() + j); }

    template <class Side> __device__ void begin(const Side& side) {
        t = -1, y = x = 0;
        line.begin(steps);
        const Plane ours = side.ours();
        const SS_SCALAR* pixel = SS_L2 ? ours.at(tile.top + row(), tile.left + column()) : 0;
#pragma unroll
        for (int c = 0; c < SS_HALF; ++c) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                sum[c][j] = mine[c][j] = 0;
                const long long at = (tile.f + channel() + c) * (long long)ours.channel + j * (long long)ours.column;
                if (SS_L2 && has(c, j)) mine[c][j] = load(pixel + at);
            }
        }
    }

    __device__ unsigned first(unsigned next) {
        const Step step = line.step_of(steps, next);
        const bool near = step.t == t && step.dy - y < SS_TILE_H;
        const bool fits = step.dx >= x && step.dx - x < SS_STEPS + SS_SPARE;
        kept = near && fits ? SS_TILE_H - (step.dy - y) : 0;
        t = step.t, y = step.dy, x = fits ? x : step.dx;
        shift = step.dx - x < SS_SPARE ? 0 : SS_SPARE;
        return next - (step.dx - x - shift);
    }

    template <class Side> __device__ void next(const Side& side, const SS_ACC* planes, unsigned present) {
        stage(side);
        if (SS_NARROW == SS_STEPS || present >> SS_NARROW) filter_tile<SS_STEPS>(planes, weights);
        else filter_tile<SS_NARROW>(planes, weights);
    }

    template <class Side> __device__ void add(const Side&, unsigned present) {
        if (SS_NARROW == SS_STEPS || present >> SS_NARROW) add_few<SS_STEPS>();
        else add_few<SS_NARROW>();
    }

    // --- values ---
    // What row `row` of the tile looks at.
    __device__ SS_ACC* staged(int channel, int row) const {
        return values + (channel * SS_TILE_H + ((y + row) & (SS_TILE_H - 1))) * SS_STAGED_W;
    }

    template <class Side> __device__ void stage(const Side& side) const {
        const Plane frame = side.frame(t);
        const int parts = SS_VECTORS ? SS_CHANNELS / SS_FEW : 1, threads = SS_VECTORS ? SS_THREADS : 32;
        const int each = (SS_STAGED_W * parts + threads - 1) / threads, me = threadIdx.x % threads;
        int columns[each];
#pragma unroll
        for (int i = 0; i < each; ++i) columns[i] = side.line(tile.left + x + (me + i * threads) / parts, frame.W);
#pragma unroll 1
        for (int row = kept; row < SS_TILE_H; ++row) {
            const int there = side.line(tile.top + y + row, frame.H);
            const SS_SCALAR* from = frame.at(there, 0) + tile.f * (long long)frame.channel;
#pragma unroll
            for (int i = 0; i < each; ++i) {
                const int at = me + i * threads;
                if (at >= SS_STAGED_W * parts) break;
                const bool none = there < 0 || columns[i] < 0;
                const SS_SCALAR* pixel = none ? 0 : from + (long long)columns[i] * frame.column;
                if (SS_VECTORS) stage_vector(pixel, row, at / parts, at % parts * SS_FEW);
                else stage_numbers(pixel, frame.channel, row, at);
            }
        }
    }

    // A warp has every fourth channel of a pixel. Where there is none, there are zeros.
    __device__ void stage_numbers(const SS_SCALAR* pixel, long long apart, int row, int column) const {
#pragma unroll
        for (int i = 0; i < SS_CHANNELS; i += SS_THREADS / 32) {
            const int c = i + threadIdx.x / 32;
            if (c < SS_CHANNELS) staged(c, row)[column] = pixel ? load(pixel + c * apart) : (SS_ACC)0;
        }
    }

    // A thread has 16 bytes of a pixel.
    __device__ void stage_vector(const SS_SCALAR* pixel, int row, int column, int c) const {
        SS_ACC few[SS_FEW] = {};
        if (pixel) load_few(pixel + c, few);
#pragma unroll
        for (int j = 0; j < SS_FEW; ++j) staged(c + j, row)[column] = few[j];
    }

    // --- sums ---
    template <int count> __device__ void add_few() {
        SS_ACC weight[count][4];
        const SS_ACC* of = weights + row() * SS_TILE_W + column();
#pragma unroll
        for (int step = 0; step < count; ++step) load_four(of + step * SS_TILE_H * SS_TILE_W, weight[step]);
        const SS_ACC* from = staged(channel(), row()) + column() + shift;
#pragma unroll
        for (int c = 0; c < SS_HALF; ++c) {
            if (SS_CHANNELS % 2 && channel() + c >= SS_CHANNELS) break;
            SS_ACC theirs[SS_IN_FOURS(3 + count)];
#pragma unroll
            for (int i = 0; i < 3 + count; i += 4) load_four(from + c * SS_TILE_H * SS_STAGED_W + i, theirs + i);
#pragma unroll
            for (int step = 0; step < count; ++step) {
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[c][j] += weight[step][j] * change(mine[c][j], theirs[step + j]);
            }
        }
    }

    // `out`: a video with channels first. Returns whether all numbers are finite.
    template <class Side> __device__ bool finish(const Side& side, SS_SCALAR* out) const {
        bool finite = true;
        const long long plane = (long long)tile.H * tile.W;
        out += (long long)(tile.top + row()) * tile.W + tile.left + column();
        const int y = tile.top + row(), x = tile.left + column();
        const typename Side::Result results[4] = {side.result(y, x), side.result(y, x + 1), side.result(y, x + 2),
                                                  side.result(y, x + 3)};
#pragma unroll
        for (int c = 0; c < SS_HALF; ++c) {
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (has(c, j))
                    finite &= store_finite(out + (channel() + c) * plane + j, results[j].of(changed(sum[c][j])));
        }
        return finite;
    }
};

#endif
