// Encoding where every number is sent and nothing is held: rows are read where they lie.
#include "dense.h"
#include "jobs.h"
#include "record.h"

namespace TW_NAMESPACE {
void encode_rows(const TwEncode &job, int64_t begin, int64_t end);
void encode_dense(const TwEncode &job, int64_t begin, int64_t end);
}

namespace {

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

constexpr float TINY = 0x1p-64f;

// False: the row is not usual.
bool encode_row(const tw_program &p, const float *x, int64_t n, uint8_t *out, double *stats) {
    Soon soon = {(const char *)(x + n)};
    const Survey s = survey(x, n, soon);
    stats[1] = s.squares;
    if (!(s.squares <= 0x1.fffffep127f)) return false;
    const int64_t room = p.record - 4;
    if (bits_of(s.largest) < ZERO_BLOCK) {
        std::memset(out, 0, (size_t)p.record);
        return true;
    }
    if (s.largest < TINY) return false;
    const float scale = round_up16(s.largest / value_most(p.value));
    std::memcpy(out, &scale, 4);
    out += 4;
    const Quotient quotient = {all(scale), all(1.0f / scale)};
    switch (p.value) {
        case V_INT8: code_dense(DenseInt<8>{quotient}, x, n, out, room, soon); break;
        case V_INT4: code_dense(DenseInt<4>{quotient}, x, n, out, room, soon); break;
        case V_INT2: code_dense(DenseInt<2>{quotient}, x, n, out, room, soon); break;
        case V_FP8: code_dense(DenseMinifloat<8, 3, -6>{quotient}, x, n, out, room, soon); break;
        case V_FP4: code_dense(DenseMinifloat<4, 1, 0>{quotient}, x, n, out, room, soon); break;
    }
    return true;
}

}  // namespace

namespace TW_NAMESPACE {

void encode_dense(const TwEncode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    FlushDenormals quiet;
    Place place = {*job.layout};
    for (int64_t unit = begin; unit < end; unit++) {
        double *stats = job.stats + 3 * unit;
        stats[0] = stats[1] = stats[2] = 0;
        const float *x = place.of(unit * p.chunk, p.chunk);
        if (x && encode_row(p, x, p.chunk, job.payload + unit * p.record, stats)) continue;
        KeepDenormals exact;
        encode_rows(job, unit, unit + 1);
    }
}

}  // namespace TW_NAMESPACE
