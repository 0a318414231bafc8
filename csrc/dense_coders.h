// How 64 numbers of a usual dense row become codes, and what a receiver reads. A row is usual when its squares are finite and its scale is
// neither tiny nor 0: then there is no NaN, no Inf and no number above 2^64, a quotient needs no division, and no code leaves its range.
#pragma once
#include "narrow.h"
#include "quantise.h"

namespace {

// Bits of a where `which` has ones, else of b.
TW_INLINE I either(I which, I a, I b) {
#if defined(__AVX512F__)
    return (I)_mm512_ternarylogic_epi32((__m512i)which, (__m512i)a, (__m512i)b, 0xCA);
#else
    return (a & which) | (b & ~which);
#endif
}

// v / scale, rounded once. A scale has 16 bits: so v - p * scale fits into a float, as p is off by two units in the last place at most, and
// a quotient is never nearer than 2^-17 units to the middle between two floats, where the last error, 2^-23 of one, could matter.
struct Quotient {
    F scale, inverse;
    explicit Quotient(float s) : scale(all(s)), inverse(all(1.0f / s)) {}
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

// A coder has: `bits` of a code; codes(v, at, code, sent) for 64 numbers, of which the first has place `at` in the row; put(code, out).

template <int bits_> struct DenseInt {
    static constexpr int bits = bits_;
    Quotient quotient;
    TW_INLINE void codes(const F *v, int64_t, I *code, F *sent) const {
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            code[i] = to_int(quotient.of(v[i]));
            sent[i] = to_float(code[i]) * quotient.scale;
        }
    }
    static TW_INLINE void put(const I *code, uint8_t *out) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i += 4)
            store_codes_of<bits>(to_bytes<false>(code[i], code[i + 1], code[i + 2], code[i + 3]), out + i * WIDTH * bits / 8);
    }
};

// The 16 random bits of 2 * WIDTH numbers, as parts of 1: a word of the hash has those of two neighbours.
TW_INLINE void noise(int64_t place, uint32_t seed, F *parts) {
#if defined(__SSE2__)
    U which;  // so ordered that the halves of its quarters, unpacked, are the numbers in order
    for (int i = 0; i < WIDTH; i++) which[i] = (uint32_t)(i / 4 * 2 + (i & 1) + (i & 2) * WIDTH / 4);
    const U word = lowbias32((which + (uint32_t)(place / 2)) ^ seed), of_128 = U{} + 0x43004300u;  // bits of 128, which has steps of 2^-16
#if defined(__AVX512F__)
    parts[0] = (F)_mm512_unpacklo_epi16((__m512i)word, (__m512i)of_128);
    parts[1] = (F)_mm512_unpackhi_epi16((__m512i)word, (__m512i)of_128);
#elif defined(__AVX2__)
    parts[0] = (F)_mm256_unpacklo_epi16((__m256i)word, (__m256i)of_128);
    parts[1] = (F)_mm256_unpackhi_epi16((__m256i)word, (__m256i)of_128);
#else
    parts[0] = (F)_mm_unpacklo_epi16((__m128i)word, (__m128i)of_128);
    parts[1] = (F)_mm_unpackhi_epi16((__m128i)word, (__m128i)of_128);
#endif
    parts[0] -= 128.0f, parts[1] -= 128.0f;
#else
    for (int i = 0; i < 2; i++) {
        const U j = (U)(lanes() + (int32_t)(place + i * WIDTH)), word = lowbias32((j >> 1) ^ seed);
        parts[i] = to_float((I)(word >> ((j & 1) * 16) & 0xFFFF)) * 0x1p-16f;
    }
#endif
}

// Down, or up where what is lost exceeds the noise.
template <int bits_> struct DenseStochastic : DenseInt<bits_> {
    uint32_t seed;
    DenseStochastic(float scale, uint32_t seed_) : DenseInt<bits_>{Quotient(scale)}, seed(seed_) {}
    static TW_INLINE I up_or_down(F v, F y, F noise) {
#if defined(__AVX512F__)
        y = (F)_mm512_maskz_mov_ps(_mm512_test_epi32_mask((__m512i)v, _mm512_set1_epi32(0x7F800000)), (__m512)y);  // v is no denormal
        const __m512 low = _mm512_roundscale_ps((__m512)y, 0x09);
        const __mmask16 up = _mm512_cmp_ps_mask(_mm512_sub_ps((__m512)y, low), (__m512)noise, _CMP_GT_OQ);
        const __m512i code = _mm512_cvtps_epi32(low);
        return (I)_mm512_mask_sub_epi32(code, up, code, _mm512_set1_epi32(-1));
#else
        y = floats(::bits(y) & (magnitude(v) >= SMALLEST));
#if defined(__AVX2__)
        const F low = (F)_mm256_floor_ps((__m256)y);
#else
        F low = nearest(y);
        low -= floats(::bits(all(1.0f)) & (low > y));
#endif
        return (I)((U)to_int(low) - (U)(y - low > noise));
#endif
    }
    TW_INLINE void codes(const F *v, int64_t at, I *code, F *sent) const {
#pragma GCC unroll 8
        for (int i = 0; i < VECTORS; i += 2) {
            F parts[2];
            noise(at + i * WIDTH, seed, parts);
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                code[i + j] = up_or_down(v[i + j], this->quotient.of(v[i + j]), parts[j]);
                sent[i + j] = to_float(code[i + j]) * this->quotient.scale;
            }
        }
    }
};

