// Which coefficients of a row are sent: by (|x| descending, index ascending), ascending places out.
#pragma once
#include "quantise.h"

namespace {

// Vectors of keys that are at least t.
inline int64_t count_at_least(const int32_t *keys, int64_t n, int32_t t) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += WIDTH) count += __builtin_popcount(at_least(load_int(keys + i), all_int(t)));
    return count;
}

// The k-th largest of n keys, its bits below `lowest` left out: a lower bound of it, exact for lowest 0.
inline int32_t kth_largest(const int32_t *keys, int64_t n, int64_t k, int lowest) {
    int32_t t = 0;
    for (int bit = 30; bit >= lowest; bit--)
        if (count_at_least(keys, n, t | 1 << bit) >= k) t |= 1 << bit;
    return t;
}

// The same for lowest 15 of `n` <= 1024 keys: where the upper halves fit a few vectors, they are searched alone.
inline int32_t kth_largest_coarse(const int32_t *keys, int64_t n, int64_t k) {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    alignas(64) uint16_t upper[1024];
    if (n % 64 == 0 && n <= 1024) {
        for (int64_t i = 0; i < n; i += 16)
            _mm256_store_si256((__m256i *)(upper + i), _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_loadu_si512(keys + i), 15)));
        uint32_t t = 0;
        for (int bit = 15; bit >= 0; bit--) {
            const __m512i least = _mm512_set1_epi16((short)(t | 1u << bit));
            int64_t even = 0, odd = 0;
            for (int64_t i = 0; i < n; i += 64) {
                even += __builtin_popcount(_mm512_cmpge_epu16_mask(_mm512_load_si512(upper + i), least));
                odd += __builtin_popcount(_mm512_cmpge_epu16_mask(_mm512_load_si512(upper + i + 32), least));
            }
            t |= even + odd >= k ? 1u << bit : 0;
        }
        return (int32_t)(t << 15);
    }
#endif
    return kth_largest(keys, n, k, 15);
}

// Those above t, and of those equal to it the first, k together; places ascending.
inline void take(const int32_t *keys, const uint16_t *place, int64_t n, int64_t k, int32_t t, int64_t above, uint16_t *index) {
    int64_t equals = k - above, taken = 0;
    for (int64_t i = 0; i < n && taken < k; i++) {
        const bool is_equal = keys[i] == t;
        const bool wanted = keys[i] > t || (is_equal && equals > 0);
        equals -= is_equal;
        index[taken] = place ? place[i] : (uint16_t)i;
        taken += wanted;
    }
}

// Rows with many equals or few numbers: an exact search over the whole row.
__attribute__((noinline)) inline void top_k_search(const float *x, int64_t n, int64_t k, int32_t *keys, uint16_t *index) {
    for (int64_t i = 0; i < n; i += WIDTH) store_int(keys + i, key_of(load(x + i)));
    const int32_t t = kth_largest(keys, n, k, 0);
    take(keys, nullptr, n, k, t, count_at_least(keys, n, t + 1), index);
}

constexpr int64_t SURVIVORS = 256;  // more are left to the search

