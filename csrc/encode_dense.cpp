// Encoding where every number is sent and nothing is held: rows are read where they lie. What is unusual is left to the rows of encode.cpp.
#include "dense.h"
#include "jobs.h"
#include "record.h"
#include "widen.h"

namespace TW_NAMESPACE {
void encode_rows(const TwEncode &job, int64_t begin, int64_t end);
void encode_dense(const TwEncode &job, int64_t begin, int64_t end);
}

namespace {

constexpr float TINY = 0x1p-48f;  // of rows with a smaller maximum too many squares are no floats
constexpr float HIGH = 0x1p20f;   // of rows with a larger scale some quotients are no floats, which counts where any part may round up
constexpr float FINITE = 0x1.fffffep127f;
constexpr int64_t MUCH = 1 << 20;  // bytes of a payload that goes past the caches, where it can

// Finds the rows of float32 that lie in one piece.
struct Rows {
    const TwLayout &layout;
    const TwSheet *sheet = nullptr;

    const float *at(int64_t start, int64_t n) {
        if (start + n > layout.pooled) return nullptr;
        if (!sheet || start < sheet->pool || start >= sheet->pool + sheet->height * sheet->width) sheet = &sheet_of_place(layout, start);
        if (sheet->dtype != TW_FLOAT32 || start + n > sheet->pool + sheet->height * sheet->width) return nullptr;
        return (const float *)sheet->data + (start - sheet->pool);
    }
};

struct DenseRow {
    const TwEncode &job;
    int64_t number, piece, n;
    const float *x;
    Survey found = {};

    uint8_t *record() const { return job.payload + number * job.program.record; }
    bool finite() const { return found.squares <= FINITE; }

    template <class C> bool cast() {
        const int64_t before = piece * TW_PIECE * C::bits / 8;
        const Codes to = {record() + before, job.program.record - before};
        const bool past_caches = job.program.rows * job.program.record >= MUCH && aligned(to.out) && n % GROUP == 0;
        found = past_caches ? cast_dense<C, true>(x, n, to) : cast_dense<C, false>(x, n, to);
        return finite();
    }

    // What stands in front of the codes; false where that makes all of them 0.
    bool scale(float scale) {
        if (scale != 0) std::memcpy(record(), &scale, 4);
        else std::memset(record(), 0, (size_t)job.program.record);
        return scale != 0;
    }

    bool signs(float *part) {
        if (!has_sign_sweep(n)) return false;
        found = sign_dense(x, n, part, record() + 4);
        if (finite()) scale(bits_of(found.measure) < ZERO_BLOCK ? 0 : round_up16(found.measure));
        return finite();
    }

    template <class C> bool code(const C &coder) {
        code_dense(coder, x, n, {record() + 4, job.program.record - 4});
        return true;
    }

    template <int bits> bool integers(float scale) {
        const tw_program &p = job.program;
        if (!p.seed) return code(DenseInt<bits>{Quotient(scale)});
        if (scale > HIGH) return false;
        Denormals kept(false);  // of the quotients
        return code(DenseStochastic<bits>(scale, lowbias32(lowbias32((uint32_t)p.seed ^ bits_of(scale)) + (uint32_t)number * 0x9E3779B9u)));
    }

    bool scaled() {
        const int64_t value = job.program.value;
        found = survey(x, n);
        if (!finite()) return false;
        const float largest = found.measure, s = bits_of(largest) < ZERO_BLOCK ? 0 : round_up16(largest / value_most(value));
        if (!scale(s)) return true;
        if (largest < TINY) return false;
        switch (value) {
            case V_INT8: return integers<8>(s);
            case V_INT4: return integers<4>(s);
            case V_INT2: return integers<2>(s);
            case V_FP8: return code(DenseMinifloat<8, 3, -6>{Quotient(s)});
            default: return code(DenseMinifloat<4, 1, 0>{Quotient(s)});
        }
    }

    bool encode(float *part) {
        switch (job.program.value) {
            case V_FLOAT32: return cast<DenseFloat>();
            case V_BFLOAT16: return cast<DenseHalf<true>>();
            case V_FLOAT16: return cast<DenseHalf<false>>() && found.measure <= 65504;
            case V_SIGN: return signs(part);
            default: return scaled();
        }
    }
};

}  // namespace

namespace TW_NAMESPACE {

void encode_dense(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    if (job.kept || (job.held && job.decay != 0) || job.gain != 1) return encode_rows(job, begin, end);
    alignas(64) float wide[TW_MOST_CHUNK], part[TW_MOST_CHUNK / 8];
    Rows rows = {*job.layout};
    Denormals flushed(true);
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t number = unit / job.units.pieces, piece = unit % job.units.pieces, start = number * p.chunk + piece * TW_PIECE;
        const int64_t n = std::min(job.units.length, p.chunk - piece * TW_PIECE);
        DenseRow row = {job, number, piece, n, job.anchor ? nullptr : rows.at(start, n)};
        if (row.x) {
            foresee(row.x + n, 4 * n);
        } else {
            Denormals kept(false);  // of a difference
            row.x = wide;
            const char *behind = widen(*job.layout, job.anchor, start, n, wide);
            if (behind) foresee(behind, 4 * n);
            if (job.anchor) foresee(job.anchor + start + n, 4 * n);
        }
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[2] = 0;
        if (row.encode(part)) {
            stats[1] = row.found.squares;
        } else {
            Denormals kept(false);
            encode_rows(job, unit, unit + 1);
        }
    }
    fence();
}

}  // namespace TW_NAMESPACE
