// Hand-written C++ for one machine (AVX-512): what shiftsearch's CPU kernels are measured against.
//
//   g++ -O3 -march=native -shared -fPIC -fopenmp yardstick.cpp -o yardstick.so
//
// Only what the benchmark needs: l2, window 9, frames t - 1 .. t + 1, at most 16 kept candidates, float32,
// channels 3 or 16, patch 1, 3 or 7. Videos are (T, C, H, W), flow (T, 3, h, w, 2) as whole (dy, dx) with the frames
// in time order, places (T, h, w, K, 3) as (frame, row, column) in the video.
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

using std::max;
using std::min;

constexpr int WINDOW = 9, CANDIDATES = WINDOW * WINDOW, FRAMES = 3;
constexpr int LANES = 16;
constexpr int SLACK = 24;  // further pixels around a padded video, for the box filter's range of displacements
constexpr int TILE = 8;    // queries per side of a tile: TILE + patch - 1 pixels fit the lanes
constexpr __mmask16 ALL = 0xffff, ROW = (1u << WINDOW) - 1;

struct Sizes {
    int T, C, H, W, h, w, stride, kept;
};

static float* floats(size_t count) { return (float*)aligned_alloc(64, (count * 4 + 63) / 64 * 64); }

// Mirrored into the frame; what is further out than that is read, but never used.
static inline int reflect(int i, int n) {
    if (i < 0) i = -i;
    if (i >= n) i = 2 * (n - 1) - i;
    return i < 0 ? 0 : (i >= n ? n - 1 : i);
}

// --- layouts --------------------------------------------------------------------------------------
// (T, H + 2 pad, C, row): lanes run along rows
static void pad_planar(const float* x, int T, int C, int H, int W, int pad, int row, float* out) {
    const int rows = H + 2 * pad;
#pragma omp parallel for collapse(2)
    for (int t = 0; t < T; t++)
        for (int y = 0; y < rows; y++) {
            const int from = reflect(y - pad, H);
            for (int c = 0; c < C; c++) {
                const float* s = x + ((size_t)(t * C + c) * H + from) * W;
                float* d = out + ((size_t)(t * rows + y) * C + c) * row;
                for (int i = 0; i < pad; i++) d[i] = s[reflect(i - pad, W)];
                memcpy(d + pad, s, W * 4);
                for (int i = W + pad; i < row; i++) d[i] = s[reflect(i - pad, W)];
            }
        }
}

// (T, H + 2 pad, W + 2 pad, C): lanes run along channels
static void pad_channels_last(const float* x, int T, int C, int H, int W, int pad, float* out) {
    const int rows = H + 2 * pad, columns = W + 2 * pad;
#pragma omp parallel for collapse(2)
    for (int t = 0; t < T; t++)
        for (int y = 0; y < rows; y++) {
            const int from = reflect(y - pad, H);
            float* d = out + (size_t)(t * rows + y) * columns * C;
            for (int c = 0; c < C; c++) {
                const float* s = x + ((size_t)(t * C + c) * H + from) * W;
                for (int i = 0; i < columns; i++) d[(size_t)i * C + c] = s[reflect(i - pad, W)];
            }
        }
}

// --- vectors --------------------------------------------------------------------------------------
static inline void transpose16(__m512* r) {
    __m512 t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
        const __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
    }
}

// Lane i of the result is the sum of r[i].
static inline __m512 sums16(__m512* r) {
    transpose16(r);
    const __m512 a = _mm512_add_ps(r[0], r[1]), b = _mm512_add_ps(r[2], r[3]);
    const __m512 c = _mm512_add_ps(r[4], r[5]), d = _mm512_add_ps(r[6], r[7]);
    const __m512 e = _mm512_add_ps(r[8], r[9]), f = _mm512_add_ps(r[10], r[11]);
    const __m512 g = _mm512_add_ps(r[12], r[13]), h = _mm512_add_ps(r[14], r[15]);
    const __m512 low = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
    const __m512 high = _mm512_add_ps(_mm512_add_ps(e, f), _mm512_add_ps(g, h));
    return _mm512_add_ps(low, high);
}

