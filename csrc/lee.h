// Lee's butterfly in registers: N vectors (or floats) at a time, unrolled by templates so that the compiler sees straight lines.
//
// The order of operations is that of kernels/dct.py, in float32 without contraction, so the bits are the same at every vector width.
// B. G. Lee, A new algorithm to compute the discrete cosine transform, IEEE TASSP 32(6), 1984.
#pragma once
#include <cmath>
#include <utility>

#include "simd.h"

namespace {

template <int N> struct Cosines {
    float value[N / 2];
    Cosines() {
        for (int i = 0; i < N / 2; i++) value[i] = (float)(1.0 / (2.0 * std::cos((2 * i + 1) * M_PI / (2 * N))));
    }
};
template <int N> const Cosines<N> cosines;

template <int... i> using Places = std::integer_sequence<int, i...>;
template <int N> using Upto = std::make_integer_sequence<int, N>;

template <int N, class V> struct Lee {
    static constexpr int H = N / 2;

    // out[k] = sum x[i] cos(pi (2i+1) k / 2N), without the scale
    static TW_INLINE void forward(const V (&x)[N], V (&out)[N]) { forward(x, out, Upto<H>{}, Upto<H - 1>{}); }
    // out[i] = sum x[k] cos(pi (2i+1) k / 2N)
    static TW_INLINE void inverse(const V (&x)[N], V (&out)[N]) { inverse(x, out, Upto<H>{}, Upto<H - 1>{}); }

  private:
    template <int... i, int... j> static TW_INLINE void forward(const V (&x)[N], V (&out)[N], Places<i...>, Places<j...>) {
        const float *c = cosines<N>.value;
        V even[H], odd[H], even_out[H], odd_out[H];
        ((even[i] = x[i] + x[N - 1 - i], odd[i] = (x[i] - x[N - 1 - i]) * c[i]), ...);
        Lee<H, V>::forward(even, even_out);
        Lee<H, V>::forward(odd, odd_out);
        ((out[2 * i] = even_out[i]), ...);
        ((out[2 * j + 1] = odd_out[j] + odd_out[j + 1]), ...);
        out[N - 1] = odd_out[H - 1];
    }
    template <int... i, int... j> static TW_INLINE void inverse(const V (&x)[N], V (&out)[N], Places<i...>, Places<j...>) {
        const float *c = cosines<N>.value;
        V even[H], odd[H], even_out[H], odd_out[H];
        ((even[i] = x[2 * i]), ...);
        odd[0] = x[1];
        ((odd[j + 1] = x[2 * j + 3] + x[2 * j + 1]), ...);
        Lee<H, V>::inverse(even, even_out);
        Lee<H, V>::inverse(odd, odd_out);
        ((odd_out[i] = odd_out[i] * c[i]), ...);
        ((out[i] = even_out[i] + odd_out[i], out[N - 1 - i] = even_out[i] - odd_out[i]), ...);
    }
};

template <class V> struct Lee<1, V> {
    static TW_INLINE void forward(const V (&x)[1], V (&out)[1]) { out[0] = x[0]; }
    static TW_INLINE void inverse(const V (&x)[1], V (&out)[1]) { out[0] = x[0]; }
};

template <int N, class V> TW_INLINE void lee_forward(const V (&x)[N], V (&y)[N]) { Lee<N, V>::forward(x, y); }
template <int N, class V> TW_INLINE void lee_inverse(const V (&x)[N], V (&y)[N]) { Lee<N, V>::inverse(x, y); }

// What memory does while the processor transforms (tile.h): line(0) to line(LINES - 1) are called between the operations of 64 vectors,
// each once, an even one just before the odd one after it.
constexpr int LINES = 2 * WIDTH;

template <class Aside> TW_INLINE void outer_line(Aside &aside, int i) {  // i: 0 to 15, in the outer levels
    if (WIDTH > 4) aside.line(i);
    else if (i % 2) aside.line(i / 2);
}
template <class Aside> TW_INLINE void inner_line(Aside &aside, int j) {  // j: 0 to 63, beside the transforms of 16
    if (WIDTH == 16 && j % 4 == 3) aside.line(16 + j / 4);
}

// 64 vectors do not fit the registers: the two outer levels of the butterfly go by way of a buffer, four numbers at a time, and the four
// transforms of 16 between them stay in registers. The same operations in another order of time.
//
// get(i) is asked for each place once; put(k, v) is told each result once, those with the same k % 4 in ascending order.
template <class Get, class Put, class Aside> TW_INLINE void forward64(Get get, Put put, Aside &aside) {
    const float *c64 = cosines<64>.value, *c32 = cosines<32>.value;
    F t[4][16], y[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i++) {
        outer_line(aside, i);
        const F a = get(i), b = get(63 - i), c = get(31 - i), d = get(32 + i);
        const F even = a + b, other_even = c + d, odd = (a - b) * c64[i], other_odd = (c - d) * c64[31 - i];
        t[0][i] = even + other_even;
        t[1][i] = (even - other_even) * c32[i];
        t[2][i] = odd + other_odd;
        t[3][i] = (odd - other_odd) * c32[i];
    }
    lee_forward<16>(t[0], y);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) inner_line(aside, j), put(4 * j, y[j]);
    lee_forward<16>(t[1], y);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) inner_line(aside, 16 + j), put(4 * j + 2, j < 15 ? y[j] + y[j + 1] : y[j]);
    lee_forward<16>(t[2], t[2]);
    lee_forward<16>(t[3], y);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        inner_line(aside, 32 + 2 * j), inner_line(aside, 33 + 2 * j);
        const F sum = j < 15 ? y[j] + y[j + 1] : y[j];
        put(4 * j + 1, t[2][j] + sum);
        put(4 * j + 3, j < 15 ? sum + t[2][j + 1] : sum);
    }
}

// get(k) is asked for each place once; put(i, v) is told each result once.
template <class Get, class Put, class Aside> TW_INLINE void inverse64(Get get, Put put, Aside &aside) {
    const float *c64 = cosines<64>.value, *c32 = cosines<32>.value;
    F t[4][16], in[16], odd[16];  // odd: every second of the sums of the odd places
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) inner_line(aside, j), in[j] = get(4 * j);
    lee_inverse<16>(in, t[0]);
    F before{};
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        inner_line(aside, 16 + j);
        const F x = get(4 * j + 2);
        in[j] = j ? x + before : x, before = x;
    }
    lee_inverse<16>(in, t[1]);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        inner_line(aside, 32 + 2 * j), inner_line(aside, 33 + 2 * j);
        const F x = get(4 * j + 1), next = get(4 * j + 3);
        in[j] = j ? x + before : x;
        odd[j] = next + x, before = next;
    }
    lee_inverse<16>(in, t[2]);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) in[j] = j ? odd[j] + odd[j - 1] : odd[j];
    lee_inverse<16>(in, t[3]);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i++) {
        outer_line(aside, i);
        const F a = t[0][i], b = t[1][i] * c32[i], c = t[2][i], d = t[3][i] * c32[i];
        const F even = a + b, other_even = a - b, one = (c + d) * c64[i], other = (c - d) * c64[31 - i];
        put(i, even + one);
        put(63 - i, even - one);
        put(31 - i, other_even + other);
        put(32 + i, other_even - other);
    }
}

}  // namespace
