// Which coefficients of a row are sent: by (|x| descending, index ascending), ascending places out.
#pragma once
#include <algorithm>

#include "quantise.h"

namespace {

enum Select { S_ALL, S_TOP_K, S_BLOCK_MAX };  // as kernels/program.py

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

// A lower bound of the k-th largest of n keys, so close that few more than k are at least as large. n is a multiple of 64, at most 1024
// (more keys may be 0).
// The upper halves of the keys are searched from `guess` on, where the bound of the last row was: rows are alike.
struct Bound {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    alignas(64) uint16_t upper[1024];
    TW_INLINE void take(int64_t at, I keys) { _mm256_store_si256((__m256i *)(upper + at), _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)keys, 15))); }
    TW_INLINE int64_t count(int64_t n, int32_t t) const {
        const __m512i least = _mm512_set1_epi16((short)t);
        int64_t even = 0, odd = 0;
        for (int64_t i = 0; i < n; i += 64) {
            even += __builtin_popcount(_mm512_cmpge_epu16_mask(_mm512_load_si512(upper + i), least));
            odd += __builtin_popcount(_mm512_cmpge_epu16_mask(_mm512_load_si512(upper + i + 32), least));
        }
        return even + odd;
    }
#else
    int32_t all[1024];
    TW_INLINE void take(int64_t at, I keys) { store_int(all + at, keys); }
    TW_INLINE int64_t count(int64_t n, int32_t t) const { return count_at_least(all, n, t << 15); }
#endif
    int32_t search(int64_t n, int64_t k, int32_t most, int32_t &guess) const {
        int32_t low = 0, high = (most >> 15) + 1;  // at least k are as large as low, fewer as large as high
        for (int32_t t = guess, step = 8; high - low > 1; step = std::min(4 * step, 1 << 20)) {
            if (t <= low || t >= high) t = low + (high - low) / 2;
            const int64_t found = count(n, t);
            (found >= k ? low : high) = t;
            if (found >= k && found <= k + 4 + k / 16) break;
            t = found >= k ? low + step : high - step;  // away from the guess, until the bound lies between two that were tried
        }
        guess = low;
        return low << 15;
    }
};