// Groups of one lane of several vectors: the k-th largest group maximum is a lower bound of the k-th largest number, so only the few at or
// above it have to be ranked. `keys` holds n numbers, n a multiple of WIDTH and of 64 or below.
inline void top_k(const float *x, int64_t n, int64_t k, int32_t *keys, uint16_t *index) {
    if (n % 64 || 2 * k > n || k > SURVIVORS / 2) return top_k_search(x, n, k, keys, index);
    int64_t together = n / (8 * k);  // numbers in a group
    while (together & (together - 1)) together &= together - 1;
    if (together < 1) together = 1;
    while (n / together < WIDTH) together /= 2;
    const int64_t groups = n / together;
    I most = {};
    for (int64_t g = 0; g < groups; g += WIDTH) {
        I m = magnitude(load(x + g * together)), other = {};
        for (int64_t i = 1; i < together; i += 2) {
            other = larger(other, magnitude(load(x + g * together + i * WIDTH)));
            if (i + 1 < together) m = larger(m, magnitude(load(x + g * together + (i + 1) * WIDTH)));
        }
        m = larger(m, other);
        store_int(keys + g, m);
        most = larger(most, m);
    }
    if (largest_lane(most) < SMALLEST) {  // nothing but zeros: a parameter without a gradient
        for (int64_t i = 0; i < k; i++) index[i] = (uint16_t)i;
        return;
    }
    const int32_t bound = kth_largest_coarse(keys, groups, k);
    if (bound < SMALLEST || largest_lane(most) > LARGEST) return top_k_search(x, n, k, keys, index);

    int32_t alive[SURVIVORS + 64 + WIDTH];
    uint16_t place[SURVIVORS + 64 + WIDTH];
    int64_t m = 0;
    const I least = all_int(bound);
    for (int64_t i = 0; i < n; i += 64) {
        uint64_t mask = 0;
        for (int j = 0; j < 64; j += WIDTH) mask |= (uint64_t)at_least(magnitude(load(x + i + j)), least) << j;
        // Two without a branch: most words hold none, one or two.
        place[m] = (uint16_t)(i + (mask ? __builtin_ctzll(mask) : 0)), m += mask != 0, mask &= mask - 1;
        place[m] = (uint16_t)(i + (mask ? __builtin_ctzll(mask) : 0)), m += mask != 0, mask &= mask - 1;
        while (mask) place[m++] = (uint16_t)(i + __builtin_ctzll(mask)), mask &= mask - 1;
        if (m > SURVIVORS) return top_k_search(x, n, k, keys, index);
    }
    for (int64_t i = 0; i < m; i++) alive[i] = (int32_t)bits_of(x[place[i]]) & MAGNITUDE;
    for (int i = 0; i < WIDTH; i++) alive[m + i] = -1;

    // The k-th largest is the smallest that fewer than k are larger than.
    int32_t t = MAGNITUDE;
    int64_t above = 0;
    for (int64_t i = 0; i < m; i++) {
        const int64_t larger_ones = count_at_least(alive, m, alive[i] + 1);
        const bool lower = larger_ones < k && alive[i] < t;
        t = lower ? alive[i] : t;
        above = lower ? larger_ones : above;
    }
    take(alive, place, m, k, t, above, index);
}

// The largest lane, in every lane.
TW_INLINE I spread_largest(I v) {
#if defined(__AVX512F__)
    __m512i a = (__m512i)v;
    a = _mm512_max_epi32(a, _mm512_shuffle_i32x4(a, a, 0x4E));
    a = _mm512_max_epi32(a, _mm512_shuffle_i32x4(a, a, 0xB1));
    a = _mm512_max_epi32(a, _mm512_shuffle_epi32(a, (_MM_PERM_ENUM)0x4E));
    a = _mm512_max_epi32(a, _mm512_shuffle_epi32(a, (_MM_PERM_ENUM)0xB1));
    return (I)a;
#elif defined(__AVX2__)
    __m256i a = (__m256i)v;
    a = _mm256_max_epi32(a, _mm256_permute2x128_si256(a, a, 0x01));
    a = _mm256_max_epi32(a, _mm256_shuffle_epi32(a, 0x4E));
    a = _mm256_max_epi32(a, _mm256_shuffle_epi32(a, 0xB1));
    return (I)a;
#else
    return all_int(largest_lane(v));
#endif
}

template <int BLOCK> inline void block_max_of(const float *x, int64_t n, uint16_t *index) {
    constexpr int VECTORS = BLOCK / WIDTH;
    for (int64_t b = 0; b < n; b += BLOCK) {
        I key[VECTORS], most = {};
        for (int i = 0; i < VECTORS; i++) key[i] = key_of(load(x + b + i * WIDTH)), most = larger(most, key[i]);
        most = spread_largest(most);
        if constexpr (BLOCK <= 64) {
            uint64_t mask = 0;
            for (int i = 0; i < VECTORS; i++) mask |= (uint64_t)equal(key[i], most) << (i * WIDTH);
            *index++ = (uint16_t)(b + __builtin_ctzll(mask));
        } else {
            uint64_t mask = 0;
            int64_t start = b - 64;
            do {
                start += 64, mask = 0;
                for (int i = 0; i < 64; i += WIDTH) mask |= (uint64_t)equal(key[(start - b + i) / WIDTH], most) << i;
            } while (!mask);
            *index++ = (uint16_t)(start + __builtin_ctzll(mask));
        }
    }
}

// The largest of every `block` numbers.
inline void block_max(const float *x, int64_t n, int64_t block, uint16_t *index) {
    switch (block) {
        case 16: return block_max_of<16>(x, n, index);
        case 32: return block_max_of<32>(x, n, index);
        case 64: return block_max_of<64>(x, n, index);
        case 128: return block_max_of<128>(x, n, index);
        case 256: return block_max_of<256>(x, n, index);
    }
    for (int64_t b = 0; b < n; b += block) {
        int32_t most = -1;
        int64_t at = b;
        for (int64_t i = b; i < b + block; i++) {
            int32_t key = (int32_t)bits_of(x[i]) & MAGNITUDE;
            key = key < SMALLEST || key > LARGEST ? 0 : key;
            if (key > most) most = key, at = i;
        }
        *index++ = (uint16_t)at;
    }
}

}  // namespace