// --- the best -------------------------------------------------------------------------------------
// The K <= 16 smallest of D[n], sorted, ties by index; n is a multiple of 16, filled up with inf.
static inline void smallest(const float* D, int n, int K, float* best, int* index) {
    const __m512i one = _mm512_set1_epi32(1);
    __m512 least = _mm512_loadu_ps(D);
    for (int i = 16; i < n; i += 16) least = _mm512_min_ps(least, _mm512_loadu_ps(D + i));
    float bound;
    {  // the K-th smallest of the 16 lane minima bounds the K-th smallest of all
        alignas(64) float lane[16];
        _mm512_store_ps(lane, least);
        __m512i rank = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
            const __mmask16 reached = _mm512_cmp_ps_mask(least, _mm512_set1_ps(lane[j]), _CMP_GE_OQ);
            rank = _mm512_mask_add_epi32(rank, reached, rank, one);
        }
        bound = _mm512_mask_reduce_min_ps(_mm512_cmpge_epi32_mask(rank, _mm512_set1_epi32(K)), least);
    }
    alignas(64) float score[512 + 16];
    alignas(64) int at[512 + 16];
    int m = 0;
    const __m512 bounds = _mm512_set1_ps(bound);
    __m512i here = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int i = 0; i < n; i += 16) {
        const __m512 v = _mm512_loadu_ps(D + i);
        const __mmask16 keep = _mm512_cmp_ps_mask(v, bounds, _CMP_LE_OQ);
        _mm512_storeu_ps(score + m, _mm512_maskz_compress_ps(keep, v));
        _mm512_storeu_si512(at + m, _mm512_maskz_compress_epi32(keep, here));
        m += __builtin_popcount(keep);
        here = _mm512_add_epi32(here, _mm512_set1_epi32(16));
    }
    _mm512_storeu_ps(score + m, _mm512_set1_ps(INFINITY));
    if (m > 64) {  // many ties
        for (int r = 0; r < K; r++) {
            int b = r;
            for (int i = r + 1; i < m; i++)
                if (score[i] < score[b]) b = i;
            const float d = score[b];
            const int x = at[b];
            for (int i = b; i > r; i--) score[i] = score[i - 1], at[i] = at[i - 1];
            score[r] = best[r] = d;
            at[r] = index[r] = x;
        }
        return;
    }
    for (int i = 0; i < m; i += 16) {  // the rank of each is the number of those before it
        const __m512 v = _mm512_loadu_ps(score + i);
        __m512i rank = _mm512_setzero_si512();
        for (int j = 0; j < m; j++) {
            const __m512 x = _mm512_set1_ps(score[j]);
            const __mmask16 less = _mm512_cmp_ps_mask(x, v, _CMP_LT_OQ), equal = _mm512_cmp_ps_mask(x, v, _CMP_EQ_OQ);
            const int first = j - i + 1;  // lanes from here come after j
            const __mmask16 after = first <= 0 ? ALL : (first >= 16 ? 0 : (__mmask16)(0xffffu << first));
            rank = _mm512_mask_add_epi32(rank, less | (equal & after), rank, one);
        }
        __mmask16 keep = _mm512_cmplt_epi32_mask(rank, _mm512_set1_epi32(K));
        if (m - i < 16) keep &= (1u << (m - i)) - 1;
        _mm512_mask_i32scatter_ps(best, keep, rank, v, 4);
        _mm512_mask_i32scatter_epi32(index, keep, rank, _mm512_loadu_si512(at + i), 4);
    }
}

// --- search: one query, one window, directly ------------------------------------------------------
// Channels last, C a multiple of 16: one row of the window in registers.
template <int C, int PATCH>
static inline void direct_wide(const float* q, size_t q_row, const float* k, size_t k_row, float* D) {
    alignas(64) __m512 A[96];
    for (int i = 0; i < WINDOW; i++) {
        __m512 acc[WINDOW];
        for (int j = 0; j < WINDOW; j++) acc[j] = _mm512_setzero_ps();
        for (int y = 0; y < PATCH; y++) {
            const float *qr = q + y * q_row, *kr = k + (i + y) * k_row;
            for (int x = 0; x < PATCH; x++)
                for (int c = 0; c < C; c += LANES) {
                    const __m512 qv = _mm512_loadu_ps(qr + x * C + c);
#pragma GCC unroll 9
                    for (int j = 0; j < WINDOW; j++) {
                        const __m512 d = _mm512_sub_ps(qv, _mm512_loadu_ps(kr + (j + x) * C + c));
                        acc[j] = _mm512_fmadd_ps(d, d, acc[j]);
                    }
                }
        }
        for (int j = 0; j < WINDOW; j++) A[i * WINDOW + j] = acc[j];
    }
    for (int j = CANDIDATES; j < 96; j++) A[j] = _mm512_setzero_ps();
    for (int b = 0; b < 6; b++) {
        const __m512 s = sums16(A + 16 * b);
        if (b < 5)
            _mm512_storeu_ps(D + 16 * b, s);
        else
            D[80] = _mm512_cvtss_f32(s);
    }
}

