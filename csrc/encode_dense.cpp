// Encoding where every number is sent: rows are read where they lie. What is unusual is left to the rows of encode.cpp.
#include "dense_keep.h"
#include "jobs.h"
#include "record.h"
#include "widen.h"

namespace {

constexpr float TINY = 0x1p-48f;  // of rows with a smaller maximum too many squares are no floats
constexpr float HIGH = 0x1p20f;   // of rows with a larger scale some quotients are no floats, which counts where any part may round up
constexpr float FINITE = 0x1.fffffep127f, MOST_HALF = 65504;
constexpr int64_t MUCH = 1 << 20;  // bytes of a payload that goes past the caches, where it can

// Finds the rows that lie in one piece.
struct Rows {
    const TwLayout &layout;
    const TwSheet *sheet = nullptr;  // of the last one

    const char *at(int64_t start, int64_t n) {
        if (start + n > layout.pooled) return nullptr;
        if (!sheet || start < sheet->pool || start >= sheet->pool + sheet->height * sheet->width) sheet = &sheet_of_place(layout, start);
        if (start + n > sheet->pool + sheet->height * sheet->width) return nullptr;
        return sheet->data + (start - sheet->pool) * element_nbytes(sheet->dtype);
    }
};

struct DenseRow {
    const TwEncode &job;
    int64_t number, piece, n;
    const float *x;
    float *part;  // memory for an eighth of a row
    double *stats;
    Parts parts;         // what x is made of, or x
    bool whole = false;  // x is what accumulate_row made, which may have denormals
    Left rest = {};

    uint8_t *record() const { return job.payload + number * job.program.record; }
    bool done(const Survey &found) {
        if (!whole) stats[1] = found.squares;
        return found.squares <= FINITE;
    }
    bool kept(float squares) {
        stats[2] = squares;
        return squares <= FINITE;
    }

    template <class C> bool cast() {
        const int64_t before = piece * TW_PIECE * C::bits / 8;
        const Codes to = {record() + before, job.program.record - before};
        if (rest.kept) return kept(code_kept(C(), x, n, to, rest, parts));
        if (whole) return code_kept(C(), x, n, to, {const_cast<float *>(x)}, parts) <= FINITE;  // left where it was
        const bool past_caches = job.program.rows * job.program.record >= MUCH && aligned(to.out) && n % GROUP == 0;
        const Survey found = past_caches ? cast_dense<C, true>(x, n, to) : cast_dense<C, false>(x, n, to);
        return done(found) && (C::bits != 16 || job.program.value == V_BFLOAT16 || found.measure <= MOST_HALF);
    }

    // What stands in front of the codes; 0 makes all of them 0.
    void put_scale(float scale) {
        if (scale != 0) std::memcpy(record(), &scale, 4);
        else std::memset(record(), 0, (size_t)job.program.record);
    }

    bool signs() {
        if (!has_sign_sweep(n)) return false;
        const Survey found = whole ? sign_dense<true>(x, n, part, record() + 4) : sign_dense<false>(x, n, part, record() + 4);
        if (!done(found)) return false;
        const float scale = bits_of(found.measure) < ZERO_BLOCK ? 0 : round_up16(found.measure);
        if (rest.kept && scale == 0) return false;
        put_scale(scale);
        return !rest.kept || kept(keep_signs(x, n, scale, rest, parts));
    }

    template <class C> bool code(const C &coder) {
        const Codes to = {record() + 4, job.program.record - 4};
        if (rest.kept) return kept(code_kept(coder, x, n, to, rest, parts));
        code_dense(coder, x, n, to, parts);
        return true;
    }

    template <int bits> bool integers(float scale) {
        const tw_program &p = job.program;
        if (!p.seed) return code(DenseInt<bits>{Quotient(scale)});
        if (scale > HIGH) return false;
        Denormals exact(false);  // of the quotients
        return code(DenseStochastic<bits>(scale, lowbias32(lowbias32((uint32_t)p.seed ^ bits_of(scale)) + (uint32_t)number * 0x9E3779B9u)));
    }

    bool scaled(float largest) {
        const float scale = bits_of(largest) < ZERO_BLOCK ? 0 : round_up16(largest / value_most(job.program.value));
        if (scale == 0 && !rest.kept) {
            put_scale(0);
            return true;
        }
        if (largest < TINY) return false;
        put_scale(scale);
        switch (job.program.value) {
            case V_INT8: return integers<8>(scale);
            case V_INT4: return integers<4>(scale);
            case V_INT2: return integers<2>(scale);
            case V_FP8: return code(DenseMinifloat<8, 3, -6>{Quotient(scale)});
            default: return code(DenseMinifloat<4, 1, 0>{Quotient(scale)});
        }
    }

    // `largest`: of x, where that is known. False: the row is not usual.
    bool encode(float largest) {
        switch (job.program.value) {
            case V_FLOAT32: return cast<DenseFloat>();
            case V_BFLOAT16: return cast<DenseHalf<true>>();
            case V_FLOAT16: return largest <= MOST_HALF && cast<DenseHalf<false>>();
            case V_SIGN: return signs();
        }
        if (whole) return scaled(largest);
        const Survey found = survey(x, n);
        return done(found) && scaled(found.measure);
    }
};

struct alignas(64) DenseWork {
    float wide[TW_MOST_CHUNK], whole[TW_MOST_CHUNK + GROUP], part[TW_MOST_CHUNK / 8];
};

// A row of any source, with what is held.
bool encode_whole(DenseRow &row, const TwSheet *sheet, const char *x, int64_t start, DenseWork &work) {
    const TwEncode &job = row.job;
    const int64_t n = row.n;
    Parts &parts = row.parts;
    parts = {(const char *)work.wide, 4, false, nullptr, nullptr, job.decay, job.gain};
    if (job.held && job.decay != 0) parts.held = job.held + start;
    if (!x) widen(*job.layout, job.anchor, start, n, work.wide);
    else parts.x = x, parts.nbytes = element_nbytes(sheet->dtype), parts.goes_on = true, parts.anchor = job.anchor ? job.anchor + start : nullptr;
    const Accumulated sum = accumulate_row(x ? sheet->dtype : (int64_t)TW_FLOAT32, parts, n, work.whole);
    row.stats[1] = sum.squares;
    row.x = work.whole, row.whole = true;
    if (job.kept) row.rest = {job.kept + start, aligned(job.kept + start)};
    return sum.usual() && row.encode(sum.largest);
}

}  // namespace

namespace TW_NAMESPACE {

void encode_dense(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    const bool state = job.kept || (job.held && job.decay != 0) || job.gain != 1;
    const bool plain = !state && !job.anchor && job.layout->dtype == TW_FLOAT32;  // a row is read where it lies
    DenseWork work;
    Rows rows = {*job.layout};
    Denormals flushed(plain);
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t number = unit / job.units.pieces, piece = unit % job.units.pieces, start = number * p.chunk + piece * TW_PIECE;
        const int64_t n = std::min(job.units.length, p.chunk - piece * TW_PIECE);
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[1] = stats[2] = 0;
        const char *x = rows.at(start, n);
        DenseRow row = {job, number, piece, n, (const float *)x, work.part, stats, {x}};
        if (plain && x) {
            if (p.value <= V_FLOAT16) foresee(row.x + n, 4 * n);
            if (row.encode(0)) continue;
        }
        Denormals exact(false);
        if ((plain && x) || !encode_whole(row, rows.sheet, x, start, work)) encode_rows(job, unit, unit + 1);
    }
    fence();
}

}  // namespace TW_NAMESPACE