// A sum with 2^(exponent + DROPPED) has steps as large as those of the small float, so the addition rounds; its last bits count the steps,
// and the exponent, moved to its place, completes the code. Below the smallest normal number the steps become no smaller.
template <int bits_, int MANTISSA, int SMALLEST_EXPONENT> struct DenseMinifloat {
    static constexpr int bits = bits_, SIZE = (1 << (bits - 1)) - 1;  // the code without its sign
    Quotient quotient;
    TW_INLINE I code_of(F v) const {
        constexpr int DROPPED = 23 - MANTISSA;
        constexpr int LOWEST = 127 + SMALLEST_EXPONENT, START = -(LOWEST << MANTISSA) & 0xFF;  // even: it turns no tie
        const F lowest = floats(all_int(LOWEST << 23));
        const F y = quotient.of(v);
#if defined(__AVX512F__)
        const __m512 size = _mm512_range_ps((__m512)y, (__m512)lowest, 0x03);  // the larger magnitude, with the sign of y
        const I power = (I)_mm512_ternarylogic_epi32((__m512i)size, _mm512_set1_epi32((int)0xFF800000), _mm512_set1_epi32(START), 0xEA);
        const F rounded = fused(floats(power), all((float)(1 << DROPPED)), y);  // the product is exact
#else
        const I power = larger(::bits(y) & 0x7F800000, ::bits(lowest));
        const F rounded = abs_of(y) + floats((I)((U)power + (uint32_t)((DROPPED << 23) + START)));  // of NaN: anything
#endif
        const I code = (I)((U)::bits(rounded) + ((U)power >> DROPPED));  // its last bits
        return either(all_int(SIZE), code, (I)((U)::bits(v) >> (32 - bits)));
    }
    TW_INLINE void codes(const F *v, int64_t, I *code, F *sent) const {
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            code[i] = code_of(v[i]);
            const I size = code[i] & SIZE, minus = (I)((U)code[i] << (32 - bits)) & INT32_MIN & ~(size == 0);
            sent[i] = floats(::bits((bits == 8 ? from_fp8(size) : from_fp4(size)) * quotient.scale) | minus);
        }
    }
    static TW_INLINE void put(const I *code, uint8_t *out) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i += 4) {
            const Q q = to_bytes<true>(code[i], code[i + 1], code[i + 2], code[i + 3]);
            store_codes_of<bits>(zero_where(q, SIZE + 1), out + i * WIDTH * bits / 8);  // -0 is never sent
        }
    }
};

// What stays a float. `v` without denormals: -0 is never sent.
struct DenseFloat {
    static constexpr int bits = 32;
    TW_INLINE void codes(const F *v, int64_t, I *code, F *sent) const {
        for (int i = 0; i < VECTORS; i++) code[i] = ::bits(v[i]), sent[i] = v[i];
    }
    template <bool past_caches = false> static TW_INLINE void put(const I *code, uint8_t *out) {
        for (int i = 0; i < VECTORS; i++) put_vector((float *)out + i * WIDTH, floats(code[i]), past_caches);
    }
};

// Of fp16 only what is at most 65504: beyond that it is not to become Inf, which encode.cpp sees to.
template <bool brain> struct DenseHalf {
    static constexpr int bits = 16;
    static TW_INLINE I to_half(F v) {
#if defined(__AVX512F__)
        const I code = (I)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
        const I code = (I)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
        return to_fp16(v);
#endif
#if defined(__F16C__)
        return code & ~(code == 0x8000);
#endif
    }
    TW_INLINE void codes(const F *v, int64_t, I *code, F *sent) const {
        for (int i = 0; i < VECTORS; i++) {
            code[i] = brain ? to_bf16(v[i]) : to_half(v[i]);
            sent[i] = brain ? from_bf16(code[i]) : from_fp16(code[i]);
        }
    }
    template <bool past_caches = false> static TW_INLINE void put(const I *code, uint8_t *out) { store_words<past_caches>(code, out); }
};

}  // namespace
