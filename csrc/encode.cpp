// One row after another: source -> basis -> residual -> select -> quantise -> record, all in the first cache; memory is read and written once.
#include "coders.h"
#include "jobs.h"
#include "record.h"
#include "select.h"
#include "tile.h"
#include "widen.h"

namespace {

enum Select { S_ALL, S_TOP_K, S_BLOCK_MAX };  // as kernels/program.py

constexpr int64_t AHEAD = 2048;  // bytes: the best of 512 to 8192 here; the processor by itself does not look beyond a page
constexpr int64_t ROOM = 2 * TW_MOST_CHUNK;  // a halving tree over the next power of two

struct alignas(64) Work {
    float rows[2][ROOM];  // by turns x: source, then its coefficients, then the residual before and after what is sent
    float scratch[ROOM];  // of the transform, the keys, the held row
    float chosen[ROOM];   // coefficients that are sent
    uint8_t codes[4 * ROOM];
    uint16_t index[ROOM];
};

// The residual of the row before, on its way to memory while this row is worked on.
struct Behind {
    const float *from = nullptr;
    float *to = nullptr;  // null: nothing is on its way

    TW_INLINE void line() {
        for (int j = 0; j < 16; j += WIDTH) stream(to + j, load(from + j));
        from += 16, to += 16;
    }
};

void put_away(Behind behind, int64_t n) {
    if (n % 16 || !aligned(behind.to)) std::memcpy(behind.to, behind.from, (size_t)(4 * n));
    else
        for (int64_t i = 0; i < n; i += 16) behind.line();
}

// Beside the transform: the next tile and the held residual come in, the last residual goes out.
struct AheadAndBehind {
    Ahead ahead;
    const char *held;
    Behind behind;

    TW_INLINE void step() {
        ahead.step();
        prefetch(held + 16384);
        held += 64;
        if (behind.to) behind.line();
    }
};

struct Row {
    int64_t number, start, n, n16;  // start: its first element in the matrix; n16: n in whole blocks of 16, padded with zeros
};

// -- the source ----------------------------------------------------------------------------------------------------------------

// Numbers on their way in: what cannot be sent becomes zero, what is not finite is counted, squares are added up.
struct Intake {
    I bad = {};
    Sum squares;

    template <int dtype, bool subtract> void take(const char *from, const float *anchor, float *to, int64_t n) {  // n: a multiple of 16
        constexpr int64_t nbytes = dtype == TW_FLOAT32 ? 4 : 2;
        I bad_ = bad;  // in registers
        Sum squares_ = squares;
        each_vector(n, [&](int64_t at, int place) {
            if (n > 64 && at % 16 == 0) {
                prefetch(from + nbytes * at + AHEAD);
                if (subtract) prefetch((const char *)(anchor + at) + AHEAD);
            }
            const F raw = load_source<dtype>(from + nbytes * at);
            const F x = subtract ? load(anchor + at) - raw : raw, v = sendable(x);
            bad_ = count_large(bad_, x);
            squares_.add(place, v * v);
            store(to + at, v);
        });
        bad = bad_, squares = squares_;
    }

    int64_t bad_count() const {
        int32_t each[WIDTH];
        store_int(each, bad);
        int64_t sum = 0;
        for (int32_t lane : each) sum += lane;
        return sum;
    }

    void take_run(const TwSheet &sheet, int64_t element, const float *anchor, float *to, int64_t n) {
        const char *from = sheet.data + element * element_nbytes(sheet.dtype);
        if (anchor) anchor += sheet.flat + element;
        switch (sheet.dtype) {
            case TW_FLOAT32: anchor ? take<TW_FLOAT32, true>(from, anchor, to, n) : take<TW_FLOAT32, false>(from, anchor, to, n); break;
            case TW_BFLOAT16: anchor ? take<TW_BFLOAT16, true>(from, anchor, to, n) : take<TW_BFLOAT16, false>(from, anchor, to, n); break;
            case TW_FLOAT16: anchor ? take<TW_FLOAT16, true>(from, anchor, to, n) : take<TW_FLOAT16, false>(from, anchor, to, n); break;
        }
    }

