// Numbers of a source on their way in, of any dtype, alone or as anchor - source.
#pragma once
#include "jobs.h"
#include "widen.h"

namespace {

constexpr int64_t AHEAD = 2048;  // bytes: the best of 512 to 8192; the processor by itself does not look beyond a page

// A contiguous run of numbers.
template <int dtype, bool subtract> struct Run {
    static constexpr int64_t nbytes = dtype == TW_FLOAT32 ? 4 : 2;
    const char *from;
    const float *anchor;

    TW_INLINE F vector(int64_t at) const {
        const F raw = load_source<dtype>(from + nbytes * at);
        return subtract ? load(anchor + at) - raw : raw;
    }
    TW_INLINE void ask_for(int64_t at, int64_t bytes) const {
        prefetch(from + nbytes * at + bytes);
        if (subtract) prefetch((const char *)(anchor + at) + bytes);
    }
};

// visit(run) with the numbers of a sheet from an element on.
template <class Visit> TW_INLINE void with_run(const TwSheet &sheet, int64_t element, const float *anchor, Visit visit) {
    const char *from = sheet.data + element * element_nbytes(sheet.dtype);
    if (anchor) anchor += sheet.flat + element;
    switch (sheet.dtype) {
        case TW_FLOAT32: return anchor ? visit(Run<TW_FLOAT32, true>{from, anchor}) : visit(Run<TW_FLOAT32, false>{from, anchor});
        case TW_BFLOAT16: return anchor ? visit(Run<TW_BFLOAT16, true>{from, anchor}) : visit(Run<TW_BFLOAT16, false>{from, anchor});
        default: return anchor ? visit(Run<TW_FLOAT16, true>{from, anchor}) : visit(Run<TW_FLOAT16, false>{from, anchor});
    }
}

// What cannot be sent becomes zero, what is not finite is counted, squares are added up.
struct Intake {
    I bad = {};
    Sum squares;

    template <class Numbers> void take(const Numbers &run, float *to, int64_t n) {  // n: a multiple of 16
        I bad_ = bad;  // in registers
        Sum squares_ = squares;
        each_vector(n, [&](int64_t at, int place) {
            if (n > 64 && at % 16 == 0) run.ask_for(at, AHEAD);
            const F x = run.vector(at), v = sendable(x);
            bad_ = count_large(bad_, x);
            squares_.add_square(place, v);
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
        with_run(sheet, element, anchor, [&](const auto &run) { take(run, to, n); });
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

struct Row {
    int64_t number, start, n, n16;  // start: its first element in the matrix; n16: n in whole blocks of 16, padded with zeros
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

}  // namespace
