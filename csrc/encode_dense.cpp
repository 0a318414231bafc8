// Encoding where every number is sent and nothing is held: rows are read where they lie. What is unusual is left to the rows of encode.cpp.
#include "dense.h"
#include "jobs.h"
#include "record.h"

namespace TW_NAMESPACE {
void encode_rows(const TwEncode &job, int64_t begin, int64_t end);
void encode_dense(const TwEncode &job, int64_t begin, int64_t end);
}

namespace {

constexpr float TINY = 0x1p-48f;  // of rows with a smaller maximum too many squares are no floats
constexpr float HIGH = 0x1p20f;   // of rows with a larger scale some quotients are no floats, which only counts where any part may round up

// Where a row lies in its tensor, or null.
struct Place {
    const TwLayout &layout;
    const TwSheet *sheet = nullptr;

    const float *of(int64_t start, int64_t n) {
        if (start + n > layout.pooled) return nullptr;
        if (!sheet || start < sheet->pool || start >= sheet->pool + sheet->height * sheet->width) sheet = &sheet_of_place(layout, start);
        if (sheet->dtype != TW_FLOAT32 || start + n > sheet->pool + sheet->height * sheet->width) return nullptr;
        return (const float *)sheet->data + (start - sheet->pool);
    }
};

struct DenseRow {
    const tw_program &p;
    int64_t number;
    const float *x;
    uint8_t *out;
    double *stats;
    Soon soon;

    bool zeros() {
        std::memset(out, 0, (size_t)p.record);
        return true;
    }
    bool finite(const Survey &s) {
        stats[1] = s.squares;
        return s.squares <= 0x1.fffffep127f;
    }

    bool signs(float *part) {
        if (!has_sign_sweep(p.chunk)) return false;
        const Survey s = sign_dense(x, p.chunk, part, out + 4, soon);
        if (!finite(s)) return false;
        if (bits_of(s.measure) < ZERO_BLOCK) return zeros();
        const float scale = round_up16(s.measure);
        std::memcpy(out, &scale, 4);
        return true;
    }

    template <class C> void code(const C &coder) { code_dense(coder, x, p.chunk, out + 4, p.record - 4, soon); }

    bool scaled() {
        const Survey s = survey(x, p.chunk, soon);
        if (!finite(s)) return false;
        if (bits_of(s.measure) < ZERO_BLOCK) return zeros();
        const float scale = round_up16(s.measure / value_most(p.value));
        if (s.measure < TINY || (p.seed && scale > HIGH)) return false;
        std::memcpy(out, &scale, 4);
        const Quotient quotient(scale);
        if (p.seed) {
            const uint32_t seed = lowbias32(lowbias32((uint32_t)p.seed ^ bits_of(scale)) + (uint32_t)number * 0x9E3779B9u);
            Denormals<false> exact;
            switch (p.value) {
                case V_INT8: code(DenseStochastic<8>(quotient, seed)); break;
                case V_INT4: code(DenseStochastic<4>(quotient, seed)); break;
                case V_INT2: code(DenseStochastic<2>(quotient, seed)); break;
            }
            return true;
        }
        switch (p.value) {
            case V_INT8: code(DenseInt<8>{quotient}); break;
            case V_INT4: code(DenseInt<4>{quotient}); break;
            case V_INT2: code(DenseInt<2>{quotient}); break;
            case V_FP8: code(DenseMinifloat<8, 3, -6>{quotient}); break;
            case V_FP4: code(DenseMinifloat<4, 1, 0>{quotient}); break;
        }
        return true;
    }
};

}  // namespace

namespace TW_NAMESPACE {

void encode_dense(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    alignas(64) float part[TW_MOST_CHUNK / 8];
    Place place = {*job.layout};
    Denormals<true> flushed;
    for (int64_t unit = begin; unit < end; unit++) {
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[1] = stats[2] = 0;
        const float *x = place.of(unit * p.chunk, p.chunk);
        DenseRow row = {p, unit, x, job.payload + unit * p.record, stats, {(const char *)(x + p.chunk), nullptr, 128, 0}};
        if (x && (p.value == V_SIGN ? row.signs(part) : row.scaled())) continue;
        Denormals<false> kept;
        encode_rows(job, unit, unit + 1);
    }
}

}  // namespace TW_NAMESPACE
