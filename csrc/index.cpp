// Index coding by itself: the three fixed-size codings of a record, and Golomb-Rice streams of variable length.
#include <cmath>

#include "jobs.h"
#include "record.h"

namespace {

constexpr int64_t ROOM = TW_MOST_CHUNK + 64;

// TW_... of the interface to the coding of a record.
int64_t record_coding(int coding) { return coding == TW_ELIAS_FANO ? X_ELIAS_FANO : coding == TW_BITMAP ? X_BITMAP : X_PLANES; }

// Each gap (differences less 1, the first place itself): gap >> b ones, a zero, then the low b bits; from the lowest bit on.
int64_t pack_rice(const uint16_t *index, int64_t k, int b, uint8_t *out) {
    uint64_t held = 0;
    int filled = 0;
    uint8_t *const start = out;
    int64_t last = -1;
    const auto flush = [&] {
        while (filled >= 8) *out++ = (uint8_t)held, held >>= 8, filled -= 8;
    };
    for (int64_t i = 0; i < k; i++) {
        const uint64_t gap = (uint64_t)(index[i] - last - 1);
        last = index[i];
        uint64_t ones = gap >> b;
        for (; ones > 32; ones -= 32) held |= 0xFFFFFFFFull << filled, filled += 32, flush();
        held |= ((1ull << ones) - 1) << filled, filled += (int)ones + 1;
        if (filled > 40) flush();
        held |= (gap & ((1ull << b) - 1)) << filled, filled += b;
        if (filled > 24) flush();
    }
    filled = (filled + 7) / 8 * 8;
    flush();
    return out - start;
}

bool unpack_rice(const uint8_t *in, int64_t nbytes, int64_t k, int64_t chunk, int b, uint16_t *index) {
    int64_t bit = 0, last = -1;
    const int64_t bits = nbytes * 8;
    bool sound = true;
    for (int64_t i = 0; i < k; i++) {
        int64_t ones = 0;
        for (;;) {
            const uint32_t word = bits_at(in, nbytes, bit) | 0xFE000000u;  // of which at least 25 bits are read
            const int run = ~word ? __builtin_ctz(~word) : 32;
            if (run < 25) { ones += run, bit += run; break; }
            ones += 25, bit += 25;
            if (bit >= bits) break;
        }
        bit++;
        const int64_t low = bits_at(in, nbytes, bit) & ((1u << b) - 1);
        bit += b;
        const int64_t at = last + 1 + (ones << b) + low;
        if (bit > bits || at >= chunk) {
            sound = false;
            for (; i < k; i++) index[i] = 0;
            break;
        }
        index[i] = (uint16_t)at;
        last = at;
    }
    if (!sound || (bit + 7) / 8 != nbytes) return false;
    return bit % 8 == 0 || in[nbytes - 1] >> (bit % 8) == 0;
}

constexpr int64_t ABREAST = 3;  // rows: where a number begins is known only when the one before is read

// As many rows at once, `stride` (8 or more) bytes apart, of which as many and 8 more may be read. Bit r: whether row r is sound beyond
// doubt; others are to be read again.
unsigned unpack_rice_abreast(const uint8_t *in, int64_t stride, const int64_t *sizes, int64_t k, int64_t chunk, int b, uint16_t *index) {
    int64_t bit[ABREAST] = {}, bits[ABREAST], next[ABREAST] = {};
    int64_t doubt[ABREAST] = {};  // below 0
    for (int64_t r = 0; r < ABREAST; r++) bits[r] = 8 * sizes[r];
    const uint64_t mask = (1ull << b) - 1;
    for (int64_t i = 0; i < k; i++)
#pragma GCC unroll 3
        for (int64_t r = 0; r < ABREAST; r++) {
            const uint64_t word = load64(in + r * stride + bit[r] / 8) >> (bit[r] % 8);  // 57 bits of it count
            const int ones = __builtin_ctzll(~word | 1ull << 63);
            const int64_t at = next[r] + ((int64_t)ones << b) + (int64_t)(word >> ones >> 1 & mask);
            const int64_t end = bit[r] + ones + 1 + b;
            doubt[r] |= (56 - b - ones) | (bits[r] - end) | (chunk - 1 - at);
            bit[r] = end < bits[r] ? end : bits[r];
            next[r] = at + 1;
            index[r * k + i] = (uint16_t)at;
        }
    unsigned sound = 0;
    for (int64_t r = 0; r < ABREAST; r++) {
        const bool ends = (bit[r] + 7) / 8 == sizes[r] && (bit[r] % 8 == 0 || in[r * stride + sizes[r] - 1] >> (bit[r] % 8) == 0);
        sound |= (unsigned)(ends && doubt[r] >= 0) << r;
    }
    return sound;
}

}  // namespace

namespace TW_NAMESPACE {

void index_pack(const uint16_t *index, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, uint8_t *out, int64_t stride,
                int64_t *sizes) {
    alignas(64) int32_t scratch[ROOM];
    const int64_t nbytes = tw_index_nbytes(k, chunk, coding, rice);
    for (int64_t row = 0; row < rows; row++) {
        int64_t size = nbytes;
        if (coding == TW_RICE) size = pack_rice(index + row * k, k, rice, out + row * stride);
        else pack_index(index + row * k, k, chunk, 0, record_coding(coding), scratch, out + row * stride);
        if (sizes) sizes[row] = size;
    }
}

int64_t index_unpack(const uint8_t *in, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, int64_t stride,
                     const int64_t *sizes, uint16_t *index) {
    alignas(64) int32_t places[ROOM], part[ROOM];
    alignas(64) uint8_t copy[FIELD_ROOM];
    const PlaceField field(k, chunk, 0, record_coding(coding));
    const int64_t nbytes = field.nbytes;  // of a row of fixed size
    int64_t bad = -1;
    unsigned sound_ahead = 0;  // of rows from this one on, bit by bit
    for (int64_t row = 0; row < rows; row++) {
        if (coding == TW_RICE && row % ABREAST == 0)
            sound_ahead = row + ABREAST < rows && stride >= 8
                              ? unpack_rice_abreast(in + row * stride, stride, sizes + row, k, chunk, rice, index + row * k)
                              : 0;
        const uint8_t *from = in + row * stride;
        uint16_t *to = index + row * k;
        bool sound;
        if (coding == TW_RICE) {
            sound = sound_ahead >> row % ABREAST & 1 || unpack_rice(from, sizes[row], k, chunk, rice, to);
        } else {
            sound = unpack_index<true>(field, from, (rows - 1 - row) * stride + nbytes, copy, part, places);
            for (int64_t i = 0; i < k; i++) to[i] = (uint16_t)places[i];
        }
        if (!sound && bad < 0) bad = row;
    }
    return bad;
}

}  // namespace TW_NAMESPACE
