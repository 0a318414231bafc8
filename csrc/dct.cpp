// Lee's butterfly over the rows of a tile, all columns at once: the compiler vectorises the inner loops over columns.
//
// The order of operations is that of kernels/dct.py, in float32 without contraction (-ffp-contract=off), so the bits are the same at every
// vector width. This file is compiled once for each instruction set, with TW_NAMESPACE naming it; everything in it is local to that copy,
// or a linker could pick the AVX-512 copy of a shared inline function for an old processor.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

template <int N> struct Cosines {
    float value[N / 2];
    Cosines() {
        for (int i = 0; i < N / 2; i++) value[i] = (float)(1.0 / (2.0 * std::cos((2 * i + 1) * M_PI / (2 * N))));
    }
};

template <int N> const float *cosines() {
    static const Cosines<N> table;
    return table.value;
}

// Forward, along the rows of x[N][C] with rows `stride` apart; `scratch` holds N rows.
template <int N, int C> struct Butterfly {
    static void forward(float (*x)[C], float (*scratch)[C]) {
        constexpr int H = N / 2;
        const float *c = cosines<N>();
        for (int i = 0; i < H; i++)
            for (int j = 0; j < C; j++) {
                const float top = x[i][j], bottom = x[N - 1 - i][j];
                scratch[i][j] = top + bottom;
                scratch[H + i][j] = (top - bottom) * c[i];
            }
        Butterfly<H, C>::forward(scratch, x);
        Butterfly<H, C>::forward(scratch + H, x);
        for (int i = 0; i < H; i++)
            for (int j = 0; j < C; j++) x[2 * i][j] = scratch[i][j];
        for (int i = 0; i + 1 < H; i++)
            for (int j = 0; j < C; j++) x[2 * i + 1][j] = scratch[H + i][j] + scratch[H + i + 1][j];
        std::memcpy(x[N - 1], scratch[N - 1], sizeof(x[0]));
    }

    static void inverse(float (*x)[C], float (*scratch)[C]) {
        constexpr int H = N / 2;
        const float *c = cosines<N>();
        for (int i = 0; i < H; i++)
            for (int j = 0; j < C; j++) scratch[i][j] = x[2 * i][j];
        std::memcpy(scratch[H], x[1], sizeof(x[0]));
        for (int i = 1; i < H; i++)
            for (int j = 0; j < C; j++) scratch[H + i][j] = x[2 * i + 1][j] + x[2 * i - 1][j];
        Butterfly<H, C>::inverse(scratch, x);
        Butterfly<H, C>::inverse(scratch + H, x);
        for (int i = 0; i < H; i++)
            for (int j = 0; j < C; j++) {
                const float even = scratch[i][j], odd = scratch[H + i][j] * c[i];
                x[i][j] = even + odd;
                x[N - 1 - i][j] = even - odd;
            }
    }
};

template <int C> struct Butterfly<1, C> {
    static void forward(float (*)[C], float (*)[C]) {}
    static void inverse(float (*)[C], float (*)[C]) {}
};

template <int N> void transpose(float (*x)[N]) {
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++) {
            const float kept = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = kept;
        }
}

template <int N> struct Scale {
    float value[N * N];
    Scale() {
        for (int v = 0; v < N; v++)
            for (int u = 0; u < N; u++) value[v * N + u] = (float)(one(v) * one(u));
    }
    static double one(int k) { return std::sqrt((k ? 2.0 : 1.0) / N); }
};

template <int N> void transform(const float *in, float *out, int64_t tiles, bool inverse) {
    static const Scale<N> scale;
    alignas(64) float x[N][N], scratch[N][N];
    for (int64_t t = 0; t < tiles; t++) {
        std::memcpy(x, in + t * N * N, sizeof x);
        float *flat = &x[0][0];
        if (inverse) {
            for (int i = 0; i < N * N; i++) flat[i] *= scale.value[i];
            Butterfly<N, N>::inverse(x, scratch);
            transpose<N>(x);
            Butterfly<N, N>::inverse(x, scratch);
        } else {
            Butterfly<N, N>::forward(x, scratch);
            transpose<N>(x);
            Butterfly<N, N>::forward(x, scratch);
            for (int i = 0; i < N * N; i++) flat[i] *= scale.value[i];
        }
        std::memcpy(out + t * N * N, x, sizeof x);
    }
}

}  // namespace

namespace TW_NAMESPACE {

int dct_tiles(const float *in, float *out, int64_t tiles, int side, int inverse) {
    switch (side) {
        case 8: transform<8>(in, out, tiles, inverse != 0); return 0;
        case 16: transform<16>(in, out, tiles, inverse != 0); return 0;
        case 32: transform<32>(in, out, tiles, inverse != 0); return 0;
        case 64: transform<64>(in, out, tiles, inverse != 0); return 0;
        default: return -1;
    }
}

}  // namespace TW_NAMESPACE
