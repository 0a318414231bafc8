// Rows where every number is sent, straight from their tensor: one sweep for the scale, one for the codes, both in the first cache.
//
// A row is usual when its squares are finite and its scale is neither zero nor tiny: then there is no NaN, no Inf and no number above 2^64,
// and a quotient needs no division. What is unusual is left to the rows of encode.cpp.
#pragma once
#include "narrow.h"
#include "quantise.h"

namespace {

// Numbers below 2^-126 count as zero here, which the processor does by itself. Nothing is inlined into what holds one of these.
struct FlushDenormals {
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before); }
#endif
};
struct KeepDenormals {
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    KeepDenormals() { _mm_setcsr(before & ~0x8040u); }
    ~KeepDenormals() { _mm_setcsr(before); }
#endif
};

// a * b + c. With one rounding where that is quicker: only for statistics, and where the result is exact anyway.
TW_INLINE F fused(F a, F b, F c) {
#if defined(__AVX512F__)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

TW_INLINE F abs_of(F v) { return floats(magnitude(v)); }

// Lines of memory that are wanted soon: a few with every step, so that memory works while the processor does.
struct Soon {
    const char *at;
    TW_INLINE void lines(int n) {
        for (int i = 0; i < n; i++) prefetch(at + 64 * i);
        at += 64 * n;
    }
};

// body(numbers, place) for every 64 of n numbers; the last ones as a copy, with zeros behind them.
template <class Body> TW_INLINE void each_group(const float *x, int64_t n, Body body) {
    int64_t at = 0;
    for (; at + GROUP <= n; at += GROUP) body(x + at, at, GROUP);
    if (at == n) return;
    alignas(64) float last[GROUP] = {};
    std::memcpy(last, x + at, (size_t)(4 * (n - at)));
    body(last, at, (int)(n - at));
}

// -- the first sweep -----------------------------------------------------------------------------------------------------------

struct Survey {
    float largest;  // the largest magnitude, or the sum of magnitudes
    float squares;
};

inline float total(F v) {
    float lane[WIDTH], sum = 0;
    store(lane, v);
    for (float l : lane) sum += l;
    return sum;
}

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

__attribute__((noinline)) inline Survey survey(const float *x, int64_t n, Soon &soon_) {
    Soon soon = soon_;
    F most[4] = {}, squares[4] = {};
    each_group(x, n, [&](const float *v, int64_t, int) {
        soon.lines(2);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const F w = load(v + i * WIDTH);
            most[i % 4] = largest_magnitude(most[i % 4], w);
            squares[i % 4] = fused(w, w, squares[i % 4]);
        }
    });
    soon_ = soon;
    const I m = larger(larger(bits(most[0]), bits(most[1])), larger(bits(most[2]), bits(most[3])));
    return {float_of((uint32_t)largest_lane(m)), total((squares[0] + squares[1]) + (squares[2] + squares[3]))};
}

// -- the second ----------------------------------------------------------------------------------------------------------------

// v / scale, rounded once: exact because a scale has 16 bits. The first product is off by at most two units in the last place, so the rest
// v - p * scale fits into a float; and no quotient is so close to the middle between two floats that what is left of the error mattered
// (its distance is at least 2^-17 of a unit).
struct Quotient {
    F scale, inverse;
    TW_INLINE F of(F v) const {
#if defined(__AVX512F__)
        const __m512 p = _mm512_mul_ps((__m512)v, (__m512)inverse);
        return (F)_mm512_fmadd_ps(_mm512_fnmadd_ps(p, (__m512)scale, (__m512)v), (__m512)inverse, p);
#elif defined(__FMA__)
        const __m256 p = _mm256_mul_ps((__m256)v, (__m256)inverse);
        return (F)_mm256_fmadd_ps(_mm256_fnmadd_ps(p, (__m256)scale, (__m256)v), (__m256)inverse, p);
#else
        return v / scale;
#endif
    }
};

template <int bits_> struct DenseInt {
    static constexpr int bits = bits_;
    Quotient quotient;
    TW_INLINE void operator()(const float *x, int64_t, uint8_t *out) const {
        I code[VECTORS];
        for (int i = 0; i < VECTORS; i++) code[i] = to_int(quotient.of(load(x + i * WIDTH)));
        for (int i = 0; i < VECTORS; i += 4)
            store_codes_of<bits>(to_bytes<false>(code[i], code[i + 1], code[i + 2], code[i + 3]), out + i * WIDTH * bits / 8);
    }
};

// A sum with 2^(exponent + DROPPED) has steps as large as those of the small float, so the addition rounds; its last bits count the steps,
// and the exponent, moved to its place, completes the code. Below the smallest normal number the steps become no smaller.
template <int bits_, int MANTISSA, int SMALLEST_EXPONENT> struct DenseMinifloat {
    static constexpr int bits = bits_;
    Quotient quotient;
    TW_INLINE I code(F v) const {
        constexpr int DROPPED = 23 - MANTISSA;
        constexpr int LOWEST = 127 + SMALLEST_EXPONENT, START = -(LOWEST << MANTISSA) & 0xFF;  // even: it turns no tie
        const F y = quotient.of(v);
        const I exponent = larger(::bits(y) & 0x7F800000, all_int(LOWEST << 23));
        const F rounded = abs_of(y) + floats(exponent + ((DROPPED << 23) + START));
        const I size = ::bits(rounded) + (I)((U)exponent >> DROPPED), sign = (I)((U)::bits(v) >> (32 - bits));
        constexpr int SIZE = (1 << (bits - 1)) - 1;
#if defined(__AVX512F__)
        return (I)_mm512_ternarylogic_epi32(_mm512_set1_epi32(SIZE), (__m512i)size, (__m512i)sign, 0xCA);
#else
        return (size & SIZE) | (sign & ~SIZE);
#endif
    }
    TW_INLINE void operator()(const float *x, int64_t, uint8_t *out) const {
        I c[VECTORS];
        for (int i = 0; i < VECTORS; i++) c[i] = code(load(x + i * WIDTH));
        for (int i = 0; i < VECTORS; i += 4) {
            const Q q = to_bytes<true>(c[i], c[i + 1], c[i + 2], c[i + 3]);
            store_codes_of<bits>(zero_where(q, 1 << (bits - 1)), out + i * WIDTH * bits / 8);
        }
    }
};

template <class C> __attribute__((noinline)) void code_dense(const C &coder_, const float *x, int64_t n, uint8_t *out, int64_t room, Soon &soon_) {
    const C coder = coder_;  // in registers
    Soon soon = soon_;
    each_group(x, n, [&](const float *v, int64_t at, int many) {
        soon.lines(2);
        uint8_t *to = out + at * C::bits / 8;
        if (many == GROUP) return coder(v, at, to);
        uint8_t last[GROUP * C::bits / 8];
        coder(v, at, last);
        std::memcpy(to, last, (size_t)(out + room - to));
    });
    soon_ = soon;
}

}  // namespace