    // A run of any length: its last few numbers go by way of a whole block of 16.
    void take_any(const TwSheet &sheet, int64_t element, const float *anchor, float *to, int64_t n) {
        const int64_t whole = n / 16 * 16, rest = n - whole;
        take_run(sheet, element, anchor, to, whole);
        if (!rest) return;
        alignas(64) char last[64] = {};
        alignas(64) float wide[16], last_anchor[16] = {};
        const int64_t nbytes = element_nbytes(sheet.dtype);
        std::memcpy(last, sheet.data + (element + whole) * nbytes, (size_t)(rest * nbytes));
        if (anchor) std::memcpy(last_anchor, anchor + sheet.flat + element + whole, (size_t)(4 * rest));
        TwSheet alone = sheet;
        alone.data = last, alone.flat = 0;
        take_run(alone, 0, anchor ? last_anchor : nullptr, wide, 16);
        std::memcpy(to + whole, wide, (size_t)(4 * rest));
    }
};

void read_source(const TwEncode &job, const Row &row, float *x, double *stats) {
    Intake intake;
    const int64_t filled = each_run(*job.layout, row.start, row.n, [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
        if (count % 16 == 0) intake.take_run(sheet, element, job.anchor, x + at, count);
        else intake.take_any(sheet, element, job.anchor, x + at, count);
    });
    std::memset(x + filled, 0, (size_t)(4 * (row.n16 - filled)));
    stats[0] = (double)intake.bad_count();
    stats[1] = intake.squares.total();
}

// The rule of the residual, vector by vector: x = held * decay + y * gain, two roundings.
template <bool has_held> struct Accumulate {
    const float *held;
    float *x;
    float decay, gain;
    Sum squares = {};

    TW_INLINE void operator()(int64_t at, F y, int place) {
        F v = y * gain;
        if (has_held) v = sendable(load(held + at)) * decay + v;
        squares.add(place, v * v);
        store(x + at, v);
    }
};

// A tile of float32 where it lies in its tensor: no copy of it is made.
struct FromSource {
    const char *from;
    int64_t stride;  // bytes
    Intake intake;

    TW_INLINE F vector(int i, int c) {
        const F raw = load((const float *)(from + i * stride) + c), v = sendable(raw);
        intake.bad = count_large(intake.bad, raw);
        intake.squares.add(i % (64 / WIDTH), v * v);
        return v;
    }
};

// Whether the row is such a tile, of the side that is worth a copy of the transform.
bool lies_as_tile(const TwEncode &job, const Row &row) {
    return job.program.side == 64 && !job.anchor && row.number < job.layout->tile_rows && sheet_of_row(*job.layout, row.number).dtype == TW_FLOAT32;
}

// Source -> basis -> residual: x becomes what could be sent. Returns the sum of its squares.
template <bool has_held> double accumulate(const TwEncode &job, const Row &row, Accumulate<has_held> rule, AheadAndBehind aside, double *stats, Work &work) {
    if (lies_as_tile(job, row)) {
        FromSource source = {nullptr, 0, {}};
        source.from = tile_at(*job.layout, row.number, &source.stride);
        transform_from<Way::forward, 64>(source, work.scratch, aside, rule);
        stats[0] = (double)source.intake.bad_count();
        stats[1] = source.intake.squares.total();
        return rule.squares.total();
    }
    const tw_program &p = job.program;
    read_source(job, row, rule.x, stats);
    if (p.side) {
        transform_tile<Way::forward, false>(rule.x, work.scratch, p.side, aside, rule);
        return rule.squares.total();
    }
    each_vector(row.n16, [&](int64_t at, int place) {
        if (has_held && at % 16 == 0) prefetch((const char *)(rule.held + at) + AHEAD);
        rule(at, load(rule.x + at), place);
    });
    return rule.squares.total();
}

// -- the record ----------------------------------------------------------------------------------------------------------------

template <class C> double code_with(const C &coder, bool state, float *x, int64_t n, uint8_t *codes) {
    return state ? code_row<true>(coder, x, n, codes) : code_row<false>(coder, x, n, codes);
}

double squares_of(const float *x, int64_t n) {
    Sum squares;
    each_vector(blocks16(n), [&](int64_t at, int place) { squares.add(place, load(x + at) * load(x + at)); });
    return squares.total();
}

// Quantises n numbers (of the row, or chosen from it) to codes behind the scale; with `state`, x becomes what is left of them. Returns the
// squares of what is left. `index` is null when all are sent.
double quantise(const tw_program &p, float *x, int64_t n, int64_t row, bool state, float &scale, const uint16_t *index, Work &work) {
    uint8_t *codes = work.codes;
    std::memset(codes + blocks16(n) * value_bits(p.value) / 8, 0, 64);  // packing looks that far
    switch (p.value) {
        case V_FLOAT32: return code_with(FloatCoder{}, state, x, n, codes);
        case V_BFLOAT16: return code_with(HalfCoder<true>{}, state, x, n, codes);
        case V_FLOAT16: return code_with(HalfCoder<false>{}, state, x, n, codes);
        case V_VOTE: {
            scale = largest_key(x, n) ? 1.0f : 0.0f;
            if (scale != 0) {
                code_row<false>(VoteCoder{}, x, n, codes);
                const bool read_as_silent = !p.scale && looks_silent(p, codes, index);
                return read_as_silent || !state ? squares_of(x, n) : code_row<true>(VoteCoder{}, x, n, codes);
            }
            std::memset(codes, 0, (size_t)padded(n) + 8);
            for (int64_t i = 0; i < n && !p.scale; i++) codes[i / 8] |= (uint8_t)((SILENT >> (i % 64) & 1) << i % 8);
            return squares_of(x, n);
        }
        case V_SIGN: scale = mean_scale(x, n, work.scratch); break;
        default: scale = absmax_scale(x, n, value_most(p.value));
    }
    if (scale == 0) {
        std::memset(codes, 0, (size_t)blocks16(n) + 64);
        return squares_of(x, n);
    }
    const F s = all(scale);
    switch (p.value) {
        case V_SIGN: return code_with(SignCoder{{}, s}, state, x, n, codes);
        case V_FP8: return code_with(MinifloatCoder<true>{{}, s}, state, x, n, codes);
        case V_FP4: return code_with(MinifloatCoder<false>{{}, s}, state, x, n, codes);
    }
    if (!p.seed) return code_with(IntCoder{{}, s, all(1.0f / scale)}, state, x, n, codes);
    const uint32_t seed = lowbias32(lowbias32((uint32_t)p.seed ^ bits_of(scale)) + (uint32_t)row * 0x9E3779B9u);
    return code_with(StochasticCoder{{}, s, value_most(p.value), seed}, state, x, n, codes);
}

// `codes` as they stand in a record, padded to 4 bytes.
void put_values(const tw_program &p, const uint8_t *codes, int64_t n, uint8_t *out) {
    const int wide = value_bits(p.value);
    if (wide == 2 || wide == 4) return pack_codes(codes, n, wide, out);
    const int64_t nbytes = (n * wide + 7) / 8;
    std::memcpy(out, codes, (size_t)nbytes);
    for (int64_t i = nbytes; i % 4; i++) out[i] = 0;
}

// Every coefficient is sent. A long row comes in pieces, which only values without a scale allow. Returns the squares of what is kept.
double encode_all(const TwEncode &job, const Row &row, int64_t piece, float *x, Work &work) {
    const tw_program &p = job.program;
    float scale = 0;
    const double squares = quantise(p, x, row.n, row.number, job.kept != nullptr, scale, nullptr, work);
    uint8_t *out = job.payload + row.number * p.record;
    if (p.scale) std::memcpy(out, &scale, 4), out += 4;
    put_values(p, work.codes, row.n, out + piece * TW_PIECE * value_bits(p.value) / 8);
    return squares;
}

// The chosen are sent. Returns by how much the squares of what is kept are above those of x.
double encode_some(const TwEncode &job, const Row &row, float *x, Work &work) {
    const tw_program &p = job.program;
    const int64_t k = p.k;
    uint16_t *index = work.index;
    float *chosen = work.chosen, scale = 0;
    if (p.select == S_BLOCK_MAX) block_max(x, row.n, p.block, index);
    else top_k(x, row.n, k, (int32_t *)work.scratch, index);
    for (int64_t i = 0; i < k; i++) chosen[i] = x[index[i]];
    for (int64_t i = k; i < blocks16(k); i++) chosen[i] = 0;
    const double before = job.kept ? squares_of(chosen, k) : 0;
    const double after = quantise(p, chosen, k, row.number, job.kept != nullptr, scale, index, work);
    if (job.kept)
        for (int64_t i = 0; i < k; i++) x[index[i]] = chosen[i];
    uint8_t *out = job.payload + row.number * p.record;
    put_values(p, work.codes, k, out + p.record - padded(k * value_bits(p.value)));
    if (p.scale) std::memcpy(out, &scale, 4), out += 4;
    pack_index(index, k, p.chunk, p.block, p.index, (int32_t *)work.scratch, out);
    return after - before;
}

}  // namespace

