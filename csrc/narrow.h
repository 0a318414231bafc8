// What dense rows are made of: 64 codes from vectors to bytes, in registers: one code a byte first, then as many to a byte as fit.
#pragma once
#include "simd.h"

namespace {

constexpr int GROUP = 64;               // numbers that are worked on at a time
constexpr int VECTORS = GROUP / WIDTH;  // vectors of them

typedef uint8_t Q __attribute__((vector_size(4 * WIDTH), may_alias));  // the codes of four vectors, a byte each
typedef uint16_t Q2 __attribute__((vector_size(4 * WIDTH), may_alias));

// Of `nbytes` that will be read in order soon: the processor foresees them by itself, but for the first lines of a page.
inline void foresee(const void *from, int64_t nbytes) {
    constexpr uintptr_t PAGE = 4096, LINES = 4;
    for (uintptr_t page = ((uintptr_t)from + PAGE - 1) / PAGE * PAGE; page < (uintptr_t)from + (uintptr_t)nbytes; page += PAGE)
        for (uintptr_t line = 0; line < LINES; line++) prefetch((const void *)(page + 64 * line));
}

TW_INLINE void put_vector(float *p, F v, bool past_caches) { past_caches ? stream(p, v) : store(p, v); }

// The nearest integer, half to even.
TW_INLINE I to_int(F v) {
#if defined(__AVX512F__)
    return (I)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    return (I)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (I)_mm_cvtps_epi32((__m128)v);
#else
    return nearest_int(v);
#endif
}

// Four vectors of -128 to 127, or with `positive` of 0 to 255, to bytes.
template <bool positive> TW_INLINE Q to_bytes(I a, I b, I c, I d) {
#if defined(__AVX512F__)
    const __m512i ab = _mm512_packs_epi32((__m512i)a, (__m512i)b), cd = _mm512_packs_epi32((__m512i)c, (__m512i)d);
    const __m512i turned = positive ? _mm512_packus_epi16(ab, cd) : _mm512_packs_epi16(ab, cd);  // in every quarter: a part of a, b, c, d
    return (Q)_mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), turned);
#elif defined(__AVX2__)
    const __m256i ab = _mm256_packs_epi32((__m256i)a, (__m256i)b), cd = _mm256_packs_epi32((__m256i)c, (__m256i)d);
    const __m256i turned = positive ? _mm256_packus_epi16(ab, cd) : _mm256_packs_epi16(ab, cd);
    return (Q)_mm256_permutevar8x32_epi32(turned, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#elif defined(__SSE2__)
    const __m128i ab = _mm_packs_epi32((__m128i)a, (__m128i)b), cd = _mm_packs_epi32((__m128i)c, (__m128i)d);
    return (Q)(positive ? _mm_packus_epi16(ab, cd) : _mm_packs_epi16(ab, cd));
#else
    Q q;
    for (int i = 0; i < WIDTH; i++)
        q[i] = (uint8_t)a[i], q[i + WIDTH] = (uint8_t)b[i], q[i + 2 * WIDTH] = (uint8_t)c[i], q[i + 3 * WIDTH] = (uint8_t)d[i];
    return q;
#endif
}

TW_INLINE Q zero_where(Q q, uint8_t code) {
#if defined(__AVX512F__)
    return (Q)_mm512_maskz_mov_epi8(_mm512_cmpneq_epu8_mask((__m512i)q, _mm512_set1_epi8((char)code)), (__m512i)q);
#else
    return q & (Q)(q != code);
#endif
}

// The low byte of every 16 bits.
TW_INLINE void store_low_bytes(Q2 w, uint8_t *out) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi16_epi8((__m512i)w));
#elif defined(__AVX2__)
    w &= 0xFF;
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi16((__m256i)w, (__m256i)w), 0x08)));
#elif defined(__SSE2__)
    w &= 0xFF;
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16((__m128i)w, (__m128i)w));
#else
    for (int i = 0; i < 2 * WIDTH; i++) out[i] = (uint8_t)w[i];
#endif
}

// Bytes to codes of `bits` bits; `out` gets 4 * WIDTH * bits / 8 bytes.
template <int bits> TW_INLINE void store_codes_of(Q q, uint8_t *out) {
    if (bits == 8) {
        std::memcpy(out, &q, sizeof q);
        return;
    }
    Q2 w = (Q2)q;
    if (bits == 4) {
        w &= 0x0F0F;
        store_low_bytes(w | w >> 4, out);
        return;
    }
    U d = (U)w & 0x03030303u;
    d |= d >> 6, d &= 0x000F000Fu, d |= d >> 12;
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8((__m512i)d));
#else
    const B b = __builtin_convertvector(d, B);
    std::memcpy(out, &b, sizeof b);
#endif
}

// 64 codes of 16 bits, each in a vector of 0 to 65535.
template <bool past_caches> TW_INLINE void store_words(const I *code, uint8_t *out) {
#if defined(__AVX2__)
    for (int i = 0; i < VECTORS; i += 2) {
#if defined(__AVX512F__)
        const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        const F both = (F)_mm512_permutexvar_epi64(order, _mm512_packus_epi32((__m512i)code[i], (__m512i)code[i + 1]));
#else
        const F both = (F)_mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)code[i], (__m256i)code[i + 1]), 0xD8);
#endif
        put_vector((float *)out + i / 2 * WIDTH, both, past_caches);
    }
#else
    for (int i = 0; i < VECTORS; i++) {
        uint16_t half[WIDTH];
        for (int j = 0; j < WIDTH; j++) half[j] = (uint16_t)code[i][j];
        std::memcpy(out + 2 * WIDTH * i, half, sizeof half);
    }
#endif
}

}  // namespace