// Planar, few channels: lanes over the window's columns, all its rows in registers.
template <int C, int PATCH>
static inline void direct_small(const float* q, size_t q_row, int q_plane, const float* k, size_t k_row, int k_plane,
                                float* D) {
    __m512 acc[WINDOW];
    for (int j = 0; j < WINDOW; j++) acc[j] = _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int row = 0; row < WINDOW + PATCH - 1; row++)
        for (int c = 0; c < C; c++)
            for (int x = 0; x < PATCH; x++) {
                const __m512 kv = _mm512_loadu_ps(k + row * k_row + c * k_plane + x);
#pragma GCC unroll 16
                for (int y = 0; y < PATCH; y++) {
                    const int i = row - y;
                    if (i >= 0 && i < WINDOW) {
                        const __m512 d = _mm512_sub_ps(kv, _mm512_set1_ps(q[y * q_row + c * q_plane + x]));
                        acc[i] = _mm512_fmadd_ps(d, d, acc[i]);
                    }
                }
            }
    for (int i = 0; i < WINDOW; i++) _mm512_mask_storeu_ps(D + i * WINDOW, ROW, acc[i]);
}

// --- search: a tile of queries by a box filter ----------------------------------------------------
// Pixel distances of one key row to one query row at N neighbouring displacements.
template <int C, int N>
static inline void pixel_distances(const float* q, const float* shifted, int nx, float* out, int step) {
    __m512 acc[N];
#pragma GCC unroll 16
    for (int j = 0; j < N; j++) acc[j] = _mm512_setzero_ps();
    for (int c = 0; c < C; c++) {
        const __m512 qv = _mm512_load_ps(q + c * LANES);
#pragma GCC unroll 16
        for (int j = 0; j < N; j++) {
            const __m512 d = _mm512_sub_ps(qv, _mm512_load_ps(shifted + (c * nx + j) * LANES));
            acc[j] = _mm512_fmadd_ps(d, d, acc[j]);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < N; j++) _mm512_store_ps(out + (size_t)j * step, acc[j]);
}

// Patch distances of TILE x TILE queries at ny x nx displacements: out[query][ny][out_row].
// `pixels` holds pixel distances [dy][dx][y], lanes along x.
template <int C, int PATCH>
static void box_tile(const float* q, size_t q_row, int q_plane, const float* k, size_t k_row, int k_plane, int ny,
                     int nx, int out_row, float* out, float* pixels) {
    constexpr int ROWS = TILE + PATCH - 1;
    {  // the nx shifted copies of a key row are made once, aligned
        alignas(64) float tile[ROWS * C * LANES];
        alignas(64) float shifted[64 * C * LANES];
        for (int y = 0; y < ROWS; y++)
            for (int c = 0; c < C; c++)
                _mm512_store_ps(tile + (y * C + c) * LANES, _mm512_loadu_ps(q + y * q_row + c * q_plane));
        for (int key = 0; key < ROWS + ny - 1; key++) {
            const float* kr = k + (size_t)key * k_row;
            for (int c = 0; c < C; c++)
                for (int j = 0; j < nx; j++)
                    _mm512_store_ps(shifted + (c * nx + j) * LANES, _mm512_loadu_ps(kr + c * k_plane + j));
            for (int dy = max(0, key - ROWS + 1); dy <= min(ny - 1, key); dy++) {
                const int y = key - dy;
                const float* qr = tile + y * C * LANES;
                float* row = pixels + ((size_t)dy * nx * ROWS + y) * LANES;
                for (int x = 0; x < nx;) {
                    const int n = nx - x;
                    auto next = [&](auto count) {
                        constexpr int N = decltype(count)::value;
                        float* here = row + (size_t)x * ROWS * LANES;
                        pixel_distances<C, N>(qr, shifted + x * LANES, nx, here, ROWS * LANES);
                        x += N;
                    };
                    if (n >= 13 && n != 17 && n < 25)
                        next(std::integral_constant<int, 13>{});
                    else if (n >= 9)
                        next(std::integral_constant<int, 9>{});
                    else if (n >= 4)
                        next(std::integral_constant<int, 4>{});
                    else
                        next(std::integral_constant<int, 1>{});
                }
            }
        }
    }
    const __m512i by1 = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15);
    const __m512i by2 = _mm512_setr_epi32(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 15);
    const __m512i by4 = _mm512_setr_epi32(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 15, 15, 15);
    const __m512i by6 = _mm512_setr_epi32(6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 15, 15, 15, 15, 15);
    auto left = [](__m512i by, __m512 v) { return _mm512_permutexvar_ps(by, v); };
    for (int dy = 0; dy < ny; dy++)
        for (int x0 = 0; x0 < nx; x0 += LANES) {  // box sums down, then across, then displacements into lanes
            const int n = min(LANES, nx - x0);
            alignas(64) __m512 V[TILE][LANES];
            for (int j = 0; j < n; j++) {
                const float* p = pixels + ((size_t)dy * nx + x0 + j) * ROWS * LANES;
                __m512 a[ROWS];
#pragma GCC unroll 32
                for (int y = 0; y < ROWS; y++) a[y] = _mm512_load_ps(p + LANES * y);
                if constexpr (PATCH == 7) {
                    __m512 two[ROWS - 1], four[ROWS - 3], seven[TILE];
#pragma GCC unroll 32
                    for (int y = 0; y < ROWS - 1; y++) two[y] = _mm512_add_ps(a[y], a[y + 1]);
#pragma GCC unroll 32
                    for (int y = 0; y < TILE; y++) four[y] = _mm512_add_ps(two[y], two[y + 2]);
#pragma GCC unroll 32
                    for (int y = 0; y < TILE; y++)
                        seven[y] = _mm512_add_ps(_mm512_add_ps(four[y], two[y + 4]), a[y + 6]);
#pragma GCC unroll 32
                    for (int y = 0; y < TILE; y++) {
                        const __m512 u = seven[y], u2 = _mm512_add_ps(u, left(by1, u));
                        const __m512 u4 = _mm512_add_ps(u2, left(by2, u2));
                        V[y][j] = _mm512_add_ps(_mm512_add_ps(u4, left(by4, u2)), left(by6, u));
                    }
                } else if constexpr (PATCH == 3) {
                    for (int y = 0; y < TILE; y++) {
                        const __m512 u = _mm512_add_ps(_mm512_add_ps(a[y], a[y + 1]), a[y + 2]);
                        V[y][j] = _mm512_add_ps(_mm512_add_ps(u, left(by1, u)), left(by2, u));
                    }
                } else
                    for (int y = 0; y < TILE; y++) V[y][j] = a[y];
            }
            for (int y = 0; y < TILE; y++) {
                transpose16(V[y]);
                for (int x = 0; x < TILE; x++)
                    _mm512_storeu_ps(out + ((size_t)(y * TILE + x) * ny + dy) * out_row + x0, V[y][x]);
            }
        }
}

