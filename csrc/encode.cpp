// One row after another: source -> basis -> residual -> select -> quantise -> record, all in the first cache; memory is read and written once.
#include "jobs.h"
#include "quantise.h"
#include "record.h"
#include "select.h"
#include "tile.h"

namespace {

enum Select { S_ALL, S_TOP_K, S_BLOCK_MAX };  // as kernels/program.py

constexpr int64_t ROOM = TW_MOST_CHUNK + 64;

struct alignas(64) Work {
    float x[ROOM];        // source, then its coefficients, then the residual before anything is sent
    float scratch[ROOM];  // of the transform, the keys, the held row
    float values[ROOM];   // what may be sent of the chosen
    float sent[ROOM];     // what the receiver will read
    uint8_t codes[4 * ROOM];
    uint16_t index[ROOM];
};

struct Row {
    int64_t number, start, n, n16;  // start: its first element in the matrix; n16: n in whole blocks of 16, padded with zeros
};

inline int64_t blocks16(int64_t n) { return (n + 15) / 16 * 16; }

void load_run(float *to, const TwSheet &sheet, int64_t element, int64_t count, const float *anchor) {
    const char *from = sheet.data + element * element_nbytes(sheet.dtype);
    if (sheet.dtype == TW_FLOAT32) {
        std::memcpy(to, from, (size_t)(4 * count));
    } else {
        const bool brain = sheet.dtype == TW_BFLOAT16;
        int64_t i = 0;
        for (; i < count; i += WIDTH) {
            uint16_t half[WIDTH] = {};
            float wide[WIDTH];
            const int64_t now = count - i < WIDTH ? count - i : WIDTH;
            std::memcpy(half, from + 2 * i, (size_t)(2 * now));
            I code;
            for (int j = 0; j < WIDTH; j++) code[j] = half[j];
            store(wide, brain ? from_bf16(code) : from_fp16(code));
            std::memcpy(to + i, wide, (size_t)(4 * now));
        }
    }
    if (anchor) {
        anchor += sheet.flat + element;
        int64_t i = 0;
        for (; i + WIDTH <= count; i += WIDTH) store(to + i, load(anchor + i) - load(to + i));
        for (; i < count; i++) to[i] = anchor[i] - to[i];
    }
}

// Zero what cannot be sent; count what is not finite; add up the squares.
void clean(float *x, int64_t n16, double *stats) {
    int64_t bad = 0;
    Sum16 squares;
    for (int64_t i = 0; i < n16; i += 16)
        for (int j = 0; j < 16 / WIDTH; j++) {
            const F raw = load(x + i + j * WIDTH), v = sendable(raw);
            bad += too_large(raw);
            squares.add(j, v * v);
            store(x + i + j * WIDTH, v);
        }
    stats[0] = (double)bad;
    stats[1] = squares.total();
}

// x = held * decay + x * gain, two roundings.
void accumulate(float *x, const float *held, const Row &row, float decay, float gain, float *scratch) {
    if (held && decay != 0) {
        if (row.n != row.n16) {
            std::memcpy(scratch, held, (size_t)(4 * row.n));
            std::memset(scratch + row.n, 0, (size_t)(4 * (row.n16 - row.n)));
            held = scratch;
        }
        for (int64_t i = 0; i < row.n16; i += WIDTH) {
            prefetch(held + i + 256);
            store(x + i, sendable(load(held + i)) * decay + load(x + i) * gain);
        }
    } else if (gain != 1) {
        for (int64_t i = 0; i < row.n16; i += WIDTH) store(x + i, load(x + i) * gain);
    }
}

// Codes of n values (padded with zeros), what they decode to, and the scale.
float quantise(const tw_program &p, const float *v, int64_t n, int64_t row, bool want_sent, Work &work) {
    uint8_t *codes = work.codes;
    float *sent = work.sent;
    const int64_t n16 = blocks16(n);
    std::memset(codes + n16, 0, 64);  // packing looks that far
    switch (p.value) {
        case V_FLOAT32:
            std::memcpy(codes, v, (size_t)(4 * n));
            std::memcpy(sent, v, (size_t)(4 * n16));
            return 0;
        case V_BFLOAT16:
        case V_FLOAT16:
            for (int64_t i = 0; i < n16; i += WIDTH) {
                const I code = p.value == V_BFLOAT16 ? to_bf16(load(v + i)) : to_fp16(load(v + i));
                uint16_t half[WIDTH];
                for (int j = 0; j < WIDTH; j++) half[j] = (uint16_t)code[j];
                std::memcpy(codes + 2 * i, half, sizeof half);
                if (want_sent) store(sent + i, p.value == V_BFLOAT16 ? from_bf16(code) : from_fp16(code));
            }
            return 0;
        case V_SIGN: {
            const float scale = mean_scale(v, n, work.sent);
            const I live = scale == 0 ? I{} : ~I{};
            for (int64_t i = 0; i < n16; i += WIDTH) {
                const I minus = load(v + i) < 0;
                store_codes(codes + i, minus & live & 1);
                if (want_sent) store(sent + i, floats(bits(all(scale)) ^ (minus & live & INT32_MIN)));
            }
            return scale;
        }
        case V_VOTE: {
            I any = {};
            for (int64_t i = 0; i < n16; i += WIDTH) any |= magnitude(load(v + i));
            const bool silent = largest_lane(any) == 0;
            for (int64_t i = 0; i < n16; i += WIDTH) {
                const I minus = load(v + i) < 0;
                store_codes(codes + i, minus & 1);
                store(sent + i, silent ? F{} : floats(bits(all(1.0f)) ^ (minus & INT32_MIN)));
            }
            if (silent && !p.scale)
                for (int64_t i = 0; i < n; i++) codes[i] = 0x9E3779B97F4A7C15ull >> (i % 64) & 1;
            for (int64_t i = n; i < n16; i++) codes[i] = 0;
            return silent ? 0.0f : 1.0f;
        }
    }
    const float most = value_most(p.value), scale = absmax_scale(v, n16, most);
    if (scale == 0) {
        std::memset(codes, 0, (size_t)n16);
        std::memset(sent, 0, (size_t)(4 * n16));
        return 0;
    }
    const F s = all(scale), inverse = all(1.0f / scale);
    if (p.value == V_FP8 || p.value == V_FP4) {
        const bool eight = p.value == V_FP8;
        for (int64_t i = 0; i < n16; i += WIDTH) {
            const F x = load(v + i), y = floats(magnitude(x / s));
            const I code = eight ? to_fp8(y) : to_fp4(y);
            const I minus = bits(x) & ~(code == 0) & INT32_MIN;
            store_codes(codes + i, code | (I)((U)minus >> (eight ? 24 : 28)));
            if (want_sent) store(sent + i, floats(bits((eight ? from_fp8(code) : from_fp4(code)) * s) | minus));
        }
        return scale;
    }
    const uint32_t seed = lowbias32(lowbias32((uint32_t)p.seed ^ bits_of(scale)) + (uint32_t)row * 0x9E3779B9u);
    for (int64_t i = 0; i < n16; i += WIDTH) {
        const F q = p.seed ? stochastic(load(v + i), s, most, i, seed) : quotient(load(v + i), s, inverse);
        store_codes(codes + i, nearest_int(q));
        if (want_sent) store(sent + i, q * s);
    }
    return scale;
}

// `codes` as they stand in a record, behind `out`.
void put_values(const tw_program &p, const uint8_t *codes, int64_t n, bool last, uint8_t *out) {
    const int wide = value_bits(p.value);
    if (wide > 8) {
        std::memcpy(out, codes, (size_t)(n * wide / 8));
        if (last)
            for (int64_t i = n * wide / 8; i % 4; i++) out[i] = 0;
    } else {
        pack_codes(codes, n, wide, out);
    }
}

void keep(const float *x, const Row &row, float *kept, double *stats) {
    Sum16 squares;
    const bool whole = row.n == row.n16 && aligned(kept);
    for (int64_t i = 0; i < row.n16; i += 16)
        for (int j = 0; j < 16 / WIDTH; j++) {
            const F v = load(x + i + j * WIDTH);
            squares.add(j, v * v);
            if (whole) stream(kept + i + j * WIDTH, v);
        }
    if (!whole) std::memcpy(kept, x, (size_t)(4 * row.n));
    stats[2] = squares.total();
}

float after_vote(float held, float vote) {
    if (vote == 0) return held;
    return held == 0 ? vote * -0x1p-100f : 0.0f;
}

// Every coefficient is sent. A long row comes in pieces, which only values without a scale allow.
void encode_all(const TwEncode &job, const Row &row, int64_t piece, Work &work) {
    const tw_program &p = job.program;
    for (int64_t i = 0; i < row.n16; i += WIDTH) store(work.values + i, sendable(load(work.x + i)));
    const float scale = quantise(p, work.values, row.n, row.number, job.kept != nullptr, work);
    uint8_t *out = job.payload + row.number * p.record;
    if (p.scale) std::memcpy(out, &scale, 4), out += 4;
    put_values(p, work.codes, row.n, true, out + piece * TW_PIECE * value_bits(p.value) / 8);
    if (!job.kept) return;
    if (p.value == V_VOTE)
        for (int64_t i = 0; i < row.n; i++) work.x[i] = after_vote(work.x[i], work.sent[i]);
    else
        for (int64_t i = 0; i < row.n16; i += WIDTH) store(work.x + i, load(work.x + i) - load(work.sent + i));
}

void encode_some(const TwEncode &job, const Row &row, Work &work) {
    const tw_program &p = job.program;
    const int64_t k = p.k;
    if (p.select == S_BLOCK_MAX) block_max(work.x, row.n, p.block, work.index);
    else top_k(work.x, row.n, k, (int32_t *)work.scratch, work.index);
    for (int64_t i = 0; i < k; i++) work.values[i] = work.x[work.index[i]];
    for (int64_t i = k; i < blocks16(k); i++) work.values[i] = 0;
    for (int64_t i = 0; i < blocks16(k); i += WIDTH) store(work.values + i, sendable(load(work.values + i)));
    const float scale = quantise(p, work.values, k, row.number, true, work);
    if (job.kept) {
        if (p.value == V_VOTE)
            for (int64_t i = 0; i < k; i++) work.x[work.index[i]] = after_vote(work.x[work.index[i]], work.sent[i]);
        else
            for (int64_t i = 0; i < k; i++) work.x[work.index[i]] -= work.sent[i];
    }
    uint8_t *out = job.payload + row.number * p.record;
    if (p.scale) std::memcpy(out, &scale, 4), out += 4;
    const int64_t values_nbytes = padded(k * value_bits(p.value));
    pack_index(work.index, k, p.chunk, p.block, p.index, (int32_t *)work.scratch, out);
    put_values(p, work.codes, k, true, job.payload + (row.number + 1) * p.record - values_nbytes);
}

}  // namespace

namespace TW_NAMESPACE {

void encode(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    Work work;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t number = unit / job.units.pieces, piece = unit % job.units.pieces;
        const int64_t start = number * p.chunk + piece * TW_PIECE;
        const int64_t n = std::min(job.units.length, p.chunk - piece * TW_PIECE);
        const Row row = {number, start, n, blocks16(n)};
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[1] = stats[2] = 0;
        const int64_t filled = each_run(*job.layout, start, n, [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
            load_run(work.x + at, sheet, element, count, job.anchor);
        });
        std::memset(work.x + filled, 0, (size_t)(4 * (row.n16 - filled)));
        clean(work.x, row.n16, stats);
        if (p.side) transform_tile<Way::forward>(work.x, work.x, work.scratch, p.side);
        accumulate(work.x, job.held ? job.held + start : nullptr, row, job.decay, job.gain, work.scratch);
        if (job.payload) {
            if (p.select == S_ALL) encode_all(job, row, piece, work);
            else encode_some(job, row, work);
        }
        if (job.kept) keep(work.x, row, job.kept + start, stats);
    }
    fence();
}

}  // namespace TW_NAMESPACE
