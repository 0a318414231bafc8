// Vectors of WIDTH float32 or int32, one set for each instruction set. Only operations with one exact result are used, so every width
// computes the same bits. Everything here is local to the file that includes it: a linker must never pick the AVX-512 copy of a shared
// inline function for an old processor.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define TW_INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif

typedef float F __attribute__((vector_size(4 * WIDTH), may_alias));
typedef int32_t I __attribute__((vector_size(4 * WIDTH), may_alias));
typedef uint32_t U __attribute__((vector_size(4 * WIDTH), may_alias));
typedef uint8_t B __attribute__((vector_size(WIDTH), may_alias));

constexpr int32_t SMALLEST = 0x00800000;  // bits of 2^-126: below it a number is zero
constexpr int32_t LARGEST = 0x71800000;   // bits of 2^100: above it (and NaN) a number counts as not finite
constexpr int32_t MAGNITUDE = 0x7FFFFFFF;

TW_INLINE F load(const float *p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
TW_INLINE I load_int(const int32_t *p) {
    I v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
TW_INLINE void store(float *p, F v) { std::memcpy(p, &v, sizeof v); }
TW_INLINE void store_int(int32_t *p, I v) { std::memcpy(p, &v, sizeof v); }

TW_INLINE F all(float x) { return F{} + x; }
TW_INLINE I all_int(int32_t x) { return I{} + x; }
TW_INLINE I bits(F v) { return (I)v; }
TW_INLINE F floats(I v) { return (F)v; }
TW_INLINE I magnitude(F v) { return bits(v) & MAGNITUDE; }
TW_INLINE F abs_of(F v) { return floats(magnitude(v)); }

// Past the caches, for output that is not read again soon; `p` must be aligned to the vector.
TW_INLINE void stream(float *p, F v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps(p, (__m128)v);
#else
    store(p, v);
#endif
}
TW_INLINE void fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}
TW_INLINE bool aligned(const void *p) { return ((uintptr_t)p & (4 * WIDTH - 1)) == 0; }
TW_INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
TW_INLINE void prefetch_far(const void *p) { __builtin_prefetch(p, 0, 2); }  // into the second cache: a whole tile has no room in the first

// One bit a lane, lane 0 lowest.
TW_INLINE uint32_t at_least(I a, I b) {
#if defined(__AVX512F__)
    return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return ~(uint32_t)_mm256_movemask_ps((__m256)(b > a)) & 0xFF;
#elif defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)(b > a)) ^ 0xF;
#else
    uint32_t m = 0;
    for (int i = 0; i < WIDTH; i++) m |= (uint32_t)(a[i] >= b[i]) << i;
    return m;
#endif
}
TW_INLINE uint32_t equal(I a, I b) {
#if defined(__AVX512F__)
    return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)(a == b));
#elif defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)(a == b));
#else
    uint32_t m = 0;
    for (int i = 0; i < WIDTH; i++) m |= (uint32_t)(a[i] == b[i]) << i;
    return m;
#endif
}
TW_INLINE uint32_t negative(I a) {  // the sign bits
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)a);
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)a);
#elif defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)a);
#else
    uint32_t m = 0;
    for (int i = 0; i < WIDTH; i++) m |= (uint32_t)(a[i] < 0) << i;
    return m;
#endif
}

TW_INLINE I larger(I a, I b) {
#if defined(__AVX512F__)
    return (I)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (I)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const I m = a > b;
    return (a & m) | (b & ~m);
#endif
}

TW_INLINE I smaller(I a, I b) {
#if defined(__AVX512F__)
    return (I)_mm512_min_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (I)_mm256_min_epi32((__m256i)a, (__m256i)b);
#else
    const I m = a < b;
    return (a & m) | (b & ~m);
#endif
}

// The larger of m, not below 0, and |v|; where v is NaN, which the squares tell, anything.
TW_INLINE F largest_magnitude(F m, F v) {
#if defined(__AVX512F__)
    return (F)_mm512_range_ps((__m512)m, (__m512)v, 0x0B);
#elif defined(__AVX2__)
    return (F)_mm256_max_ps((__m256)abs_of(v), (__m256)m);
#elif defined(__SSE2__)
    return (F)_mm_max_ps((__m128)abs_of(v), (__m128)m);
#else
    return floats(larger(bits(m), magnitude(v)));
#endif
}