// --- search ---------------------------------------------------------------------------------------
struct Padded {
    float *planar, *last;  // the two layouts, each of them if it is used
};

template <int C, int PATCH>
static void search_tiles(Padded q, Padded k, const int* flow, Sizes s, int row, float* scores, int* places) {
    constexpr int QUERIES = TILE * TILE;
    const int r = PATCH / 2, H = s.H, W = s.W;
    const int planar_rows = H + 2 * (r + SLACK), last_rows = H + 2 * r;
    const size_t planar_row = (size_t)C * row, last_row = (size_t)(W + 2 * r) * C;
    const int tiles_y = (s.h + TILE - 1) / TILE, tiles_x = (s.w + TILE - 1) / TILE;
    const int all = (FRAMES * CANDIDATES + 15) / 16 * 16;
#pragma omp parallel
    {
        std::vector<float> box;
        size_t pixels_size = 0;
        float* pixels = nullptr;
        std::vector<float> distances((size_t)QUERIES * all, INFINITY);
        int wy[FRAMES][QUERIES], wx[FRAMES][QUERIES];  // first row and column of each window
#pragma omp for collapse(3) schedule(dynamic, 4)
        for (int t = 0; t < s.T; t++)
            for (int ty = 0; ty < tiles_y; ty++)
                for (int tx = 0; tx < tiles_x; tx++) {
                    const int h0 = ty * TILE, w0 = tx * TILE, rows = min(TILE, s.h - h0), columns = min(TILE, s.w - w0);
                    const int t0 = min(max(t - FRAMES / 2, 0), s.T - FRAMES);
                    for (int f = 0; f < FRAMES; f++) {
                        int y_min = 1 << 30, y_max = -y_min, x_min = y_min, x_max = y_max;  // displacements of the tile
                        for (int a = 0; a < rows; a++)
                            for (int b = 0; b < columns; b++) {
                                const int* move = flow + ((((size_t)t * FRAMES + f) * s.h + h0 + a) * s.w + w0 + b) * 2;
                                const int qy = (h0 + a) * s.stride, qx = (w0 + b) * s.stride;
                                const int y = min(max(qy + move[0] - WINDOW / 2, 0), H - WINDOW);
                                const int x = min(max(qx + move[1] - WINDOW / 2, 0), W - WINDOW);
                                wy[f][a * TILE + b] = y;
                                wx[f][a * TILE + b] = x;
                                y_min = min(y_min, y - qy), y_max = max(y_max, y - qy);
                                x_min = min(x_min, x - qx), x_max = max(x_max, x - qx);
                            }
                        const int ny = y_max - y_min + WINDOW, nx = x_max - x_min + WINDOW;
                        // estimated cost of either way, in units that were fitted once
                        const double box_cost =
                            (double)ny * nx *
                            ((TILE + PATCH - 1) * C * 2 * 1.15 + TILE * (PATCH == 1 ? 1. : PATCH * 1.2) + TILE * 6 +
                             20);
                        const double direct_cost =
                            (double)rows * columns * CANDIDATES *
                            (C >= 16 ? PATCH * PATCH * C / 16 * 2.1 + 5 : PATCH * PATCH * C * 2 * 9 / 81. * 1.05 + 1);
                        const bool fits = s.stride == 1 && ny <= WINDOW + 2 * SLACK - 8 && nx <= WINDOW + 40;
                        if (fits && box_cost < direct_cost) {
                            const int box_row = (nx + 15) / 16 * 16;
                            const size_t need = (size_t)QUERIES * ny * box_row;
                            if (box.size() < need) box.resize(need);
                            const size_t pixels_need = (size_t)ny * nx * (TILE + PATCH - 1) * LANES;
                            if (pixels_need > pixels_size) {
                                free(pixels);
                                pixels = floats(pixels_need);
                                pixels_size = pixels_need;
                            }
                            const size_t frame = (size_t)(t0 + f) * planar_rows;
                            box_tile<C, PATCH>(
                                q.planar + ((size_t)t * planar_rows + h0 + SLACK) * planar_row + w0 + SLACK,
                                planar_row, row,
                                k.planar + (frame + h0 + y_min + SLACK) * planar_row + w0 + x_min + SLACK,
                                planar_row, row, ny, nx, box_row, box.data(), pixels);
                            for (int a = 0; a < rows; a++)
                                for (int b = 0; b < columns; b++) {  // each query takes its part of the range
                                    const int z = a * TILE + b;
                                    const int oy = wy[f][z] - (h0 + a) - y_min, ox = wx[f][z] - (w0 + b) - x_min;
                                    const float* o = box.data() + ((size_t)z * ny + oy) * box_row + ox;
                                    float* d = &distances[(size_t)z * all + f * CANDIDATES];
                                    for (int i = 0; i < WINDOW; i++)
                                        _mm512_mask_storeu_ps(d + i * WINDOW, ROW,
                                                              _mm512_maskz_loadu_ps(ROW, o + (size_t)i * box_row));
                                }
                        } else
                            for (int a = 0; a < rows; a++)
                                for (int b = 0; b < columns; b++) {
                                    const int z = a * TILE + b, y = (h0 + a) * s.stride, x = (w0 + b) * s.stride;
                                    const size_t kt = t0 + f, ky = wy[f][z], kx = wx[f][z];
                                    float* d = &distances[(size_t)z * all + f * CANDIDATES];
                                    if constexpr (C % LANES == 0)
                                        direct_wide<C, PATCH>(
                                            q.last + ((size_t)t * last_rows + y) * last_row + (size_t)x * C, last_row,
                                            k.last + (kt * last_rows + ky) * last_row + kx * C, last_row, d);
                                    else
                                        direct_small<C, PATCH>(
                                            q.planar + ((size_t)t * planar_rows + y + SLACK) * planar_row + x + SLACK,
                                            planar_row, row,
                                            k.planar + (kt * planar_rows + ky + SLACK) * planar_row + kx + SLACK,
                                            planar_row, row, d);
                                }
                    }
                    for (int a = 0; a < rows; a++)
                        for (int b = 0; b < columns; b++) {
                            const int z = a * TILE + b;
                            const size_t query = ((size_t)t * s.h + h0 + a) * s.w + w0 + b;
                            int index[16];
                            smallest(&distances[(size_t)z * all], all, s.kept, scores + query * s.kept, index);
                            for (int n = 0; n < s.kept; n++) {
                                const int f = index[n] / CANDIDATES, ij = index[n] % CANDIDATES;
                                int* place = places + (query * s.kept + n) * 3;
                                place[0] = t0 + f;
                                place[1] = wy[f][z] + ij / WINDOW;
                                place[2] = wx[f][z] + ij % WINDOW;
                            }
                        }
                }
        free(pixels);
    }
}

