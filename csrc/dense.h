// A row where every number is sent: one sweep for its scale, one for its codes, both in the first cache.
#pragma once
#include "dense_coders.h"

namespace {

// Numbers below 2^-126 count as zero (or no longer do): the processor sees to it, and is not slowed down by them. Arithmetic belongs into
// functions of its own, which are not inlined to where one of these begins or ends.
class Denormals {
#if defined(__SSE2__)
  public:
    explicit Denormals(bool flush) : before(_mm_getcsr()), now(flush ? before | 0x8040 : before & ~0x8040u) {
        if (now != before) _mm_setcsr(now);
    }
    ~Denormals() {
        if (now != before) _mm_setcsr(before);
    }

  private:
    unsigned before, now;
#else
  public:
    explicit Denormals(bool) {}
#endif
};

// `normal` where that is on: `flushed` for bits, `usable` for arithmetic.
TW_INLINE F flushed(F v) {
#if defined(__SSE2__)
    return v + 0.0f;
#else
    return normal(v);
#endif
}
TW_INLINE F usable(F v) {
#if defined(__SSE2__)
    return v;
#else
    return normal(v);
#endif
}

// body(numbers, place, count) for every 64 of n numbers; the last ones as a copy, with zeros behind them.
template <class Body> TW_INLINE void each_group(const float *x, int64_t n, Body body) {
    int64_t at = 0;
    for (; at + GROUP <= n; at += GROUP) body(x + at, at, GROUP);
    if (at == n) return;
    alignas(64) float last[GROUP] = {};
    std::memcpy(last, x + at, (size_t)(4 * (n - at)));
    body(last, at, (int)(n - at));
}

// What follows on a row of n numbers, half of it beside each group of either sweep (0, 1): so memory is read evenly, also while codes are
// computed.
constexpr int64_t FURTHER_ON = 512;  // numbers: the best of 0 to 1024

TW_INLINE void ask_beside(const void *x, int64_t n, int sweep, int64_t at, int64_t nbytes = 4) {
    const char *lines = (const char *)x + nbytes * (n + FURTHER_ON) + nbytes / 2 * (sweep * n + at);
    prefetch(lines);
    if (nbytes == 4) prefetch(lines + 64);
}

// Where a row comes from: `x` of some dtype; null anchor, null held: there is none.
struct Parts {
    const char *x = nullptr;
    int64_t nbytes = 4;    // of a number of x
    bool goes_on = true;   // x in memory, behind the row
    const float *anchor = nullptr, *held = nullptr;
    float decay = 1, gain = 1;

    TW_INLINE void ask_beside(int64_t n, int sweep, int64_t at) const {
        if (goes_on) ::ask_beside(x, n, sweep, at, nbytes);
        if (anchor) ::ask_beside(anchor, n, sweep, at);
        if (held) ::ask_beside(held, n, sweep, at);
    }
};

// -- the first sweep -----------------------------------------------------------------------------------------------------------

struct Survey {
    float measure;  // the largest magnitude, or the mean one
    float squares;
};

// A sum of squares, in parts that need not wait for each other and lose little.
struct Squares {
    static constexpr int PARTS = VECTORS;
    F part[PARTS] = {};
    TW_INLINE void add(int i, F v) { part[i % PARTS] = fused(v, v, part[i % PARTS]); }
    float total() const {
        float lane[WIDTH], sum = 0;
        F all_parts = {};
        for (int i = 0; i < PARTS; i += 2) all_parts += part[i] + part[i + 1];
        store(lane, all_parts);
        for (float l : lane) sum += l;
        return sum;
    }
};

inline float largest_of(const F *most) {
    return float_of((uint32_t)largest_lane(larger(larger(bits(most[0]), bits(most[1])), larger(bits(most[2]), bits(most[3])))));
}

struct Tally {
    F most[4] = {};
    Squares squares;
    TW_INLINE void add(int i, F v) {
        most[i % 4] = largest_magnitude(most[i % 4], v);
        squares.add(i, v);
    }
    Survey survey() const {
        return {largest_of(most), squares.total()};
    }
};

__attribute__((noinline)) inline Survey survey(const float *x, int64_t n) {
    Tally tally;
    each_group(x, n, [&](const float *v, int64_t at, int) {
        ask_beside(x, n, 0, at);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) tally.add(i, load(v + i * WIDTH));
    });
    return tally.survey();
}

