// One coder a kind of value: code(v) of what may be sent, and what a receiver reads; put(code) into the row's codes; left(x, sent) that
// stays. A coder may take a short cut and say where it is in doubt: `exact` then does the block again. `code_row` runs one over a row.
#pragma once
#include "quantise.h"

namespace {

struct Coder {
    TW_INLINE F left(F x, F sent) const { return x - sent; }
    TW_INLINE I exact(F, int64_t, F &) const { return I{}; }  // of coders that are never in doubt
};

struct ByteCoder : Coder {
    static TW_INLINE void put(uint8_t *codes, int64_t at, I code) { store_codes(codes + at, code); }
};

// round-half-even(v / scale), the quotient rounded to float32 first. Multiplying by 1 / scale is right except beside a half. The low bits
// of a sum with MAGIC are the code.
struct IntCoder : ByteCoder {
    F scale, inverse;
    TW_INLINE I code(F v, int64_t, F &sent, uint32_t &doubt) const {
        const F p = v * inverse, shifted = p + MAGIC, q = shifted - MAGIC;
        doubt |= at_least(magnitude(p - q), bits(all(0.5f - 0x1p-14f)));
        sent = q * scale;
        return bits(shifted);
    }
    TW_INLINE I exact(F v, int64_t, F &sent) const {
        const F shifted = v / scale + MAGIC;
        sent = (shifted - MAGIC) * scale;
        return bits(shifted);
    }
};

struct StochasticCoder : ByteCoder {
    F scale;
    float most;
    uint32_t seed;
    TW_INLINE I code(F v, int64_t at, F &sent, uint32_t &) const {
        const F q = stochastic(v, scale, most, at, seed);
        sent = q * scale;
        return nearest_int(q);
    }
};

template <bool eight> struct MinifloatCoder : ByteCoder {
    F scale;
    TW_INLINE I code(F v, int64_t, F &sent, uint32_t &) const {
        const F y = floats(magnitude(v / scale));
        const I c = eight ? to_fp8(y) : to_fp4(y), minus = bits(v) & ~(c == 0) & INT32_MIN;
        sent = floats(bits((eight ? from_fp8(c) : from_fp4(c)) * scale) | minus);
        return c | (I)((U)minus >> (eight ? 24 : 28));
    }
};

// Codes of one bit go as bits.
struct BitCoder : Coder {
    static TW_INLINE void put(uint8_t *codes, int64_t at, I code) {
        const uint32_t mask = negative(code);
        if (WIDTH == 4) codes[at / 8] = (uint8_t)(at % 8 ? codes[at / 8] | mask << 4 : mask);
        else std::memcpy(codes + at / 8, &mask, WIDTH / 8);
    }
};

struct SignCoder : BitCoder {
    F scale;
    TW_INLINE I code(F v, int64_t, F &sent, uint32_t &) const {  // -0 is never sent: the sign bit is the sign
        const I minus = bits(v) & INT32_MIN;
        sent = floats(bits(scale) | minus);
        return minus;
    }
};

struct VoteCoder : BitCoder {
    TW_INLINE I code(F v, int64_t, F &sent, uint32_t &) const {
        const I minus = bits(v) & INT32_MIN;
        sent = floats(bits(all(1.0f)) | minus);
        return minus;
    }
    // Who has voted is done; a vote on nothing is taken back in the next round.
    TW_INLINE F left(F x, F sent) const { return floats(bits(sent * -0x1p-100f) & (x == 0)); }
};

template <bool brain> struct HalfCoder : Coder {
    TW_INLINE I code(F v, int64_t, F &sent, uint32_t &) const {
        const I c = brain ? to_bf16(v) : to_fp16(v);
        sent = brain ? from_bf16(c) : from_fp16(c);
        return c;
    }
    static TW_INLINE void put(uint8_t *codes, int64_t at, I code) { store_halves(codes + 2 * at, code); }
};

struct FloatCoder : Coder {
    TW_INLINE I code(F v, int64_t, F &sent, uint32_t &) const {
        sent = v;
        return bits(v);
    }
    static TW_INLINE void put(uint8_t *codes, int64_t at, I code) { std::memcpy(codes + 4 * at, &code, sizeof code); }
};

template <bool state, int VECTORS, class C> TW_INLINE void code_block(const C &coder, float *x, int64_t at, uint8_t *codes, Sum &squares) {
    F whole[VECTORS], sent[VECTORS];
    I code[VECTORS];
    uint32_t doubt = 0;
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
        whole[j] = load(x + at + j * WIDTH);
        code[j] = coder.code(sendable(whole[j]), at + j * WIDTH, sent[j], doubt);
    }
    if (__builtin_expect(doubt != 0, 0))
        for (int j = 0; j < VECTORS; j++) code[j] = coder.exact(sendable(whole[j]), at + j * WIDTH, sent[j]);
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
        C::put(codes, at + j * WIDTH, code[j]);
        if (!state) continue;
        const F left = coder.left(whole[j], sent[j]);
        squares.add(j, left * left);
        store(x + at + j * WIDTH, left);
    }
}

// Codes of n numbers; with `state`, x becomes what is left of it. Returns the squares of what is left.
template <bool state, class C> double code_row(const C &coder_, float *x, int64_t n, uint8_t *codes) {
    const C coder = coder_;  // in registers
    Sum squares;
    int64_t at = 0;
    for (; at + 64 <= n; at += 64) code_block<state, 64 / WIDTH>(coder, x, at, codes, squares);
    for (; at < n; at += 16) code_block<state, 16 / WIDTH>(coder, x, at, codes, squares);
    return state ? squares.total() : 0;
}

}  // namespace