// --- aggregate and the gradients of scores --------------------------------------------------------
// Channels last; every thread adds into a buffer of its own, `each` floats long.

// Vectors of one row of a patch, the last of them in part.
template <int C, int PATCH>
struct PatchRow {
    static constexpr int LENGTH = PATCH * C, VECTORS = (LENGTH + 15) / 16;
    static constexpr __mmask16 TAIL = LENGTH % 16 ? (1u << (LENGTH % 16)) - 1 : ALL;
    static constexpr __mmask16 mask(int v) { return v == VECTORS - 1 ? TAIL : ALL; }
};

template <int C, int PATCH>
static void aggregate_rows(const float* v, const float* weights, const int* places, Sizes s, float* sums, size_t each) {
    using Row = PatchRow<C, PATCH>;
    const int r = PATCH / 2, rows = s.H + 2 * r;
    const size_t row = (size_t)(s.W + 2 * r) * C;
#pragma omp parallel
    {
        float* mine = sums + (size_t)omp_get_thread_num() * each;
        memset(mine, 0, each * 4);
#pragma omp for collapse(2) schedule(static)
        for (int t = 0; t < s.T; t++)
            for (int a = 0; a < s.h; a++)
                for (int b = 0; b < s.w; b++) {
                    const size_t query = ((size_t)t * s.h + a) * s.w + b;
                    const float *source[16], *weight = weights + query * s.kept;
                    for (int n = 0; n < s.kept; n++) {
                        const int* i = places + (query * s.kept + n) * 3;
                        source[n] = v + ((size_t)i[0] * rows + i[1]) * row + (size_t)i[2] * C;
                    }
                    float* d = mine + ((size_t)t * rows + a * s.stride) * row + (size_t)b * s.stride * C;
                    for (int y = 0; y < PATCH; y++) {
                        __m512 x[Row::VECTORS];
#pragma GCC unroll 8
                        for (int i = 0; i < Row::VECTORS; i++)
                            x[i] = _mm512_maskz_loadu_ps(Row::mask(i), d + y * row + 16 * i);
                        for (int n = 0; n < s.kept; n++) {
                            const __m512 w = _mm512_set1_ps(weight[n]);
#pragma GCC unroll 8
                            for (int i = 0; i < Row::VECTORS; i++)
                                x[i] = _mm512_fmadd_ps(w, _mm512_loadu_ps(source[n] + y * row + 16 * i), x[i]);
                        }
#pragma GCC unroll 8
                        for (int i = 0; i < Row::VECTORS; i++)
                            _mm512_mask_storeu_ps(d + y * row + 16 * i, Row::mask(i), x[i]);
                    }
                }
    }
}