// -- the second ----------------------------------------------------------------------------------------------------------------

// Where codes go: `room` bytes from `out` on, of which the last may be padding.
struct Codes {
    uint8_t *out;
    int64_t room;

    template <class C, class Put> TW_INLINE void put(const I *code, int64_t at, int many, Put put_) const {
        uint8_t *to = out + at * C::bits / 8;
        if (many == GROUP) return put_(code, to);
        alignas(64) uint8_t last[GROUP * C::bits / 8];
        put_(code, last);
        std::memcpy(to, last, (size_t)(out + room - to));
    }
};

template <class C> __attribute__((noinline)) void code_dense(const C &coder_, const float *x, int64_t n, Codes to, const Parts &parts_) {
    const C coder = coder_;
    const Parts parts = parts_;
    each_group(x, n, [&](const float *from, int64_t at, int many) {
        F v[VECTORS], sent[VECTORS];
        I code[VECTORS];
        parts.ask_beside(n, 1, at);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) v[i] = load(from + i * WIDTH);
        coder.codes(v, at, code, sent);
        to.template put<C>(code, at, many, [](const I *c, uint8_t *p) { C::put(c, p); });
    });
}

// Codes that need no scale: both sweeps in one.
template <class C, bool past_caches> __attribute__((noinline)) Survey cast_dense(const float *x, int64_t n, Codes to) {
    Tally tally;
    each_group(x, n, [&](const float *from, int64_t at, int many) {
        F v[VECTORS], sent[VECTORS];
        I code[VECTORS];
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) v[i] = flushed(load(from + i * WIDTH)), tally.add(i, v[i]);
        C().codes(v, at, code, sent);
        to.template put<C>(code, at, many, [](const I *c, uint8_t *p) { C::template put<past_caches>(c, p); });
    });
    return tally.survey();
}

// -- signs: both sweeps in one -------------------------------------------------------------------------------------------------

// The mean by the halving tree of reference.mean_scale, for a row of a power of two numbers, 128 or more: eight eighths of it are read side
// by side, for the first three levels. The signs need no scale.
constexpr bool has_sign_sweep(int64_t n) { return n >= 128 && (n & (n - 1)) == 0; }

TW_INLINE uint32_t minus_bits(F v) {  // one bit a lane; what counts as zero has no sign
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(-0x1p-126f), _CMP_LE_OQ);
#else
    return negative((I)(v <= -0x1p-126f));
#endif
}

inline float halving_sum(float *part, int64_t n) {
    while (n > WIDTH) {
        n /= 2;
        for (int64_t i = 0; i < n; i += WIDTH) store(part + i, load(part + i) + load(part + n + i));
    }
    for (n /= 2; n; n /= 2)
        for (int64_t i = 0; i < n; i++) part[i] += part[i + n];
    return part[0];
}

template <bool with_denormals> __attribute__((noinline)) Survey sign_dense(const float *x, int64_t n, float *part, uint8_t *out) {
    Squares squares;
    for (int64_t at = 0; at < n; at += GROUP) {  // in order: so the processor foresees what is read
        if (!with_denormals) ask_beside(x, n, 0, at);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const F raw = load(x + at + i * WIDTH), v = with_denormals ? normal(raw) : usable(raw);
            const uint32_t minus = minus_bits(v);
            uint8_t *to = out + (at + i * WIDTH) / 8;
            if (WIDTH == 4) *to = (uint8_t)(i % 2 ? *to | minus << 4 : minus);
            else std::memcpy(to, &minus, WIDTH / 8);
            squares.add(i, v);
        }
    }
    const int64_t eighth = n / 8;
    for (int64_t at = 0; at < eighth; at += WIDTH) {
        for (int64_t group = 8 * at; group < 8 * (at + WIDTH) && !with_denormals; group += GROUP) ask_beside(x, n, 1, group);
        F m[8];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const F raw = load(x + j * eighth + at);
            m[j] = abs_of(with_denormals ? normal(raw) : usable(raw));
        }
        store(part + at, ((m[0] + m[4]) + (m[2] + m[6])) + ((m[1] + m[5]) + (m[3] + m[7])));
    }
    return {halving_sum(part, eighth) / (float)n, squares.total()};
}

}  // namespace
