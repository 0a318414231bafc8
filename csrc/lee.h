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

// `aside.step()` is called WIDTH / 4 times for every eight vectors: other work that is to be spread evenly (tile.h).
template <int N, class V> struct Lee {
    static constexpr int H = N / 2;

    // out[k] = sum x[i] cos(pi (2i+1) k / 2N), without the scale
    template <class Aside> static TW_INLINE void forward(const V (&x)[N], V (&out)[N], Aside &aside) {
        forward(x, out, aside, Upto<H>{}, Upto<H - 1>{});
    }
    // out[i] = sum x[k] cos(pi (2i+1) k / 2N)
    template <class Aside> static TW_INLINE void inverse(const V (&x)[N], V (&out)[N], Aside &aside) {
        inverse(x, out, aside, Upto<H>{}, Upto<H - 1>{});
    }

  private:
    template <class Aside, int... i, int... j>
    static TW_INLINE void forward(const V (&x)[N], V (&out)[N], Aside &aside, Places<i...>, Places<j...>) {
        if (N == 8)
            for (int step = 0; step < WIDTH / 4; step++) aside.step();
        const float *c = cosines<N>.value;
        V even[H], odd[H], even_out[H], odd_out[H];
        ((even[i] = x[i] + x[N - 1 - i], odd[i] = (x[i] - x[N - 1 - i]) * c[i]), ...);
        Lee<H, V>::forward(even, even_out, aside);
        Lee<H, V>::forward(odd, odd_out, aside);
        ((out[2 * i] = even_out[i]), ...);
        ((out[2 * j + 1] = odd_out[j] + odd_out[j + 1]), ...);
        out[N - 1] = odd_out[H - 1];
    }
    template <class Aside, int... i, int... j>
    static TW_INLINE void inverse(const V (&x)[N], V (&out)[N], Aside &aside, Places<i...>, Places<j...>) {
        if (N == 8)
            for (int step = 0; step < WIDTH / 4; step++) aside.step();
        const float *c = cosines<N>.value;
        V even[H], odd[H], even_out[H], odd_out[H];
        ((even[i] = x[2 * i]), ...);
        odd[0] = x[1];
        ((odd[j + 1] = x[2 * j + 3] + x[2 * j + 1]), ...);
        Lee<H, V>::inverse(even, even_out, aside);
        Lee<H, V>::inverse(odd, odd_out, aside);
        ((odd_out[i] = odd_out[i] * c[i]), ...);
        ((out[i] = even_out[i] + odd_out[i], out[N - 1 - i] = even_out[i] - odd_out[i]), ...);
    }
};

struct Nothing {
    TW_INLINE void step() {}
};

template <class V> struct Lee<1, V> {
    template <class Aside> static TW_INLINE void forward(const V (&x)[1], V (&out)[1], Aside &) { out[0] = x[0]; }
    template <class Aside> static TW_INLINE void inverse(const V (&x)[1], V (&out)[1], Aside &) { out[0] = x[0]; }
};

}  // namespace
