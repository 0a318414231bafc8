// The fields of a record: indices and packed codes (docs/wire-format.md).
#pragma once
#include <algorithm>

#include "simd.h"
#include "thinwire.h"

namespace {

// As kernels/program.py.
enum Index { X_NONE, X_ELIAS_FANO, X_PLANES, X_BITMAP, X_OFFSETS };

inline int64_t padded(int64_t bits) { return (int64_t)(((uint64_t)bits + 31) / 32 * 4); }
inline int floor_log2(int64_t n) { return 63 - __builtin_clzll((uint64_t)n); }
inline int planes_of(int64_t n) { return n > 1 ? floor_log2(n - 1) + 1 : 0; }  // bits of a number below n
inline int elias_fano_low(int64_t k, int64_t chunk) { return k && chunk >= k ? floor_log2(chunk / k) : 0; }

inline uint64_t load64(const uint8_t *p) {
    uint64_t x;
    std::memcpy(&x, p, 8);
    return x;
}

// Bits from the lowest on; `out` must have 8 bytes of room behind the last word.
struct BitWriter {
    uint8_t *out;
    uint64_t held = 0;
    int filled = 0;
    TW_INLINE void put(uint64_t value, int n) {  // n <= 32
        held |= value << filled;
        filled += n;
        if (filled >= 32) {
            const uint32_t word = (uint32_t)held;
            std::memcpy(out, &word, 4);
            out += 4, held >>= 32, filled -= 32;
        }
    }
    TW_INLINE void pad() {  // to a word
        if (filled) put(0, 32 - filled);
    }
};

// Reads up to 32 bits at any bit of `in`, which has `nbytes` bytes; beyond its end are zeros.
inline uint32_t bits_at(const uint8_t *in, int64_t nbytes, int64_t bit) {
    const int64_t byte = bit / 8;
    uint64_t word = 0;
    if (byte + 8 <= nbytes) word = load64(in + byte);
    else if (byte < nbytes) std::memcpy(&word, in + byte, (size_t)(nbytes - byte));
    return (uint32_t)(word >> (bit % 8));
}

// Plane p: bit p of every number, at bit p * n. `numbers` is padded with zeros to 64.
inline void pack_planes(const int32_t *numbers, int64_t n, int planes, BitWriter &to) {
    for (int p = 0; p < planes; p++)
        for (int64_t i = 0; i < n; i += 32) {
            uint32_t word = 0;
            for (int j = 0; j < 32; j += WIDTH) word |= negative(load_int(numbers + i + j) << (31 - p)) << j;
            const int64_t left = n - i;
            to.put(word, left < 32 ? (int)left : 32);
        }
}

// The numbers of pack_planes; written up to the next multiple of 32. `in` must have 8 bytes of room behind its field.
inline void unpack_planes(const uint8_t *in, int64_t n, int planes, int32_t *numbers) {
    for (int64_t i = 0; i < n; i += 32) {
        I out[32 / WIDTH] = {};
#if defined(__AVX512F__)
        for (int first = 0; first < planes; first += 8) {  // 32 bytes at a time
            __m256i byte = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
            for (int p = first; p < planes && p < first + 8; p++, one = _mm256_add_epi8(one, one)) {
                const uint64_t bit = (uint64_t)(p * n + i);
                byte = _mm256_mask_add_epi8(byte, (__mmask32)(load64(in + bit / 8) >> (bit % 8)), byte, one);
            }
            out[0] |= (I)_mm512_cvtepu8_epi32(_mm256_castsi256_si128(byte)) << first;
            out[1] |= (I)_mm512_cvtepu8_epi32(_mm256_extracti128_si256(byte, 1)) << first;
        }
#else
        for (int p = 0; p < planes; p++) {
            const uint64_t bit = (uint64_t)(p * n + i);
            const uint32_t word = (uint32_t)(load64(in + bit / 8) >> (bit % 8));
#pragma GCC unroll 8
            for (int j = 0; j < 32 / WIDTH; j++) out[j] |= (I)(((U{} + (word >> (j * WIDTH))) >> (U)lanes() & 1) << p);
        }
#endif
        for (int j = 0; j < 32 / WIDTH; j++) store_int(numbers + i + j * WIDTH, out[j]);
    }
}

// Where the ones stand in a field of `bits` bits; the first k are kept, and `places` has 16 of room behind them. Returns how many there are.
inline int64_t ones_at(const uint8_t *in, int64_t bits, int64_t k, int32_t *places) {
    int64_t found = 0;
    for (int64_t byte = 0; byte < padded(bits); byte += 4) {
        uint32_t word;
        std::memcpy(&word, in + byte, 4);
#if defined(__AVX512F__)
        for (int half = 0; half < 32; half += 16) {
            const uint32_t mask = word >> half & 0xFFFF;
            const __m512i at = _mm512_add_epi32((__m512i)lanes(), _mm512_set1_epi32((int)(byte * 8 + half)));
            _mm512_storeu_si512(places + (found < k ? found : k), _mm512_maskz_compress_epi32((__mmask16)mask, at));
            found += __builtin_popcount(mask);
        }
#else
        for (; word; word &= word - 1, found++)
            if (found < k) places[found] = (int32_t)(byte * 8 + __builtin_ctz(word));
#endif
    }
    for (int64_t i = found; i < k; i++) places[i] = 0;
    return found;
}

inline bool zero_padding(const uint8_t *in, int64_t bits) {
    for (int64_t bit = bits; bit < padded(bits) * 8; bit++)
        if (in[bit / 8] >> (bit % 8) & 1) return false;
    return true;
}

// Ascending places to bytes. Elias-Fano: bit (index >> low) + i of the upper part is set for the i-th; then the low bits as planes.
inline void pack_index(const uint16_t *index, int64_t k, int64_t chunk, int64_t block, int64_t coding, int32_t *scratch, uint8_t *out) {
    if (coding == X_BITMAP) {
        std::memset(out, 0, (size_t)padded(chunk));
        for (int64_t i = 0; i < k; i++) out[index[i] / 8] |= (uint8_t)(1 << index[i] % 8);
        return;
    }
    int planes = coding == X_OFFSETS ? planes_of(block) : planes_of(chunk);
    if (coding == X_ELIAS_FANO) {
        planes = elias_fano_low(k, chunk);
        const int64_t nbytes = padded(k + (chunk >> planes));
        std::memset(out, 0, (size_t)nbytes);
        uint64_t word = 0;
        int64_t at = 0;
        for (int64_t i = 0; i < k; i++) {
            const int64_t bit = (index[i] >> planes) + i;
            for (; at < bit / 64; at++, word = 0) std::memcpy(out + 8 * at, &word, 8);
            word |= 1ull << bit % 64;
        }
        if (8 * at < nbytes) std::memcpy(out + 8 * at, &word, (size_t)std::min<int64_t>(8, nbytes - 8 * at));
        out += nbytes;
    }
    const int32_t mask = (1 << planes) - 1;
    const int64_t whole = (k + 31) / 32 * 32;
    for (int64_t i = 0; i < k; i++) scratch[i] = index[i] & mask;
    for (int64_t i = k; i < whole; i++) scratch[i] = 0;
    BitWriter to{out};
    pack_planes(scratch, k, planes, to);
    to.pad();
}

constexpr int64_t FIELD_ROOM = 2 * 16384 + 64;  // bytes of the largest field of places, and room to read on

// How the field of places lies in every record of a program.
struct PlaceField {
    int64_t k, chunk, block, coding;
    int planes;          // bits of a place that lie in planes
    int64_t ones = 0;    // bits of what comes before them: a bit map, or the upper part of Elias-Fano
    int64_t planes_at;   // bytes before the planes
    int64_t nbytes;

