// 64 codes of a dense row back to numbers, before the scale: unit(in, i) is the i-th vector of them.
#pragma once
#include "narrow.h"
#include "quantise.h"
#include "record.h"
#include "widen.h"

namespace {

#if defined(__AVX2__)
// Vector i of 64 codes of 4 bits, in the highest bits of its lanes with `high`, else in the lowest with others above them.
template <bool high> TW_INLINE I nibbles(const uint8_t *in, int i) {
#if defined(__AVX512F__)
    __m512i word = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)in));
    const __m512i which = (__m512i)(lanes() / 8 + 2 * i);
    word = _mm512_permutexvar_epi32(which, word);
#else
    int32_t eight;
    std::memcpy(&eight, in + 4 * i, 4);
    const __m256i word = _mm256_set1_epi32(eight);
#endif
    const U place = (U)lanes() % 8 * 4;
    return high ? (I)((U)word << (28 - place)) : (I)((U)word >> place);
}
#endif

// Codes of 8, 4 or 2 bits, not signed, from the lowest bit on.
template <int bits> TW_INLINE I plain_codes(const uint8_t *in, int i) {
    if (bits == 8) return load_codes(in + i * WIDTH);
    uint32_t word[WIDTH * bits / 32 + 1] = {};
    std::memcpy(word, in + i * WIDTH * bits / 8, WIDTH * bits / 8);
    I code;
    for (int j = 0; j < WIDTH; j++) code[j] = word[j * bits / 32] >> (j * bits % 32) & ((1 << bits) - 1);
    return code;
}

template <int bits_> struct ReadInt {
    static constexpr int bits = bits_;
    static TW_INLINE F unit(const uint8_t *in, int i) {
#if defined(__AVX512F__)
        const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
        if (bits == 8) return to_float((I)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)in + i)));
        if (bits == 4) return (F)_mm512_permutexvar_ps((__m512i)nibbles<false>(in, i), table);
#elif defined(__AVX2__)
        if (bits == 8) return to_float((I)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(in + 8 * i))));
        if (bits == 4) return to_float(nibbles<true>(in, i) >> 28);
#endif
        return to_float((I)((U)plain_codes<bits>(in, i) << (32 - bits)) >> (32 - bits));
    }
};

template <bool eight> struct ReadMinifloat {
    static constexpr int bits = eight ? 8 : 4;
    static TW_INLINE F unit(const uint8_t *in, int i) {
#if defined(__AVX512F__)
        const __m512 table = _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6);
        if (!eight) return (F)_mm512_permutexvar_ps((__m512i)nibbles<false>(in, i), table);
#endif
        const I code = plain_codes<bits>(in, i), size = code & ((1 << (bits - 1)) - 1), minus = (I)((U)code << (32 - bits)) & INT32_MIN;
        return floats(::bits(eight ? from_fp8(size) : from_fp4(size)) | minus);
    }
};

struct ReadSign {
    static constexpr int bits = 1;
    static TW_INLINE F unit(const uint8_t *in, int i) {
        uint32_t word = 0;
        std::memcpy(&word, in + i * WIDTH / 8, WIDTH < 8 ? 1 : WIDTH / 8);
        if (WIDTH < 8) word >>= i % 2 * 4;
        return floats(::bits(all(1.0f)) | (I)((U{} + word) << (31 - (U)lanes()) & 0x80000000u));
    }
};

template <bool brain> struct ReadHalf {
    static constexpr int bits = 16;
    static TW_INLINE F unit(const uint8_t *in, int i) {
        return load_source<brain ? TW_BFLOAT16 : TW_FLOAT16>((const char *)in + 2 * WIDTH * i);
    }
};

struct ReadFloat {
    static constexpr int bits = 32;
    static TW_INLINE F unit(const uint8_t *in, int i) { return load((const float *)in + i * WIDTH); }
};

}  // namespace
