// Tensors of any dtype, widened exactly to float32.
#pragma once
#include "layout.h"
#include "quantise.h"

namespace {

// WIDTH numbers.
template <int dtype> TW_INLINE F load_source(const char *from) {
    if (dtype == TW_FLOAT32) return load((const float *)from);
    I code;
#if defined(__AVX512F__)
    code = (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__AVX2__)
    code = (I)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
#else
    uint16_t half[WIDTH];
    std::memcpy(half, from, sizeof half);
    for (int j = 0; j < WIDTH; j++) code[j] = half[j];
#endif
    return dtype == TW_BFLOAT16 ? from_bf16(code) : from_fp16(code);
}

template <int dtype> TW_INLINE void widen_as(const char *from, const float *anchor, float *to, int64_t n) {
    constexpr int64_t nbytes = dtype == TW_FLOAT32 ? 4 : 2;
    int64_t at = 0;
    const auto one = [](const char *in, const float *a, float *out) {
        const F x = load_source<dtype>(in);
        store(out, a ? load(a) - x : x);
    };
    for (; at + WIDTH <= n; at += WIDTH) one(from + nbytes * at, anchor ? anchor + at : nullptr, to + at);
    if (at == n) return;
    const size_t rest = (size_t)(n - at);  // by way of a whole vector
    alignas(64) char last[4 * WIDTH] = {};
    alignas(64) float last_anchor[WIDTH] = {}, wide[WIDTH];
    std::memcpy(last, from + nbytes * at, nbytes * rest);
    if (anchor) std::memcpy(last_anchor, anchor + at, 4 * rest);
    one(last, anchor ? last_anchor : nullptr, wide);
    std::memcpy(to + at, wide, 4 * rest);
}

// n matrix elements from `start` on as they are, or `anchor` less them; zeros where there are none.
__attribute__((noinline)) inline void widen(const TwLayout &layout, const float *anchor, int64_t start, int64_t n, float *to) {
    const int64_t filled = each_run(layout, start, n, [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
        const char *from = sheet.data + element * element_nbytes(sheet.dtype);
        const float *less = anchor ? anchor + sheet.flat + element : nullptr;
        switch (sheet.dtype) {
            case TW_FLOAT32: widen_as<TW_FLOAT32>(from, less, to + at, count); break;
            case TW_BFLOAT16: widen_as<TW_BFLOAT16>(from, less, to + at, count); break;
            case TW_FLOAT16: widen_as<TW_FLOAT16>(from, less, to + at, count); break;
        }
    });
    std::memset(to + filled, 0, (size_t)(4 * (n - filled)));
}

}  // namespace