template <int C, int PATCH>
static void backward_rows(const float* q, const float* k, const float* grad, const int* places, Sizes s, float* grad_q,
                          float* grad_k, size_t each) {
    using Row = PatchRow<C, PATCH>;
    const int r = PATCH / 2, rows = s.H + 2 * r;
    const size_t row = (size_t)(s.W + 2 * r) * C;
#pragma omp parallel
    {
        const size_t first = (size_t)omp_get_thread_num() * each;
        float *mine_q = grad_q + first, *mine_k = grad_k + first;
        memset(mine_q, 0, each * 4);
        memset(mine_k, 0, each * 4);
#pragma omp for collapse(2) schedule(static)
        for (int t = 0; t < s.T; t++)
            for (int a = 0; a < s.h; a++)
                for (int b = 0; b < s.w; b++) {
                    const size_t query = ((size_t)t * s.h + a) * s.w + b;
                    const float* g = grad + query * s.kept;
                    size_t place[16];
                    for (int n = 0; n < s.kept; n++) {
                        const int* i = places + (query * s.kept + n) * 3;
                        place[n] = ((size_t)i[0] * rows + i[1]) * row + (size_t)i[2] * C;
                    }
                    const size_t at = ((size_t)t * rows + a * s.stride) * row + (size_t)b * s.stride * C;
                    for (int y = 0; y < PATCH; y++) {
                        __m512 x[Row::VECTORS], qv[Row::VECTORS];
#pragma GCC unroll 8
                        for (int i = 0; i < Row::VECTORS; i++) {
                            x[i] = _mm512_maskz_loadu_ps(Row::mask(i), mine_q + at + y * row + 16 * i);
                            qv[i] = _mm512_maskz_loadu_ps(Row::mask(i), q + at + y * row + 16 * i);
                        }
                        for (int n = 0; n < s.kept; n++) {
                            const __m512 twice = _mm512_set1_ps(2 * g[n]);
                            const float* from = k + place[n] + y * row;
                            float* to = mine_k + place[n] + y * row;
#pragma GCC unroll 8
                            for (int i = 0; i < Row::VECTORS; i++) {
                                const __mmask16 m = Row::mask(i);
                                const __m512 d =
                                    _mm512_mul_ps(twice, _mm512_sub_ps(qv[i], _mm512_maskz_loadu_ps(m, from + 16 * i)));
                                x[i] = _mm512_add_ps(x[i], d);
                                _mm512_mask_storeu_ps(to + 16 * i, m,
                                                      _mm512_sub_ps(_mm512_maskz_loadu_ps(m, to + 16 * i), d));
                            }
                        }
#pragma GCC unroll 8
                        for (int i = 0; i < Row::VECTORS; i++)
                            _mm512_mask_storeu_ps(mine_q + at + y * row + 16 * i, Row::mask(i), x[i]);
                    }
                }
    }
}

