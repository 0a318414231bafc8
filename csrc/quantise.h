// How a coefficient becomes a small integer and back: kernels/reference.py, a row at a time.
#pragma once
#include <cmath>

#include "simd.h"

namespace {

// As kernels/program.py.
enum Value { V_FLOAT32, V_BFLOAT16, V_FLOAT16, V_INT8, V_INT4, V_INT2, V_SIGN, V_VOTE, V_FP8, V_FP4 };

constexpr uint32_t ZERO_BLOCK = 0x0D800000;  // bits of 2^-100: a row whose largest magnitude is below it is sent as zeros

inline int value_bits(int64_t value) {
    switch (value) {
        case V_FLOAT32: return 32;
        case V_BFLOAT16: case V_FLOAT16: return 16;
        case V_INT8: case V_FP8: return 8;
        case V_INT4: case V_FP4: return 4;
        case V_INT2: return 2;
        default: return 1;
    }
}

// The code of the largest magnitude stands for this number.
inline float value_most(int64_t value) {
    switch (value) {
        case V_INT8: return 127;
        case V_INT4: return 7;
        case V_FP8: return 448;
        case V_FP4: return 6;
        default: return 1;
    }
}

inline float round_up16(float x) { return float_of((bits_of(x) + 0xFF) & ~0xFFu); }

// Arrays below are aligned and padded with zeros to 16 numbers. What cannot be sent counts as zero.

inline int64_t blocks16(int64_t n) { return (n + 15) / 16 * 16; }

// The bits of a magnitude that may be sent, else 0. As integers they order like the numbers.
TW_INLINE I key_of(F v) { return magnitude(sendable(v)); }

inline int32_t largest_key(const float *x, int64_t n) {
    I m[4] = {};
    each_vector(blocks16(n), [&](int64_t at, int place) { m[place % 4] = larger(m[place % 4], key_of(load(x + at))); });
    return largest_lane(larger(larger(m[0], m[1]), larger(m[2], m[3])));
}

inline float absmax_scale(const float *x, int64_t n, float most) {
    const uint32_t largest = (uint32_t)largest_key(x, n);
    return largest < ZERO_BLOCK ? 0.0f : round_up16(float_of(largest) / most);
}

// Mean magnitude by a halving tree over the next power of two; `scratch` has room for so many.
inline float mean_scale(const float *x, int64_t n, float *scratch) {
    int64_t size = 2 * WIDTH;
    while (size < n) size *= 2;
    for (int64_t i = blocks16(n); i < size; i += WIDTH) store(scratch + i, F{});
    int64_t half = size / 2;  // of more zeros than the tree has, at most: adding zero changes nothing
    if (n == size) {
        for (int64_t i = 0; i < half; i += WIDTH) store(scratch + i, floats(key_of(load(x + i))) + floats(key_of(load(x + half + i))));
    } else {
        for (int64_t i = 0; i < blocks16(n); i += WIDTH) store(scratch + i, floats(key_of(load(x + i))));
        for (int64_t i = 0; i < half; i += WIDTH) store(scratch + i, load(scratch + i) + load(scratch + half + i));
    }
    while (half > WIDTH) {
        half /= 2;
        for (int64_t i = 0; i < half; i += WIDTH) store(scratch + i, load(scratch + i) + load(scratch + half + i));
    }
    while (half > 1) {
        half /= 2;
        for (int64_t i = 0; i < half; i++) scratch[i] += scratch[half + i];
    }
    const float mean = scratch[0] / (float)n;
    return bits_of(mean) < ZERO_BLOCK ? 0.0f : round_up16(mean);
}

// Four times as many lanes of bytes are stored as codes.
TW_INLINE void store_codes(uint8_t *p, I codes) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)codes));
#else
    const B b = __builtin_convertvector((U)codes, B);
    std::memcpy(p, &b, sizeof b);
#endif
}
TW_INLINE I load_codes(const uint8_t *p) {  // not signed
#if defined(__AVX512F__)
    return (I)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#else
    B b;
    std::memcpy(&b, p, sizeof b);
    return (I)__builtin_convertvector(b, U);
#endif
}
TW_INLINE void store_halves(uint8_t *p, I codes) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)codes));
#else
    uint16_t half[WIDTH];
    for (int j = 0; j < WIDTH; j++) half[j] = (uint16_t)codes[j];
    std::memcpy(p, half, sizeof half);
#endif
}
TW_INLINE F to_float(I v) { return __builtin_convertvector(v, F); }