namespace TW_NAMESPACE {

void encode_rows(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    Work work;
    Behind behind;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t number = unit / job.units.pieces, piece = unit % job.units.pieces;
        const int64_t start = number * p.chunk + piece * TW_PIECE;
        const int64_t n = std::min(job.units.length, p.chunk - piece * TW_PIECE);
        const Row row = {number, start, n, blocks16(n)};
        const float *held = job.held ? job.held + start : nullptr;
        float *x = work.rows[unit % 2];
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[1] = stats[2] = 0;
        if (held && job.decay != 0 && n != row.n16) {  // whole blocks
            std::memcpy(work.chosen, held, (size_t)(4 * n));
            std::memset(work.chosen + n, 0, (size_t)(4 * (row.n16 - n)));
            held = work.chosen;
        }
        const AheadAndBehind aside = {next_tile(*job.layout, number + 2, x), (const char *)(held ? held : x), behind};
        if (p.side) behind = {};
        if (held && job.decay != 0) stats[2] = accumulate(job, row, Accumulate<true>{held, x, job.decay, job.gain}, aside, stats, work);
        else if (p.side || job.kept || job.gain != 1) stats[2] = accumulate(job, row, Accumulate<false>{nullptr, x, 0, job.gain}, aside, stats, work);
        else read_source(job, row, x, stats);
        if (job.payload && p.select == S_ALL) stats[2] = encode_all(job, row, piece, x, work);
        else if (job.payload) stats[2] = std::max(0.0, stats[2] + encode_some(job, row, x, work));  // below zero: rounding
        if (!job.kept) continue;
        behind = {x, job.kept + start};
        const bool later = p.side >= 16 && unit + 1 < end && aligned(behind.to);  // it goes beside the next transform
        if (!later) put_away(behind, row.n), behind = {};
    }
    fence();
}

void encode(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    const bool dense = p.select == S_ALL && !p.side && job.payload && p.value != V_VOTE;
    dense ? encode_dense(job, begin, end) : encode_rows(job, begin, end);
}

}  // namespace TW_NAMESPACE