// v where 2^-126 <= |v| <= 2^100, else +0: what may be sent.
TW_INLINE F sendable(F v) {
    const U above = (U)(magnitude(v) - SMALLEST);
#if defined(__AVX512F__)
    return (F)_mm512_maskz_mov_ps(_mm512_cmple_epu32_mask((__m512i)above, _mm512_set1_epi32(LARGEST - SMALLEST)), (__m512)v);
#else
    return floats(bits(v) & (above <= (uint32_t)(LARGEST - SMALLEST)));
#endif
}
// v, and +0 where it is -0 or denormal. NaN, Inf and what is too large stay: see `Sum::sane`.
TW_INLINE F normal(F v) {
#if defined(__AVX512F__)
    return (F)_mm512_maskz_mov_ps(_mm512_test_epi32_mask((__m512i)v, _mm512_set1_epi32(0x7F800000)), (__m512)v);
#else
    return floats(bits(v) & ((bits(v) & 0x7F800000) != 0));
#endif
}
// normal(v) * c for a finite c above 0.
TW_INLINE F normal_times(F v, float c) {
#if defined(__AVX512F__)
    return (F)_mm512_maskz_mul_ps(_mm512_test_epi32_mask((__m512i)v, _mm512_set1_epi32(0x7F800000)), (__m512)v, _mm512_set1_ps(c));
#else
    return normal(v) * c;
#endif
}
// One more in every lane that is NaN, Inf or above 2^100.
TW_INLINE I count_large(I count, F v) {
#if defined(__AVX512F__)
    const __mmask16 large = _mm512_cmpgt_epi32_mask((__m512i)magnitude(v), _mm512_set1_epi32(LARGEST));
    return (I)_mm512_mask_add_epi32((__m512i)count, large, (__m512i)count, _mm512_set1_epi32(1));
#else
    return count - (magnitude(v) > LARGEST);
#endif
}

// Round half to even for |v| < 2^22: the sum has steps of 1. (No fast-math: the compiler may not simplify it.)
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23
TW_INLINE F nearest(F v) { return (v + MAGIC) - MAGIC; }
TW_INLINE I nearest_int(F v) { return bits(v + MAGIC) - 0x4B400000; }

inline int32_t largest_lane(I v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t lanes[WIDTH], most;
    store_int(lanes, v);
    most = lanes[0];
    for (int i = 1; i < WIDTH; i++) most = lanes[i] > most ? lanes[i] : most;
    return most;
#endif
}

inline int32_t smallest_lane(I v) {
#if defined(__AVX512F__)
    return _mm512_reduce_min_epi32((__m512i)v);
#else
    return -largest_lane(-v);
#endif
}

// 0, 1, 2, ...
TW_INLINE I lanes() {
    I v;
    for (int i = 0; i < WIDTH; i++) v[i] = i;
    return v;
}

// Every lane one up; the highest of `last` comes in below.
TW_INLINE I one_up(I v, I last) {
#if defined(__AVX512F__)
    return (I)_mm512_alignr_epi32((__m512i)v, (__m512i)last, 15);
#else
    I up;
    up[0] = last[WIDTH - 1];
    for (int i = 1; i < WIDTH; i++) up[i] = v[i - 1];
    return up;
#endif
}

// a * b + c, rounded once where that is quicker: for statistics and exact products.
TW_INLINE F fused(F a, F b, F c) {
#if defined(__AVX512F__)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// 64 partial sums, so that additions need not wait for each other, in the same order at every width.
struct Sum {
    F part[64 / WIDTH] = {};
    TW_INLINE void add(int place, F v) { part[place] += v; }  // place: which vector of a block of 64
    TW_INLINE void add_square(int place, F v) {
        part[place] = fused(v, v, part[place]);
    }
    // Of a sum of squares: none was of NaN, Inf, or a number of 2^64 or more.
    static bool sane(double total) { return total <= 0x1p127; }
    double total() const {
        float lane[64];
        std::memcpy(lane, part, sizeof lane);
        double sum = 0;
        for (int i = 0; i < 16; i++) lane[i] = (lane[i] + lane[i + 16]) + (lane[i + 32] + lane[i + 48]);
        for (int i = 0; i < 4; i++) sum += (double)((lane[i] + lane[i + 4]) + (lane[i + 8] + lane[i + 12]));
        return sum;
    }
};

// body(at, place) for every vector of n numbers, n a multiple of 16: `at` is its first number, `place` its place in a block of 64.
template <class Body> TW_INLINE void each_vector(int64_t n, Body body) {
    int64_t at = 0;
    for (; at + 64 <= n; at += 64)
#pragma GCC unroll 16
        for (int place = 0; place < 64 / WIDTH; place++) body(at + place * WIDTH, place);
    for (; at < n; at += 16)
#pragma GCC unroll 4
        for (int place = 0; place < 16 / WIDTH; place++) body(at + place * WIDTH, place);
}

TW_INLINE float float_of(uint32_t b) {
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}
TW_INLINE uint32_t bits_of(float f) {
    uint32_t b;
    std::memcpy(&b, &f, 4);
    return b;
}

}  // namespace