    PlaceField(int64_t k_, int64_t chunk_, int64_t block_, int64_t coding_) : k(k_), chunk(chunk_), block(block_), coding(coding_) {
        planes = coding == X_OFFSETS ? planes_of(block) : coding == X_PLANES ? planes_of(chunk) : coding == X_ELIAS_FANO ? elias_fano_low(k, chunk) : 0;
        if (coding == X_ELIAS_FANO) ones = k + (chunk >> planes);
        if (coding == X_BITMAP) ones = chunk;
        planes_at = padded(ones);
        nbytes = planes_at + padded(k * planes);
    }
};

// Places below chunk (a power of two where it is looked up) whatever the bytes, written up to the next multiple of 32; with `checked`
// returns whether they are what pack_index can have made. `room` bytes from `in` on may be read; `copy` holds FIELD_ROOM bytes; `part` as
// many numbers as `places`.
template <bool checked>
inline bool unpack_index(const PlaceField &field, const uint8_t *in, int64_t room, uint8_t *copy, int32_t *part, int32_t *places) {
    if (room < field.nbytes + 8) {  // words are read across its end
        std::memcpy(copy, in, (size_t)field.nbytes);
        std::memset(copy + field.nbytes, 0, 8);
        in = copy;
    }
    const int64_t k = field.k, whole = (k + WIDTH - 1) / WIDTH * WIDTH;
    const uint8_t *const planes = in + field.planes_at;
    bool sound = !checked || (zero_padding(in, field.ones) && zero_padding(planes, k * field.planes));
    if (field.ones) {
        const int64_t found = ones_at(in, field.ones, k, places);
        if (checked) sound &= found == k;
        if (field.coding == X_ELIAS_FANO) {
            unpack_planes(planes, k, field.planes, part);
            for (int64_t i = 0; i < whole; i += WIDTH)
                store_int(places + i, (I)((((U)load_int(places + i) - (U)(lanes() + (int32_t)i)) << field.planes) | (U)load_int(part + i)));
        }
    } else {
        unpack_planes(planes, k, field.planes, places);
        if (field.coding == X_OFFSETS)
            for (int64_t i = 0; i < whole; i += WIDTH)
                store_int(places + i, (I)((U)load_int(places + i) + (U)(lanes() + (int32_t)i) * (uint32_t)field.block));
    }
    I wrong = {}, last = all_int(-1);
    for (int64_t i = 0; i < whole; i += WIDTH) {
        const I at = load_int(places + i), inside = (U)at < (uint32_t)field.chunk;
        if (checked) wrong |= ((at <= one_up(at, last)) | ~inside) & (lanes() < (int32_t)(k - i)), last = at;
        store_int(places + i, at & inside);
    }
    return sound && equal(wrong, I{}) == (1u << WIDTH) - 1;
}

// n codes of 8, 4, 2 or 1 bits, padded to a word; `codes` is padded with zeros to 64, `out` has the padded size.
inline void pack_codes(const uint8_t *codes, int64_t n, int bits, uint8_t *out) {
    const int64_t nbytes = padded(n * bits);
    if (bits == 8) {
        std::memcpy(out, codes, (size_t)nbytes);
        return;
    }
    const int each = 8 / bits;
    const uint64_t mask = bits == 4 ? 0x0F0F0F0F0F0F0F0Full : bits == 2 ? 0x0303030303030303ull : 0x0101010101010101ull;
    for (int64_t b = 0; b < nbytes; b += 4) {
        uint32_t word = 0;
        for (int i = 0; i < each / 2; i++) {  // 8 codes give `bits` bytes
            uint64_t x = load64(codes + b * each + 8 * i) & mask;
#if defined(__BMI2__)
            x = _pext_u64(x, mask);
#else
            x = (x | x >> (8 - bits)) & (bits == 4 ? 0x00FF00FF00FF00FFull : bits == 2 ? 0x000F000F000F000Full : 0x0003000300030003ull);
            x = (x | x >> (16 - 2 * bits)) & (bits == 4 ? 0x0000FFFF0000FFFFull : bits == 2 ? 0x000000FF000000FFull : 0x0000000F0000000Full);
            x = x | x >> (32 - 4 * bits);
            x &= (1ull << (8 * bits)) - 1;
#endif
            word |= (uint32_t)(x << (8 * bits * i));
        }
        std::memcpy(out + b, &word, 4);
    }
}

// The codes of pack_codes, not signed; written up to the next multiple of 32.
inline void unpack_codes(const uint8_t *in, int64_t n, int bits, uint8_t *codes) {
    const int64_t nbytes = padded(n * bits);
    if (bits == 8) {
        std::memcpy(codes, in, (size_t)nbytes);
        return;
    }
    const int each = 8 / bits;
    const uint64_t mask = bits == 4 ? 0x0F0F0F0F0F0F0F0Full : bits == 2 ? 0x0303030303030303ull : 0x0101010101010101ull;
    for (int64_t b = 0; b < nbytes; b += 4) {
        uint32_t word;
        std::memcpy(&word, in + b, 4);
        for (int i = 0; i < each / 2; i++) {
            uint64_t x = (uint64_t)word >> (8 * bits * i) & ((1ull << (8 * bits)) - 1);
#if defined(__BMI2__)
            x = _pdep_u64(x, mask);
#else
            x = (x | x << (32 - 4 * bits)) & (bits == 4 ? 0x0000FFFF0000FFFFull : bits == 2 ? 0x000000FF000000FFull : 0x0000000F0000000Full);
            x = (x | x << (16 - 2 * bits)) & (bits == 4 ? 0x00FF00FF00FF00FFull : bits == 2 ? 0x000F000F000F000Full : 0x0003000300030003ull);
            x = (x | x << (8 - bits)) & mask;
#endif
            std::memcpy(codes + b * each + 8 * i, &x, 8);
        }
    }
}

constexpr uint64_t SILENT = 0x9E3779B97F4A7C15ull;  // bit j % 64: the sign of coefficient j in a row that does not vote

// Whether a record of votes without a scale is the one that stands for a row of zeros (docs/wire-format.md). `index` null: all are sent.
template <class Place> inline bool looks_silent(const tw_program &p, const uint8_t *values, const Place *index) {
    for (int64_t i = 0; i < p.k; i++) {
        const int sign = values[i / 8] >> (i % 8) & 1;
        if (sign != (int)(SILENT >> (i % 64) & 1)) return false;
        if (index && index[i] != i * (p.block ? p.block : 1)) return false;
    }
    return true;
}

}  // namespace
