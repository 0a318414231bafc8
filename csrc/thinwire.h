// The C ABI of libthinwire: plain pointers and sizes, no torch, no Python. Every function is thread-safe and allocates nothing.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Version of this interface; the loader refuses another one.
int tw_abi(void);

// Instruction set in use: 0 baseline, 1 x86-64-v3, 2 x86-64-v4. `tw_set_isa` picks one for tests and returns what it got.
int tw_isa(void);
int tw_set_isa(int level);

// `tiles` square tiles of side*side float32 (side 8, 16, 32 or 64) to their orthonormal DCT-II, or back when `inverse` is not 0.
// Coefficient order is column frequency * side + row frequency. Returns 0, or -1 for a side it does not know. `in` and `out` may be equal.
int tw_dct_tiles(const float *in, float *out, int64_t tiles, int side, int inverse);

#ifdef __cplusplus
}
#endif
