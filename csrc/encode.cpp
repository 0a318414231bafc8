// One row after another: source -> basis -> residual -> select -> quantise -> record, all in the first cache; memory is read and written once.
#include "coders.h"
#include "record.h"
#include "residual.h"

namespace {

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
    const Next next = work.next;
    const auto beside = [&](int64_t at) { next.ask_for(at + 16); };
    const auto nothing = [](int64_t) {};  // beside a transform all is asked for
    if (p.select == S_BLOCK_MAX) {
        if (work.shape == Shape::any) block_max(x, row.n, p.block, index);
        else if (p.side) usual_block_max(x, row.n, p.block, index, nothing);
        else usual_block_max(x, row.n, p.block, index, beside);
    } else if (work.shape == Shape::grouped) {
        top_k_of_groups(x, row.n, k, work.groups, work.guess, (int32_t *)work.scratch, index);
    } else {
        top_k(x, row.n, k, (int32_t *)work.scratch, work.guess, index, beside);
    }
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
        const float *held = job.held && job.decay != 0 ? job.held + start : nullptr;
        float *x = work.row;
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[1] = stats[2] = 0;
        if (held && n != row.n16) {  // whole blocks
            std::memcpy(work.chosen, held, (size_t)(4 * n));
            std::memset(work.chosen + n, 0, (size_t)(4 * (row.n16 - n)));
            held = work.chosen;
        }
        held ? accumulate<true>(job, row, held, x, behind, stats, work) : accumulate<false>(job, row, nullptr, x, behind, stats, work);
        if (job.payload && p.select == S_ALL) stats[2] = encode_all(job, row, piece, x, work);
        else if (job.payload) stats[2] = std::max(0.0, stats[2] + encode_some(job, row, x, work));  // below zero: rounding
        if (!job.kept) continue;
        behind = {x, job.kept + start};
        const bool later = (p.side == 64 || p.side == 0) && n % 16 == 0 && job.units.pieces == 1 && unit + 1 < end && aligned(behind.to);
        if (later) continue;  // it goes beside the next row
        put_away(behind, n);
        behind = {};
    }
    fence();
}

void encode(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    const bool dense = p.select == S_ALL && !p.side && job.payload && p.value != V_VOTE;
    dense ? encode_dense(job, begin, end) : encode_rows(job, begin, end);
}

}  // namespace TW_NAMESPACE