// Sum over threads, the reflected border added to where it came from, back to (T, C, H, W).
static void fold_border(const float* sums, int threads, size_t each, int T, int C, int H, int W, int r, float* out) {
    const int rows = H + 2 * r, columns = W + 2 * r;
#pragma omp parallel for
    for (int y = 0; y < H; y++)
        for (int t = 0; t < T; t++) {
            int from[3], n = 0;
            from[n++] = y + r;
            if (y > 0 && y <= r) from[n++] = r - y;
            if (y < H - 1 && y >= H - 1 - r) from[n++] = r + 2 * (H - 1) - y;
            std::vector<float> line((size_t)columns * C, 0.f);
            for (int i = 0; i < n; i++)
                for (int m = 0; m < threads; m++) {
                    const float* s = sums + m * each + ((size_t)t * rows + from[i]) * columns * C;
                    for (int z = 0; z < columns * C; z++) line[z] += s[z];
                }
            for (int i = 1; i <= r; i++)
                for (int c = 0; c < C; c++) {
                    line[(size_t)(r + i) * C + c] += line[(size_t)(r - i) * C + c];
                    line[(size_t)(r + W - 1 - i) * C + c] += line[(size_t)(r + W - 1 + i) * C + c];
                }
            for (int c = 0; c < C; c++) {
                float* d = out + ((size_t)(t * C + c) * H + y) * W;
                for (int x = 0; x < W; x++) d[x] = line[(size_t)(x + r) * C + c];
            }
        }
}

// --- what Python calls; 0 for sizes that are not compiled ------------------------------------------
#define FOR_ALL_SIZES(DO) DO(16, 7) DO(16, 3) DO(16, 1) DO(3, 7) DO(3, 3) DO(3, 1)

static size_t padded_size(Sizes s, int r) {
    return ((size_t)s.T * (s.H + 2 * r) * (s.W + 2 * r) * s.C + 1024) / 64 * 64 + 64;
}

