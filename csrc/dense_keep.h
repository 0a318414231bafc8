// A dense row that is not just read: what is new (of any dtype, or an anchor less it) and what is held become one row in the first cache;
// what is left of it goes straight to memory.
// No number of a usual row, held or new, is above 2^56; denormals are as they are: a residual may become one.
#pragma once
#include "dense.h"
#include "widen.h"

namespace {

constexpr float KEPT_HIGH = 0x1p56f;

struct Accumulated {
    float largest, largest_held, squares;  // of the sum, of what is held; of what is new
    bool usual() const { return largest <= KEPT_HIGH && largest_held <= KEPT_HIGH && squares <= KEPT_HIGH * KEPT_HIGH; }
};

// whole = held * decay + x * gain, two products and a sum; in whole groups, with zeros behind the n numbers.
template <int dtype, bool subtract, bool has_held>
__attribute__((noinline)) Accumulated accumulate_dense(const Parts &parts_, int64_t n, float *whole) {
    constexpr int64_t nbytes = dtype == TW_FLOAT32 ? 4 : 2;
    const Parts parts = parts_;
    const F keep = all(parts.decay), grow = all(parts.gain);
    F most[4] = {}, most_held[4] = {};
    Squares squares;
    const auto group = [&](const char *x, const float *anchor, const float *held, float *to) {
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            const F raw = load_source<dtype>(x + nbytes * i * WIDTH), y = normal(subtract ? load(anchor + i * WIDTH) - raw : raw);
            squares.add(i, y);
            F v = y * grow;
            if (has_held) {
                const F old = load(held + i * WIDTH);
                most_held[i % 4] = floats(larger(bits(most_held[i % 4]), magnitude(old)));  // of NaN: NaN
                v = normal(old) * keep + v;
            }
            most[i % 4] = floats(larger(bits(most[i % 4]), magnitude(v)));
            store(to + i * WIDTH, v);
        }
    };
    int64_t at = 0;
    for (; at + GROUP <= n; at += GROUP) {
        parts.ask_beside(n, 0, at);
        group(parts.x + nbytes * at, subtract ? parts.anchor + at : nullptr, has_held ? parts.held + at : nullptr, whole + at);
    }
    if (at < n) {
        alignas(64) char x[4 * GROUP] = {};
        alignas(64) float anchor[GROUP] = {}, held[GROUP] = {};
        std::memcpy(x, parts.x + nbytes * at, (size_t)(nbytes * (n - at)));
        if (subtract) std::memcpy(anchor, parts.anchor + at, (size_t)(4 * (n - at)));
        if (has_held) std::memcpy(held, parts.held + at, (size_t)(4 * (n - at)));
        group(x, anchor, held, whole + at);
    }
    return {largest_of(most), largest_of(most_held), squares.total()};
}

template <int dtype> Accumulated accumulate_as(const Parts &parts, int64_t n, float *whole) {
    if (parts.anchor && parts.held) return accumulate_dense<dtype, true, true>(parts, n, whole);
    if (parts.anchor) return accumulate_dense<dtype, true, false>(parts, n, whole);
    return parts.held ? accumulate_dense<dtype, false, true>(parts, n, whole) : accumulate_dense<dtype, false, false>(parts, n, whole);
}

inline Accumulated accumulate_row(int64_t dtype, const Parts &parts, int64_t n, float *whole) {
    if (dtype == TW_BFLOAT16) return accumulate_as<TW_BFLOAT16>(parts, n, whole);
    return dtype == TW_FLOAT16 ? accumulate_as<TW_FLOAT16>(parts, n, whole) : accumulate_as<TW_FLOAT32>(parts, n, whole);
}

// What is left goes to `kept`, where it is wanted. Its squares; not finite where something of the row is NaN.
struct Left {
    float *kept = nullptr;
    bool past_caches = false;

    TW_INLINE void put(const F *left, int64_t at, int many) const {
        if (many == GROUP) {
            for (int i = 0; i < VECTORS; i++) put_vector(kept + at + i * WIDTH, left[i], past_caches);
        } else {
            float last[GROUP];
            for (int i = 0; i < VECTORS; i++) store(last + i * WIDTH, left[i]);
            std::memcpy(kept + at, last, (size_t)(4 * many));
        }
    }
};

template <class C> __attribute__((noinline)) float code_kept(const C &coder_, const float *whole, int64_t n, Codes to, Left rest, const Parts &parts_) {
    const C coder = coder_;
    const Parts parts = parts_;
    Squares squares;
    each_group(whole, n, [&](const float *from, int64_t at, int many) {
        F w[VECTORS], v[VECTORS], sent[VECTORS];
        I code[VECTORS];
        parts.ask_beside(n, 1, at);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) w[i] = load(from + i * WIDTH), v[i] = C::bits >= 16 ? sendable(w[i]) : w[i];
        coder.codes(v, at, code, sent);
        to.template put<C>(code, at, many, [](const I *c, uint8_t *p) { C::put(c, p); });
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            w[i] -= sent[i];
            squares.add(i, w[i]);
        }
        rest.put(w, at, many);
    });
    return squares.total();
}

// Of signs, whose codes are written already.
__attribute__((noinline)) inline float keep_signs(const float *whole, int64_t n, float scale, Left rest, const Parts &parts_) {
    const Parts parts = parts_;
    Squares squares;
    each_group(whole, n, [&](const float *from, int64_t at, int many) {
        F w[VECTORS];
        parts.ask_beside(n, 1, at);
#pragma GCC unroll 16
        for (int i = 0; i < VECTORS; i++) {
            w[i] = load(from + i * WIDTH);
            w[i] -= floats(bits(all(scale)) | (bits(sendable(w[i])) & INT32_MIN));
            squares.add(i, w[i]);
        }
        rest.put(w, at, many);
    });
    return squares.total();
}

}  // namespace
