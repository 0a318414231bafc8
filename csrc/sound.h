// Whether an encoder can have made values: no number that is never sent, a largest code where there is a scale, zeros as padding.
#pragma once
#include "dense_readers.h"

namespace {

inline bool sound_scale(float scale, float most) {
    const uint32_t b = bits_of(scale);
    if (b == 0) return true;
    const float product = scale * most;
    return (b & 0xFF) == 0 && product >= 0x1p-100f && product <= 0x1p101f;
}

// NaN, Inf, beyond 2^100, below 2^-126 and -0 are never sent.
template <class R> bool sound_numbers(const uint8_t *in, int64_t n) {
    constexpr int64_t nbytes = GROUP * R::bits / 8;
    I wrong = {};
    const auto group = [&](const uint8_t *from) {
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const F v = R::unit(from, i);
            wrong |= (bits(v) ^ bits(sendable(v)));  // other bits than may be sent
        }
    };
    int64_t at = 0;
    for (; at + GROUP <= n; at += GROUP) group(in + at * R::bits / 8);
    if (at < n) {
        alignas(64) uint8_t last[nbytes] = {};
        std::memcpy(last, in + at * R::bits / 8, (size_t)((n - at) * R::bits / 8));
        group(last);
    }
    for (int64_t i = n * R::bits / 8; i % 4; i++)
        if (in[i]) return false;
    return equal(wrong, I{}) == (1u << WIDTH) - 1;
}

inline bool sound_floats(const tw_program &p, const uint8_t *in, int64_t n) {
    if (p.value == V_FLOAT32) return sound_numbers<ReadFloat>(in, n);
    return p.value == V_BFLOAT16 ? sound_numbers<ReadHalf<true>>(in, n) : sound_numbers<ReadHalf<false>>(in, n);
}

TW_INLINE Q larger_bytes(Q a, Q b) {
#if defined(__AVX512F__)
    return (Q)_mm512_max_epu8((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Q)_mm256_max_epu8((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (Q)_mm_max_epu8((__m128i)a, (__m128i)b);
#else
    const Q m = (Q)(a > b);
    return (a & m) | (b & ~m);
#endif
}

// n bytes, fewer than a Q has, and zeros behind them.
TW_INLINE Q first_bytes(const uint8_t *in, int64_t n) {
#if defined(__AVX512F__)
    return (Q)_mm512_maskz_loadu_epi8((1ull << n) - 1, in);
#else
    Q q = {};
    std::memcpy(&q, in, (size_t)n);
    return q;
#endif
}

// The largest size of a code in `nbytes` bytes; one more than there is where one of them is -0, or the most negative number.
template <int bits, bool minifloat> int largest_code(const uint8_t *in, int64_t nbytes) {
    constexpr int TOP = 1 << (bits - 1);
    Q largest = {};
    const auto group = [&](Q q) {
#pragma GCC unroll 4
        for (int j = 0; j < 8 / bits; j++) {
            const Q code = bits == 8 ? q : (Q)((Q2)q >> (bits * j)) & (uint8_t)(2 * TOP - 1);
            const Q minus = (Q)(code >= (uint8_t)TOP);
            if (minifloat) largest = larger_bytes(largest, (code & (uint8_t)(TOP - 1)) | ((Q)(code == (uint8_t)TOP) & (uint8_t)TOP));
            else largest = larger_bytes(largest, (((uint8_t)(2 * TOP) - code) & minus) | (code & ~minus));
        }
    };
    int64_t at = 0;
    for (; at + (int64_t)sizeof(Q) <= nbytes; at += (int64_t)sizeof(Q)) {
        Q q;
        std::memcpy(&q, in + at, sizeof q);
        group(q);
    }
    if (at < nbytes) group(first_bytes(in + at, nbytes - at));
    for (int half = 16; half >= 8; half /= 2) largest = larger_bytes(largest, (Q)((U)largest >> half));
    return largest_lane((I)largest & 0xFF);
}

inline bool sound_codes(const tw_program &p, const uint8_t *in, float scale, int64_t n) {
    const int64_t nbytes = padded(n * value_bits(p.value));
    if (!zero_padding(in, n * value_bits(p.value))) return false;
    int found, most = 0;
    switch (p.value) {
        case V_INT8: found = largest_code<8, false>(in, nbytes), most = 127; break;
        case V_INT4: found = largest_code<4, false>(in, nbytes), most = 7; break;
        case V_INT2: found = largest_code<2, false>(in, nbytes), most = 1; break;
        case V_FP8: found = largest_code<8, true>(in, nbytes), most = 0x7E; break;
        case V_FP4: found = largest_code<4, true>(in, nbytes), most = 7; break;
        default:
            if (scale != 0 || !p.scale) return true;
            for (int64_t i = 0; i < nbytes; i++)
                if (in[i]) return false;
            return true;
    }
    if (scale == 0) return found == 0;
    return found == most || (p.seed && found == most - 1);
}

}  // namespace
