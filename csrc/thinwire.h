// The C ABI of libthinwire: plain pointers and sizes, no torch, no Python. Every function is thread-safe, and returns a negative number
// (TW_BAD_...) instead of doing anything when its arguments cannot be meant.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TW_BAD_PROGRAM = -2, TW_BAD_LAYOUT = -3, TW_BAD_ARGUMENT = -4 };
enum { TW_FLOAT32 = 0, TW_BFLOAT16 = 1, TW_FLOAT16 = 2 };
enum { TW_OUT = 0, TW_STEP = 1, TW_SGD = 2 };
enum { TW_PLANES = 0, TW_ELIAS_FANO = 1, TW_BITMAP = 2, TW_RICE = 3 };

// A chain of stages over a (rows, chunk) matrix; field by field kernels/program.py `Program`.
typedef struct {
    int64_t rows, chunk, side, select, k, block, value, index, scale, record, seed;
} tw_program;

// One tensor of a fragment, contiguous, as a matrix of height x width; `data` may be null where only the shape matters.
typedef struct {
    void *data;
    int64_t dtype, height, width;
} tw_sheet;

// What becomes of the update u, element by element (all float32, unfused, in this order):
//   TW_OUT   anchor = u
//   TW_STEP  w = w * keep (unless keep is 1);  w = w - (sign ? sign(u) : u) * lr
//   TW_SGD   m = m * mu + u;  g = nesterov ? u + m * mu : m (mu 0: u);  anchor = anchor - g * lr;  w = anchor (unless w is null)
// `anchor` and `momentum` are flat float32 over all sheets.
typedef struct {
    int64_t kind, sign, nesterov;
    float lr, keep, mu;
    float *anchor, *momentum;
} tw_finish;

// Version of this interface; the loader refuses another one.
int tw_abi(void);

// Instruction set in use: 0 baseline, 1 x86-64-v3, 2 x86-64-v4. `tw_set_isa` picks one for tests and returns what it got.
int tw_isa(void);
int tw_set_isa(int level);

// residual + basis + select + quantise + pack: x = source (or anchor - source), whole = held * decay + basis(x) * gain, payload =
// code(whole), kept = whole - what was sent. `held` null: nothing is held. `kept` null: it is not wanted; `payload` null: `kept` becomes
// `whole`. `kept` may not overlap `held`. stats: {numbers of x that are NaN, Inf or above 2^100, sum x^2, sum kept^2}. Returns 0.
int64_t tw_encode(const tw_program *program, const tw_sheet *sources, int64_t sheets, const float *anchor, const float *held, float decay,
                  float gain, uint8_t *payload, float *kept, double *stats, int threads);

// The first row of a payload that no encoder of this program can have made, or -1.
int64_t tw_check(const tw_program *program, const uint8_t *payload, int threads);

// Sum `members` payloads in order, divide (by the members, or each coefficient by those who sent it), undo the basis and finish. Payloads
// must have passed tw_check; of others only memory safety is promised. Returns 0.
int64_t tw_decode(const tw_program *program, const uint8_t *const *payloads, int64_t members, int contributors, const tw_finish *finish,
                  const tw_sheet *targets, int64_t sheets, int threads);

// Asks the system for large pages for the whole ones within `nbytes` at `data`, before they are written for the first time: fewer look-ups
// of addresses. A wish, which may be ignored.
void tw_large_pages(void *data, int64_t nbytes);

// `tiles` square tiles of side*side float32 (side 8, 16, 32 or 64) to their orthonormal DCT-II, or back when `inverse` is not 0.
// Coefficient order is column frequency * side + row frequency. `in` and `out` may be equal.
int64_t tw_dct_tiles(const float *in, float *out, int64_t tiles, int side, int inverse, int threads);

// `rows` vectors of 64 float32 to their orthonormal DCT-II, or back. `in` and `out` may be equal.
int64_t tw_dct_rows(const float *in, float *out, int64_t rows, int inverse, int threads);

// Index coding by itself: `rows` times k ascending uint16 below chunk, to and from bytes. Elias-Fano, planes and bitmap records have a
// fixed size (tw_index_nbytes); a Golomb-Rice stream has `sizes[row]` bytes, at most tw_index_nbytes, and rows lie `stride` bytes apart.
int64_t tw_index_nbytes(int64_t k, int64_t chunk, int coding, int rice);
int64_t tw_index_pack(const uint16_t *index, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, uint8_t *out, int64_t stride,
                      int64_t *sizes);
// Returns the first unsound row, or -1.
int64_t tw_index_unpack(const uint8_t *in, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, int64_t stride,
                        const int64_t *sizes, uint16_t *index);

#ifdef __cplusplus
}
#endif