TW_INLINE U lowbias32(U x) {  // Ellis' hash: every output bit depends on every input bit
    x ^= x >> 16, x *= 0x7feb352du;
    x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}
inline uint32_t lowbias32(uint32_t x) {
    x ^= x >> 16, x *= 0x7feb352du;
    x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// floor(v / scale) or one more, by 16 bits of a hash of the place.
TW_INLINE F stochastic(F v, F scale, float most, int64_t place, uint32_t seed) {
    const F y = v / scale;
    F low = nearest(y);
    low -= floats(bits(all(1.0f)) & (low > y));
    const U j = (U)(lanes() + (int32_t)place), h = lowbias32((j >> 1) ^ seed);
    const U u = h >> ((j & 1) * 16) & 0xFFFF;
    F q = low + floats(bits(all(1.0f)) & ((y - low) * 65536.0f > to_float((I)u)));
    q = floats((bits(all(most)) & (q > most)) | (bits(q) & ~(q > most)));
    return floats((bits(all(-most)) & (q < -most)) | (bits(q) & ~(q < -most)));
}

// The magnitude as 1 + 2 + 1 or 1 + 4 + 3 bits, half to even by integer operations.
template <int MANTISSA, int SMALLEST_EXPONENT> TW_INLINE I to_minifloat(F magnitude_) {
    constexpr int DROPPED = 23 - MANTISSA;
    constexpr float STEPS = (float)(1 << (MANTISSA - SMALLEST_EXPONENT));  // in one below the smallest normal
    const I b = bits(magnitude_);
    const I normal = ((b + ((1 << (DROPPED - 1)) - 1) + ((b >> DROPPED) & 1)) >> DROPPED) - ((126 + SMALLEST_EXPONENT) << MANTISSA);
    const I tiny = nearest_int(magnitude_ * STEPS);
    const I is_tiny = magnitude_ < 1.0f / (float)(1 << -SMALLEST_EXPONENT);
    return (tiny & is_tiny) | (normal & ~is_tiny);
}
template <int MANTISSA, int SMALLEST_EXPONENT> TW_INLINE F from_minifloat(I code) {
    constexpr float STEP = 1.0f / (float)(1 << (MANTISSA - SMALLEST_EXPONENT));
    const F normal = floats((code + ((126 + SMALLEST_EXPONENT) << MANTISSA)) << (23 - MANTISSA));
    const F tiny = to_float(code) * STEP;
    const I is_tiny = code < (1 << MANTISSA);
    return floats((bits(tiny) & is_tiny) | (bits(normal) & ~is_tiny));
}
TW_INLINE I to_fp8(F m) { return to_minifloat<3, -6>(m); }
TW_INLINE F from_fp8(I code) { return from_minifloat<3, -6>(code); }
TW_INLINE I to_fp4(F m) { return to_minifloat<1, 0>(m); }
TW_INLINE F from_fp4(I code) { return from_minifloat<1, 0>(code); }

TW_INLINE I to_bf16(F v) {
    const U b = (U)bits(v);
    const I code = (I)((b + 0x7FFF + ((b >> 16) & 1)) >> 16);
    return code & ~(code == 0x8000);  // no -0
}
TW_INLINE F from_bf16(I code) { return floats(code << 16); }

// Above 65504 it is 2^15, from 2^39 on 0: what is sent must leave a number without rounding.
TW_INLINE I to_fp16(F v) {
    const I b = magnitude(v), sign = (I)((U)bits(v) >> 16) & 0x8000;
    const I normal = ((b + 0xFFF + ((b >> 13) & 1)) >> 13) - (112 << 10);
    const I tiny = nearest_int(floats(b) * 16777216.0f);
    const I is_tiny = b < 0x38800000;                       // 2^-14
    const I beyond = b > 0x477FE000, hopeless = b >= 0x53000000;  // 65504, 2^39
    I code = (tiny & is_tiny) | (normal & ~is_tiny);
    code = ((0x7800 & beyond) | (code & ~beyond)) & ~hopeless;
    code |= sign;
    return code & ~(code == 0x8000);
}
TW_INLINE F from_fp16(I code) {
    const I m = code & 0x7FFF, sign = (code & 0x8000) << 16;
    const F normal = floats((m + (112 << 10)) << 13);
    const F tiny = to_float(m) * 0x1p-24f;
    const I is_tiny = m < 0x400, is_huge = m >= 0x7C00;  // Inf and NaN stay so
    return floats(((bits(tiny) & is_tiny) | (bits(normal) & ~is_tiny)) | (is_huge & 0x7F800000) | sign);
}

}  // namespace