extern "C" void set_threads(int n) { omp_set_num_threads(n); }

extern "C" int search(const float* q, const float* k, const int* flow, int T, int C, int H, int W, int h, int w,
                      int stride, int patch, int kept, float* scores, int* places) {
    const Sizes s{T, C, H, W, h, w, stride, kept};
    const int r = patch / 2, pad = r + SLACK;
    int row = (W + 2 * pad + 15) / 16 * 16 + 16;
    if (row % 64 == 0) row += 16;  // rows a power of two apart would share cache sets
    const size_t planar = (size_t)T * (H + 2 * pad) * C * row + 1024;
    Padded both[2] = {};
    const float* given[2] = {q, k};
    for (int i = 0; i < 2; i++) {
        both[i].planar = floats(planar);
        pad_planar(given[i], T, C, H, W, pad, row, both[i].planar);
        if (C % LANES == 0) {
            both[i].last = floats(padded_size(s, r));
            pad_channels_last(given[i], T, C, H, W, r, both[i].last);
        }
    }
    int done = 0;
#define SEARCH(CC, PP) \
    if (C == CC && patch == PP) search_tiles<CC, PP>(both[0], both[1], flow, s, row, scores, places), done = 1;
    FOR_ALL_SIZES(SEARCH)
    for (Padded& p : both) free(p.planar), free(p.last);
    return done;
}

extern "C" int aggregate(const float* v, const float* weights, const int* places, int T, int C, int H, int W, int h,
                         int w, int stride, int patch, int kept, float* out) {
    const Sizes s{T, C, H, W, h, w, stride, kept};
    const int r = patch / 2, rows = H + 2 * r, columns = W + 2 * r, threads = omp_get_max_threads();
    const size_t each = padded_size(s, r);
    float *padded = floats(each), *sums = floats(each * threads);
    pad_channels_last(v, T, C, H, W, r, padded);
    int done = 0;
#define AGGREGATE(CC, PP) \
    if (C == CC && patch == PP) aggregate_rows<CC, PP>(padded, weights, places, s, sums, each), done = 1;
    FOR_ALL_SIZES(AGGREGATE)
    std::vector<float> cover_y(rows, 0), cover_x(columns, 0);  // how many queries cover a pixel is a product
    for (int a = 0; a < h; a++)
        for (int i = 0; i < patch; i++) cover_y[a * stride + i]++;
    for (int b = 0; b < w; b++)
        for (int i = 0; i < patch; i++) cover_x[b * stride + i]++;
#pragma omp parallel for collapse(2)
    for (int t = 0; t < T; t++)
        for (int y = 0; y < H; y++) {
            const size_t from = (((size_t)t * rows + y + r) * columns + r) * C;
            for (int c = 0; c < C; c++) {
                float* d = out + ((size_t)(t * C + c) * H + y) * W;
                for (int x = 0; x < W; x++) {
                    float sum = 0;
                    for (int i = 0; i < threads; i++) sum += sums[i * each + from + (size_t)x * C + c];
                    d[x] = sum / max(1.f, cover_y[y + r] * cover_x[x + r]);
                }
            }
        }
    free(padded), free(sums);
    return done;
}

extern "C" int backward(const float* q, const float* k, const float* grad, const int* places, int T, int C, int H,
                        int W, int h, int w, int stride, int patch, int kept, float* grad_q, float* grad_k) {
    const Sizes s{T, C, H, W, h, w, stride, kept};
    const int r = patch / 2, threads = omp_get_max_threads();
    const size_t each = padded_size(s, r);
    float *padded_q = floats(each), *padded_k = floats(each);
    float *sums_q = floats(each * threads), *sums_k = floats(each * threads);
    pad_channels_last(q, T, C, H, W, r, padded_q);
    pad_channels_last(k, T, C, H, W, r, padded_k);
    int done = 0;
#define BACKWARD(CC, PP) \
    if (C == CC && patch == PP) \
        backward_rows<CC, PP>(padded_q, padded_k, grad, places, s, sums_q, sums_k, each), done = 1;
    FOR_ALL_SIZES(BACKWARD)
    fold_border(sums_q, threads, each, T, C, H, W, r, grad_q);
    fold_border(sums_k, threads, each, T, C, H, W, r, grad_k);
    free(padded_q), free(padded_k), free(sums_q), free(sums_k);
    return done;
}
