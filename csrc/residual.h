// Source -> basis -> residual, a row at a time: x = held * decay + basis(source) * gain, two roundings.
//
// Nearly all rows are usual: their numbers are finite and below 2^64, which the sums of squares tell when the row is done. Rows that turn
// out not to be so are done again by what looks at each number: it counts the bad ones and clears them.
#pragma once
#include "intake.h"
#include "select.h"
#include "tile.h"

namespace {

// What is known of a row before its selection: nothing; that it is usual; and beyond that the largest magnitudes of its groups.
enum class Shape { any, usual, grouped };

// A tile to come and a held residual to come.
struct Following {
    Ahead ahead;
    const char *held;

    TW_INLINE void line(int i) {
        ahead.line(i);
        prefetch_far(held + 64 * i);
    }
    TW_INLINE void turn() { held += 64 * LINES; }
};

// The next row of a source and of the held residual, in rows without a basis: one half is asked for beside the intake of a row, the other
// beside its selection, so that memory is never idle.
struct Next {
    const char *source = nullptr, *held = nullptr;
    int64_t source_nbytes = 4;  // of a number

    TW_INLINE void ask_for(int64_t at) const {  // the line of number `at` of the row
        prefetch_far(source + source_nbytes * at);
        prefetch_far(held + 4 * at);
    }
};

constexpr int64_t ROOM = 2 * TW_MOST_CHUNK;  // a halving tree over the next power of two

struct alignas(64) Work {
    float row[ROOM];      // x: source, then its coefficients, then the residual before and after what is sent
    float scratch[ROOM];  // of the transform, the keys, the held row
    float chosen[ROOM];   // coefficients that are sent
    uint8_t codes[4 * ROOM];
    uint16_t index[ROOM];
    int32_t groups[GROUPS];
    Shape shape = Shape::any;
    int32_t guess = 0;  // where the bound of the last row was
    Next next;
};

// The rule, vector by vector.
template <bool has_held> struct Rule {
    const float *held;
    float *x;
    float decay, gain;
    Sum squares = {};

    TW_INLINE void operator()(int64_t at, F y, int place) {
        F v = y * gain;
        if (has_held) v = sendable(load(held + at)) * decay + v;
        squares.add_square(place % (64 / WIDTH), v);
        store(x + at, v);
    }
};

// Of numbers that are taken to be usual.
template <bool has_held> struct UsualRule {
    const float *held;
    float *x;
    float decay, gain;
    Sum squares = {};

    TW_INLINE F apply(int64_t at, F y, int place) {
        F v = y * gain;
        if (has_held) v = normal_times(load(held + at), decay) + v;
        squares.add_square(place, v);
        store(x + at, v);
        return v;
    }
};

// The same on coefficients of a tile of side 64; if `grouped`, with the largest magnitude of each group of 16: a lane of all rows that have
// one remainder by 4, as the transform gives them one after another.
template <bool has_held, bool grouped> struct UsualTileRule {
    UsualRule<has_held> rule;
    int32_t *groups;
    F largest[4] = {};

    TW_INLINE void operator()(int64_t at, F y, int row) {
        const F v = rule.apply(at, y, row / 4 % (64 / WIDTH));
        if (!grouped) return;
        F &most = largest[row % 4];
        most = row < 4 ? abs_of(v) : largest_magnitude(most, v);
        if (row >= 60) store_int(groups + (at - row * 64) * 4 + row % 4 * WIDTH, bits(most));
    }
};

// Where the first pass over a tile of side 64 takes its numbers from: straight from the source.
template <class Numbers> struct FromSource {
    static constexpr bool backward = false;
    Numbers run;  // from the first number of the tile on
    int64_t width;
    Sum squares;

    TW_INLINE F vector(int i, int c, F) {
        const F v = normal(run.vector(i * width + c));
        squares.add_square(i / 16 * (16 / WIDTH) + c / WIDTH % (16 / WIDTH), v);  // the transform asks for four of different i / 16 at once
        return v;
    }
};

// The last residual, if there is one, goes out beside the first pass, which writes over it block by block.
template <bool grouped, bool has_held>
void usual_tile(const TwEncode &job, const Row &row, const UsualRule<has_held> &rule, Beside<Following, Behind> beside, double *stats,
                Work &work) {
    const TwSheet &sheet = sheet_of_row(*job.layout, row.number);
    UsualTileRule<has_held, grouped> usual = {rule, work.groups};
    with_run(sheet, tile_offset(*job.layout, sheet, row.number), job.anchor, [&](const auto &run) {
        FromSource<std::decay_t<decltype(run)>> source = {run, sheet.width, {}};
        static_assert(!source.backward, "the last residual goes out in this order");
        if (beside.last.to) columns_to_rows<Way::forward, 64>(source, rule.x, beside);
        else columns_to_rows<Way::forward, 64>(source, rule.x, beside.next);
        columns<Way::forward, 64>(rule.x, nullptr, beside.next, usual);  // in place: fewer lines in the first cache
        stats[1] = source.squares.total();
    });
    work.shape = grouped ? Shape::grouped : Shape::usual;
    stats[2] = usual.rule.squares.total();
}

// A row without a basis, of whole blocks of 16.
template <bool has_held, bool waits>
void usual_row(const TwEncode &job, const Row &row, UsualRule<has_held> rule, const Behind &behind_, double *stats, Work &work) {
    const Behind behind = behind_;  // all in registers
    Sum squares;
    each_run(*job.layout, row.start, row.n, [&](const TwSheet &sheet, int64_t element, int64_t start, int64_t count) {
        with_run(sheet, element, job.anchor, [&](const auto &run) {
            UsualRule<has_held> rule_ = rule;
            Sum squares_ = squares;
            const Next next = {run.from + run.nbytes * (row.n - start), (const char *)(has_held ? rule.held + row.n : rule.x), run.nbytes};
            work.next = next;
            each_vector(count, [&](int64_t at, int place) {
                if (at % 32 == 0) next.ask_for(start + at);
                if (waits && at % 16 == 0) behind.put((int)((start + at) / 16));
                const F v = normal(run.vector(at));
                squares_.add_square(place, v);
                rule_.apply(start + at, v, place);
            });
            rule = rule_, squares = squares_;
        });
    });
    work.shape = Shape::usual;
    stats[1] = squares.total(), stats[2] = rule.squares.total();
}

// Whether all of the row lies in runs of whole blocks of 16.
bool in_blocks(const TwEncode &job, const Row &row) {
    bool whole = row.n % 16 == 0;
    return row.n == each_run(*job.layout, row.start, row.n, [&](const TwSheet &, int64_t, int64_t, int64_t count) { whole &= count % 16 == 0; }) && whole;
}

// What usual rows are worth: with a smaller decay a number that is too large could hide, and zero times an infinite one is not zero
// everywhere (`normal_times`).
bool may_be_usual(const TwEncode &job) { return job.decay >= 0x1p-20f && job.decay <= 16 && std::fabs(job.gain) <= 16; }

// x becomes what could be sent; stats: {bad numbers, squares of the source, squares of x}. The last residual goes out beside it.
template <bool has_held>
void accumulate(const TwEncode &job, const Row &row, const float *held, float *x, const Behind &behind, double *stats, Work &work) {
    const tw_program &p = job.program;
    Following following = {tile_ahead(*job.layout, row.number + 1, x), (const char *)(held ? held + AHEAD : x)};
    const bool tile = p.side == 64 && row.number < job.layout->tile_rows;
    bool waits = behind.to;
    if (may_be_usual(job) && (tile || (p.side == 0 && in_blocks(job, row)))) {
        const UsualRule<has_held> rule = {held, x, job.decay, job.gain};
        if (tile) {
            if (p.select == S_TOP_K && p.k <= MOST_USUAL) usual_tile<true>(job, row, rule, {following, behind}, stats, work);
            else usual_tile<false>(job, row, rule, {following, behind}, stats, work);
        } else {
            waits ? usual_row<has_held, true>(job, row, rule, behind, stats, work) : usual_row<has_held, false>(job, row, rule, behind, stats, work);
        }
        if (Sum::sane(stats[1]) && Sum::sane(stats[2])) return;
        waits = false;  // it has arrived
    }
    work.shape = Shape::any;
    work.next = {(const char *)x, (const char *)x, 0};
    if (waits) put_away(behind, row.n);
    Rule<has_held> rule = {held, x, job.decay, job.gain};
    read_source(job, row, x, stats);
    if (p.side) {
        transform_tile<Way::forward>(Tile<Way::forward>{x}, work.scratch, p.side, following, rule);
    } else {
        each_vector(row.n16, [&](int64_t at, int place) {
            if (has_held && at % 16 == 0) prefetch((const char *)(held + at) + AHEAD);
            rule(at, load(x + at), place);
        });
    }
    stats[2] = rule.squares.total();
}

}  // namespace
