// The mean of a dense row of all members: their numbers meet in registers, and only the mean is written.
#pragma once
#include "dense_coders.h"
#include "dense_readers.h"
#include "jobs.h"

namespace {

constexpr int64_t FURTHER = 2048;  // bytes: of several streams the processor does not foresee enough
constexpr int TOGETHER = 8;  // members: the processor foresees few streams at a time

struct Members {
    const uint8_t *in[TOGETHER];
    float scale[TOGETHER];
    int many;
};

// What becomes of a sum, and where it goes. `before`: of members that came earlier, or null.
struct Mean {
    const float *before;
    float *out;
    float divisor;  // 1 where others still come
    bool past_caches;
};

// A scale has 16 bits and a unit at most 8 (or the scale is 1): their product is exact, and so one rounding is as good as two.
template <class R, int MANY, bool power> __attribute__((noinline)) void add_members(const Members &members, const Mean &mean_, int64_t n) {
    const Mean mean = mean_;
    const int many = MANY ? MANY : members.many;
    const F divisor = all(power ? 1 / mean.divisor : mean.divisor);  // the same bits for a power of two
    const auto group = [&](const auto &in, const float *before, int64_t skip, F *sum) {
        for (int i = 0; i < VECTORS; i++) sum[i] = before ? load(before + i * WIDTH) : F{};
        for (int m = 0; m < many; m++) {
            const uint8_t *from = in(m) + skip;
            const F scale = all(members.scale[m]);
#pragma GCC unroll 16
            for (int i = 0; i < VECTORS; i++) sum[i] = fused(R::unit(from, i), scale, sum[i]);
        }
        for (int i = 0; i < VECTORS; i++) sum[i] = power ? sum[i] * divisor : sum[i] / divisor;
    };
    F sum[VECTORS];
    int64_t at = 0;
    for (; at + GROUP <= n; at += GROUP) {
        const auto soon = [&](int m) {
            const uint8_t *const next = members.in[m] + at * R::bits / 8 + FURTHER;
            for (int64_t line = 0; many > 1 && line < GROUP * R::bits / 8; line += 64) __builtin_prefetch(next + line, 0, 2);
            return members.in[m];
        };
        group(soon, mean.before ? mean.before + at : nullptr, at * R::bits / 8, sum);
        for (int i = 0; i < VECTORS; i++) put_vector(mean.out + at + i * WIDTH, sum[i], mean.past_caches);
    }
    if (at == n) return;
    alignas(64) uint8_t last[TOGETHER][GROUP * R::bits / 8] = {};
    alignas(64) float wide[GROUP] = {};
    for (int m = 0; m < many; m++) std::memcpy(last[m], members.in[m] + at * R::bits / 8, (size_t)(((n - at) * R::bits + 7) / 8));
    if (mean.before) std::memcpy(wide, mean.before + at, (size_t)(4 * (n - at)));
    group([&](int m) { return last[m]; }, wide, 0, sum);
    for (int i = 0; i < VECTORS; i++) store(wide + i * WIDTH, sum[i]);
    std::memcpy(mean.out + at, wide, (size_t)(4 * (n - at)));
}

template <class R> void add_some_members(const Members &members, const Mean &mean, int64_t n) {
    if (bits_of(mean.divisor) & 0x7FFFFF) return add_members<R, 0, false>(members, mean, n);
    if (members.many == 1) return add_members<R, 1, true>(members, mean, n);
    if (members.many == TOGETHER) return add_members<R, TOGETHER, true>(members, mean, n);
    add_members<R, 0, true>(members, mean, n);
}

void add_values(int64_t value, const Members &members, const Mean &mean, int64_t n) {
    switch (value) {
        case V_FLOAT32: return add_some_members<ReadFloat>(members, mean, n);
        case V_BFLOAT16: return add_some_members<ReadHalf<true>>(members, mean, n);
        case V_FLOAT16: return add_some_members<ReadHalf<false>>(members, mean, n);
        case V_INT8: return add_some_members<ReadInt<8>>(members, mean, n);
        case V_INT4: return add_some_members<ReadInt<4>>(members, mean, n);
        case V_INT2: return add_some_members<ReadInt<2>>(members, mean, n);
        case V_FP8: return add_some_members<ReadMinifloat<true>>(members, mean, n);
        case V_FP4: return add_some_members<ReadMinifloat<false>>(members, mean, n);
        default: return add_some_members<ReadSign>(members, mean, n);
    }
}

// n numbers of a row from number `first` on, of all members, to `out`; `sum` is memory for as many.
void mean_of_row(const TwDecode &job, int64_t row, int64_t first, int64_t n, bool past_caches, float *sum, float *out) {
    const tw_program &p = job.program;
    for (int64_t m = 0; m < job.members; m += TOGETHER) {
        Members some = {{}, {}, (int)std::min<int64_t>(TOGETHER, job.members - m)};
        for (int j = 0; j < some.many; j++) {
            const uint8_t *record = job.payloads[m + j] + row * p.record, *values = record + 4 * p.scale;
            float &scale = some.scale[j] = 1;
            if (p.scale) std::memcpy(&scale, record, 4);
            if (p.value == V_VOTE && !p.scale && looks_silent(p, values, (const int32_t *)nullptr)) scale = 0;
            if (p.value == V_VOTE && p.scale) scale = scale == 0 ? 0 : 1;
            some.in[j] = values + first * value_bits(p.value) / 8;
            const int64_t nbytes = n * value_bits(p.value) / 8;
            if (job.members == 1) foresee(some.in[j] + nbytes, nbytes);
        }
        const bool last = m + TOGETHER >= job.members;
        add_values(p.value, some, {m ? sum : nullptr, last ? out : sum, last ? (float)job.members : 1.0f, last && past_caches}, n);
    }
}

}  // namespace