// Those above t, and of those equal to it the first, k together; places ascending.
inline void take(const int32_t *keys, const int32_t *place, int64_t n, int64_t k, int32_t t, int64_t above, uint16_t *index) {
    int64_t equals = k - above, taken = 0;
    for (int64_t i = 0; i < n && taken < k; i++) {
        const bool is_equal = keys[i] == t;
        const bool wanted = keys[i] > t || (is_equal && equals > 0);
        equals -= is_equal;
        index[taken] = (uint16_t)(place ? place[i] : i);
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
constexpr int64_t MOST_USUAL = SURVIVORS / 2;
constexpr int64_t GROUPS = 256;

// Of the m <= 64 numbers at or above the bound the k largest. There are few more than k, and those are struck out one by one, the smallest
// first and of equals the last. `alive` has room for 64.
inline void strike_out(int32_t *alive, const int32_t *place, int64_t m, int64_t k, uint16_t *index) {
    constexpr int VECTORS = 64 / WIDTH;
    for (int64_t i = m; i < 64; i++) alive[i] = MAGNITUDE;  // larger than any
    I a[VECTORS];
    uint64_t mask = 0;
    for (int v = 0; v < VECTORS; v++) a[v] = load_int(alive + v * WIDTH);
    for (int64_t left = m - k; left > 0; left--) {
        I least = a[0];
        for (int v = 1; v < VECTORS; v++) least = smaller(least, a[v]);
        const I t = all_int(smallest_lane(least));
        mask = 0;
        for (int v = 0; v < VECTORS; v++) mask |= (uint64_t)equal(a[v], t) << (v * WIDTH);
        const I last = all_int(63 - __builtin_clzll(mask));
        for (int v = 0; v < VECTORS; v++) a[v] |= (lanes() + v * WIDTH == last) & MAGNITUDE;
    }
    mask = 0;
    for (int v = 0; v < VECTORS; v++) mask |= (uint64_t)equal(a[v], all_int(MAGNITUDE)) << (v * WIDTH);
    mask = ~mask;
    for (int64_t i = 0; i < k; i++, mask &= mask - 1) index[i] = (uint16_t)place[__builtin_ctzll(mask)];
}

// Those that a bound has left: their magnitudes, and their places, ascending. There is room for as many as one step finds.
struct Survivors {
    alignas(64) int32_t alive[SURVIVORS + 64 + WIDTH], place[SURVIVORS + 64 + WIDTH];
    int64_t m = 0;
};

// The k largest of those.
inline void rank(Survivors &s, int64_t k, uint16_t *index) {
    int32_t *const alive = s.alive;
    const int64_t m = s.m;
    if (m <= 64 && m - k <= 16) return strike_out(alive, s.place, m, k, index);
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
    take(alive, s.place, m, k, t, above, index);
}

// Those at or above a bound of the k-th largest are ranked; false when they are too many. Numbers are usual, and none that is at or above
// the bound is denormal.
template <class Beside> inline bool top_k_above(const float *x, int64_t n, int64_t k, int32_t bound, uint16_t *index, const Beside &beside) {
    Survivors s;
    int64_t m = 0;
    const I least = all_int(bound);
    for (int64_t i = 0; i < n; i += 64) {
        beside(i), beside(i + 32);
        uint64_t mask = 0;
        for (int j = 0; j < 64; j += WIDTH) mask |= (uint64_t)at_least(magnitude(load(x + i + j)), least) << j;
        // Two without a branch: most words hold none, one or two.
        s.place[m] = (int32_t)(i + (mask ? __builtin_ctzll(mask) : 0)), m += mask != 0, mask &= mask - 1;
        s.place[m] = (int32_t)(i + (mask ? __builtin_ctzll(mask) : 0)), m += mask != 0, mask &= mask - 1;
        while (mask) s.place[m++] = (int32_t)(i + __builtin_ctzll(mask)), mask &= mask - 1;
        if (m > SURVIVORS) return false;
    }
    for (int64_t i = 0; i < m; i++) s.alive[i] = (int32_t)bits_of(x[s.place[i]]) & MAGNITUDE;
    s.m = m;
    rank(s, k, index);
    return true;
}

// Which of 16 numbers, four rows of 64 apart, are at or above a bound: a group of a tile (residual.h).
TW_INLINE uint32_t members_at_least(const float *x, int32_t bound) {
#if defined(__AVX512F__)
    return at_least(magnitude((F)_mm512_i32gather_ps((__m512i)(lanes() * 256), x, 4)), all_int(bound));
#elif defined(__AVX2__)
    const I apart = lanes() * 256, least = all_int(bound);
    const F upper = (F)_mm256_i32gather_ps(x, (__m256i)apart, 4), lower = (F)_mm256_i32gather_ps(x + 8 * 256, (__m256i)apart, 4);
    return at_least(magnitude(upper), least) | at_least(magnitude(lower), least) << 8;
#else
    uint32_t mask = 0;
    for (int i = 0; i < 16; i++) mask |= (uint32_t)(((int32_t)bits_of(x[256 * i]) & MAGNITUDE) >= bound) << i;
    return mask;
#endif
}

// The same on a tile of side 64 whose groups' largest magnitudes are known: most groups have none at or above the bound.
inline bool top_k_of_tile_above(const float *x, int64_t k, int32_t bound, const int32_t *groups, uint16_t *index) {
    int32_t first[GROUPS + WIDTH];  // places
    int64_t good = 0;
    const I least = all_int(bound);
    for (int g = 0; g < GROUPS; g += WIDTH) {
        const uint32_t mask = at_least(load_int(groups + g), least);
        const I place = lanes() + (g / WIDTH % 4 * 64 + g / (4 * WIDTH) * WIDTH);
#if defined(__AVX512F__)
        _mm512_storeu_si512(first + good, _mm512_maskz_compress_epi32((__mmask16)mask, (__m512i)place));
        good += __builtin_popcount(mask);
#else
        for (uint32_t left = mask; left; left &= left - 1) first[good++] = place[__builtin_ctz(left)];
#endif
    }
    alignas(64) int32_t found[SURVIVORS + 16 + WIDTH];  // places, in any order
    int64_t m = 0;
    for (int64_t g = 0; g < good; g++) {
        uint32_t members = members_at_least(x + first[g], bound);
        do found[m++] = first[g] + 256 * __builtin_ctz(members), members &= members - 1;
        while (members);
        if (m > SURVIVORS) return false;
    }
    for (int i = 0; i < WIDTH; i++) found[m + i] = -1;
    Survivors s;
    s.m = m;
    for (int64_t i = 0; i < m; i++) {  // in order
        const int64_t before = m - count_at_least(found, m, found[i]);
        s.place[before] = found[i];
        s.alive[before] = (int32_t)bits_of(x[found[i]]) & MAGNITUDE;
    }
    rank(s, k, index);
    return true;
}

inline void first_places(int64_t k, uint16_t *index) {
    for (int64_t i = 0; i < k; i++) index[i] = (uint16_t)i;
}

// The k-th largest maximum of a group is a lower bound of the k-th largest number, so only the few at or above it have to be ranked.
// `groups`: the largest magnitudes of GROUPS groups, of usual numbers.
inline void top_k_of_groups(const float *x, int64_t n, int64_t k, const int32_t *groups, int32_t &guess, int32_t *keys, uint16_t *index) {
    Bound bound;
    I most = {};
    for (int64_t g = 0; g < GROUPS; g += WIDTH) {
        const I m = load_int(groups + g);
        bound.take(g, m);
        most = larger(most, m);
    }
    const int32_t largest = largest_lane(most);
    if (largest < SMALLEST) return first_places(k, index);  // nothing but zeros: a parameter without a gradient
    const int32_t least = bound.search(GROUPS, k, largest, guess);
    if (least < SMALLEST || !top_k_of_tile_above(x, k, least, groups, index)) top_k_search(x, n, k, keys, index);
}

// Groups of one lane of several vectors. `keys` holds n numbers.
template <class Beside> inline void top_k(const float *x, int64_t n, int64_t k, int32_t *keys, int32_t &guess, uint16_t *index, const Beside &beside) {
    if (n % 64 || 2 * k > n || k > MOST_USUAL) return top_k_search(x, n, k, keys, index);
    int64_t together = n / (8 * k);  // numbers in a group
    while (together & (together - 1)) together &= together - 1;
    if (together < 1) together = 1;
    while (n / together < WIDTH) together /= 2;
    const int64_t groups = n / together;
    if (groups > 1024) return top_k_search(x, n, k, keys, index);
    Bound bound;
    for (int64_t g = groups; g % 64; g += WIDTH) bound.take(g, I{});
    I most = {};
    for (int64_t g = 0; g < groups; g += WIDTH) {
        I m = magnitude(load(x + g * together)), other = {};
        for (int64_t i = 1; i < together; i += 2) {
            other = larger(other, magnitude(load(x + g * together + i * WIDTH)));
            if (i + 1 < together) m = larger(m, magnitude(load(x + g * together + (i + 1) * WIDTH)));
        }
        m = larger(m, other);
        bound.take(g, m);
        most = larger(most, m);
    }
    const int32_t largest = largest_lane(most);
    if (largest < SMALLEST) return first_places(k, index);
    if (largest > LARGEST) return top_k_search(x, n, k, keys, index);
    const int32_t least = bound.search((groups + 63) / 64 * 64, k, largest, guess);
    if (least < SMALLEST || !top_k_above(x, n, k, least, index, beside)) top_k_search(x, n, k, keys, index);
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

#if defined(__AVX512F__)
// The largest lane of each of 16 vectors, by halves: fewer operations than one vector after another.
TW_INLINE __m512i largest_lanes(const __m512i (&v)[16]) {
    __m512i two[8], four[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const __m512i a = v[2 * i], b = v[2 * i + 1];
        two[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512i a = two[2 * i], b = two[2 * i + 1];
        four[i] = _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    const auto quarters = [](__m512i a, __m512i b) {
        return _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
    };
    return quarters(quarters(four[0], four[1]), quarters(four[2], four[3]));
}
#endif

// The place of the first of BLOCK numbers whose key is `most`; there is one. key(i): of the vector at i.
template <int BLOCK, class Key> TW_INLINE int first_of(I most, Key key) {
    uint64_t mask = 0;
    for (int start = 0;; start += 64) {
        for (int i = 0; i < BLOCK && i < 64; i += WIDTH) mask |= (uint64_t)equal(key(start + i), most) << i;
        if (start + 64 >= BLOCK || mask) return start + __builtin_ctzll(mask);
    }
}

// `usual`: there is no NaN, Inf or number that is too large. beside(at) is called for every 32 numbers, here and above.
template <int BLOCK, bool usual, class Beside> inline void block_max_of(const float *x, int64_t n, uint16_t *index, const Beside &beside) {
    int64_t b = 0;
#if defined(__AVX512F__)
    for (; usual && b + 16 * BLOCK <= n; b += 16 * BLOCK) {
        __m512i largest[16];
        alignas(64) int32_t most[16];
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) {
            F m = {};
            for (int i = 0; i < BLOCK; i += WIDTH) {
                if ((j * BLOCK + i) % 64 == 0) beside(b + j * BLOCK + i);
                m = largest_magnitude(m, load(x + b + j * BLOCK + i));
            }
            largest[j] = (__m512i)m;
        }
        _mm512_store_si512(most, largest_lanes(largest));
        for (int j = 0; j < 16; j++) {
            const int64_t at = b + j * BLOCK;
            for (int i = (j * BLOCK + 32) % 64; i < BLOCK; i += 64) beside(at + i);
            const bool none = most[j] < SMALLEST;  // zeros and denormals are equals
            *index++ = (uint16_t)(at + (none ? 0 : first_of<BLOCK>(all_int(most[j]), [&](int i) { return magnitude(load(x + at + i)); })));
        }
    }
#endif
    for (; b < n; b += BLOCK) {
        for (int i = b % 32 ? 32 : 0; i < BLOCK; i += 32) beside(b + i);
        I key[BLOCK / WIDTH], most = {};
        for (int i = 0; i < BLOCK / WIDTH; i++) {
            key[i] = usual ? magnitude(load(x + b + i * WIDTH)) : key_of(load(x + b + i * WIDTH));
            most = larger(most, key[i]);
        }
        most = spread_largest(most);
        const bool none = usual && most[0] < SMALLEST;
        *index++ = (uint16_t)(b + (__builtin_expect(none, 0) ? 0 : first_of<BLOCK>(most, [&](int i) { return key[i / WIDTH]; })));
    }
}

template <bool usual, class Beside> inline bool block_max_fast(const float *x, int64_t n, int64_t block, uint16_t *index, const Beside &beside) {
    switch (block) {
        case 16: return block_max_of<16, usual>(x, n, index, beside), true;
        case 32: return block_max_of<32, usual>(x, n, index, beside), true;
        case 64: return block_max_of<64, usual>(x, n, index, beside), true;
        case 128: return block_max_of<128, usual>(x, n, index, beside), true;
        case 256: return block_max_of<256, usual>(x, n, index, beside), true;
    }
    return false;
}

// The largest of every `block` numbers.
inline void block_max(const float *x, int64_t n, int64_t block, uint16_t *index) {
    if (block_max_fast<false>(x, n, block, index, [](int64_t) {})) return;
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
template <class Beside> inline void usual_block_max(const float *x, int64_t n, int64_t block, uint16_t *index, const Beside &beside) {
    if (!block_max_fast<true>(x, n, block, index, beside)) block_max(x, n, block, index);
}

}  // namespace
