// The 2-D DCT of one square tile in the first cache: columns, transposition, columns again.
#pragma once
#include "layout.h"
#include "lee.h"

namespace {

// out[r * apart + i] = v[i][r] for WIDTH vectors v.
TW_INLINE void store_transposed(const F *v, float *out, int apart) {
#if defined(__AVX512F__)
    const float *in = (const float *)v;  // loads put quarters of vectors together, so that only half of the work is left to shuffles
#pragma GCC unroll 4
    for (int q = 0; q < 16; q += 4) {
        __m512 a[4];
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            a[s] = _mm512_castps128_ps512(_mm_loadu_ps(in + 16 * s + q));
            a[s] = _mm512_insertf32x4(a[s], _mm_loadu_ps(in + 16 * (s + 4) + q), 1);
            a[s] = _mm512_insertf32x4(a[s], _mm_loadu_ps(in + 16 * (s + 8) + q), 2);
            a[s] = _mm512_insertf32x4(a[s], _mm_loadu_ps(in + 16 * (s + 12) + q), 3);
        }
        const __m512d ab = (__m512d)_mm512_unpacklo_ps(a[0], a[1]), AB = (__m512d)_mm512_unpackhi_ps(a[0], a[1]);
        const __m512d cd = (__m512d)_mm512_unpacklo_ps(a[2], a[3]), CD = (__m512d)_mm512_unpackhi_ps(a[2], a[3]);
        store(out + q * apart, (F)_mm512_unpacklo_pd(ab, cd));
        store(out + (q + 1) * apart, (F)_mm512_unpackhi_pd(ab, cd));
        store(out + (q + 2) * apart, (F)_mm512_unpacklo_pd(AB, CD));
        store(out + (q + 3) * apart, (F)_mm512_unpackhi_pd(AB, CD));
    }
#elif defined(__AVX2__)
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps((__m256)v[i], (__m256)v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps((__m256)v[i], (__m256)v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = (__m256)_mm256_unpacklo_pd((__m256d)a[i + j], (__m256d)a[i + j + 2]);
            b[i + 2 * j + 1] = (__m256)_mm256_unpackhi_pd((__m256d)a[i + j], (__m256d)a[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        store(out + j * apart, (F)_mm256_permute2f128_ps(b[j], b[j + 4], 0x20));
        store(out + (j + 4) * apart, (F)_mm256_permute2f128_ps(b[j], b[j + 4], 0x31));
    }
#elif defined(__SSE2__)
    __m128 a = (__m128)v[0], b = (__m128)v[1], c = (__m128)v[2], d = (__m128)v[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    store(out, (F)a), store(out + apart, (F)b), store(out + 2 * apart, (F)c), store(out + 3 * apart, (F)d);
#else
    for (int i = 0; i < WIDTH; i++)
        for (int r = 0; r < WIDTH; r++) out[r * apart + i] = v[i][r];
#endif
}

// All rows but the first have one scale: two lines of this table are enough for vectors, and stay in registers.
template <int N> struct Scale {
    alignas(64) float value[N * N];
    Scale() {
        for (int v = 0; v < N; v++)
            for (int u = 0; u < N; u++) value[v * N + u] = (float)(one(v) * one(u));
    }
    static double one(int k) { return std::sqrt((k ? 2.0 : 1.0) / N); }
};
template <int N> const Scale<N> scale_2d;

enum class Way { forward, inverse };

// Beside a transform of side 64, a line of 64 bytes at a time, spread evenly (all at once would fill the processor's queues, and then it
// would wait): the lines of a tile to come are asked for. Its rows lie too far apart for the processor to guess.
struct Ahead {
    static constexpr int LINES_OF_A_ROW = 4;

    const char *at;
    int64_t stride;  // bytes between rows
    int left = LINES_OF_A_ROW;

    TW_INLINE void line(int) {
        prefetch_far(at);
        at += 64;
        if (--left == 0) at += stride - 64 * LINES_OF_A_ROW, left = LINES_OF_A_ROW;
    }
    TW_INLINE void turn() {}  // 64 vectors are done
};

// Of the tile of a row, or of some memory where it has none.
inline Ahead tile_ahead(const TwLayout &layout, int64_t row, const void *otherwise) {
    int64_t stride = 0;
    const char *at = tile_at(layout, row, &stride);
    if (!at) return {(const char *)otherwise, 64 * Ahead::LINES_OF_A_ROW};
    return {at, stride};
}

// A row that is done, on its way to memory past the caches while the next one is worked on.
struct Behind {
    const float *from = nullptr;
    float *to = nullptr;  // null: nothing is on its way

    TW_INLINE void put(int i) const {  // a line of 64 bytes
        for (int j = 0; j < 16; j += WIDTH) stream(to + 16 * i + j, load(from + 16 * i + j));
    }
    TW_INLINE void skip(int lines) { from += 16 * lines, to += 16 * lines; }
    TW_INLINE void line(int i) const { put(2 * i), put(2 * i + 1); }
    TW_INLINE void turn() { skip(2 * LINES); }
};

inline void put_away(Behind behind, int64_t n) {
    if (!behind.to) return;
    if (n % 16 || !aligned(behind.to)) std::memcpy(behind.to, behind.from, (size_t)(4 * n));
    else
        for (int64_t i = 0; i < n; i += 16) behind.put(0), behind.skip(1);
}

// Beside a transform that writes over what is left of the one before it: what comes next is asked for, and what was last goes out.
template <class Next, class Last> struct Beside {
    Next next;
    Last last;

    TW_INLINE void line(int i) { next.line(i), last.line(i); }
    TW_INLINE void turn() { next.turn(), last.turn(); }
};

// Vectors that come from get(i), transformed to put(k, v).
template <Way way, int N, class Get, class Put, class Aside> TW_INLINE void lee(Get get, Put put, Aside &aside) {
    if constexpr (N == 64) {
        if (way == Way::forward) forward64(get, put, aside);
        else inverse64(get, put, aside);
        aside.turn();
    } else {
        F in[N], y[N];
#pragma GCC unroll 64
        for (int i = 0; i < N; i++) in[i] = get(i);
        if (way == Way::forward) lee_forward<N>(in, y);
        else lee_inverse<N>(in, y);
#pragma GCC unroll 64
        for (int i = 0; i < N; i++) put(i, y[i]);
    }
}

// Where the first pass takes its numbers from: the vector (or the number) of row i and column c, on the way back times the scale.
template <Way way, int N> struct FromTile {
    static constexpr bool backward = false;  // the order of the blocks of columns
    const float *x;
    TW_INLINE F vector(int i, int c, F scale) const { return way == Way::inverse ? load(x + i * N + c) * scale : load(x + i * N + c); }
    TW_INLINE float number(int i, int c) const { return way == Way::inverse ? x[i * N + c] * scale_2d<N>.value[i * N + c] : x[i * N + c]; }
};
template <Way way> struct Tile {
    const float *x;
    template <int N> FromTile<way, N> of() const { return {x}; }
};

// The scale of all coefficients but those of the first row and the first column.
inline float usual_scale(int64_t side) { return 2.0f / (float)side; }

// The way back from sums, which become zero behind it, times a factor. `scaled`: the factor and the usual scale, powers of two, are in the
// sums already, and what is left of the scale is multiplied into the first row here and into the first column by `of`.
template <int N, bool scaled> struct FromSums {
    static constexpr bool backward = true;  // `Sums` has just written the first column; a tile that waits goes in this order (decode.cpp)
    float *x;
    float factor;
    TW_INLINE F vector(int i, int c, F scale) const {
        const F v = load(x + i * N + c);
        store(x + i * N + c, F{});
        if (!scaled) return v * factor * scale;
        return i ? v : v * (scale * (N / 2.0f));
    }
    TW_INLINE float number(int i, int c) const {
        const float v = x[i * N + c], scale = scale_2d<N>.value[i * N + c];
        x[i * N + c] = 0;
        if (!scaled) return v * factor * scale;
        return i ? v : v * (scale * (N / 2.0f));
    }
};
template <bool scaled> struct Sums {
    float *x;
    float factor = 1;
    template <int N> FromSums<N, scaled> of() const {
        const float left = scale_2d<N>.value[N] * (N / 2.0f);
        for (int i = 1; scaled && i < N; i++) x[i * N] *= left;
        return {x, factor};
    }
};

// The two passes are functions of their own, so that each is compiled once for what it depends on.

// Columns, each a transform of length N, put down as rows of out.
template <Way way, int N, class Get, class Aside>
__attribute__((noinline)) void columns_to_rows(Get &get_, float *out, Aside &aside_) {
    Get get = get_;  // all in registers
    Aside aside = aside_;
    if constexpr (N >= WIDTH) {
        for (int block = 0; block < N; block += WIDTH) {
            const int c = Get::backward ? N - WIDTH - block : block;
            F y[N];
            const F first = load(scale_2d<N>.value + c), other = load(scale_2d<N>.value + N + c);
            lee<way, N>([&](int i) { return get.vector(i, c, i ? other : first); }, [&](int k, F v) { y[k] = v; }, aside);
            for (int u = 0; u < N; u += WIDTH) store_transposed(y + u, out + c * N + u, N);
        }
    } else {
        for (int c = 0; c < N; c++) {
            float in[N], y[N];
            for (int i = 0; i < N; i++) in[i] = get.number(i, c);
            if (way == Way::forward) lee_forward<N>(in, y);
            else lee_inverse<N>(in, y);
            std::memcpy(out + c * N, y, sizeof y);
        }
    }
    get_ = get, aside_ = aside;
}

// Columns of x, each a transform; emit(place, vector, row) gets every vector of the result.
template <Way way, int N, class Aside, class Emit>
__attribute__((noinline)) void columns(const float *x, float *scratch, const Aside &aside_, Emit &emit_) {
    Aside aside = aside_;  // all in registers
    Emit emit = emit_;
    const float *scale = scale_2d<N>.value;
    if constexpr (N >= WIDTH) {
        for (int c = 0; c < N; c += WIDTH) {
            const F first = load(scale + c), other = load(scale + N + c);
            lee<way, N>([&](int i) { return load(x + i * N + c); },
                        [&](int k, F v) { emit(k * N + c, way == Way::forward ? v * (k ? other : first) : v, k); }, aside);
        }
    } else {
        for (int c = 0; c < N; c++) {
            float in[N], y[N];
            for (int i = 0; i < N; i++) in[i] = x[i * N + c];
            if (way == Way::forward) lee_forward<N>(in, y);
            else lee_inverse<N>(in, y);
            for (int i = 0; i < N; i++) scratch[i * N + c] = way == Way::forward ? y[i] * scale[i * N + c] : y[i];
        }
        for (int i = 0; i < N * N; i += WIDTH) emit(i, load(scratch + i), i / N);
    }
    emit_ = emit;
}

// A tile, by way of two scratch tiles, to emit(place, vector, row), which may write to the first of them. The scale is multiplied
// into the coefficients, after both passes forward and before both backward (kernels/dct.py).
template <Way way, int N, class Source, class Aside, class Emit>
inline void transform_side(const Source &source, float *scratch, Aside &aside, Emit &emit) {
    auto get = source.template of<N>();
    columns_to_rows<way, N>(get, scratch, aside);
    columns<way, N>(scratch, scratch + N * N, aside, emit);
}
template <Way way, class Source, class Aside, class Emit>
inline void transform_tile(const Source &source, float *scratch, int64_t side, Aside &aside, Emit &emit) {
    switch (side) {
        case 8: return transform_side<way, 8>(source, scratch, aside, emit);
        case 16: return transform_side<way, 16>(source, scratch, aside, emit);
        case 32: return transform_side<way, 32>(source, scratch, aside, emit);
        case 64: return transform_side<way, 64>(source, scratch, aside, emit);
    }
}

// The plainest thing to do with a result.
template <bool past_caches> struct StoreAt {
    float *out;
    TW_INLINE void operator()(int64_t at, F v, int) { past_caches ? stream(out + at, v) : store(out + at, v); }
};

}  // namespace
