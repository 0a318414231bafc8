// One row after another: records of all members -> sum in member order -> divide -> inverse basis -> finish; memory is read and written once.
#include <cmath>

#include "dense_mean.h"
#include "jobs.h"
#include "quantise.h"
#include "record.h"
#include "sound.h"
#include "tile.h"

namespace {

constexpr int64_t ROOM = TW_MOST_CHUNK + 128;

// Where the fields of a record lie: scale, places (none when all coefficients are sent), values.
struct Fields {
    PlaceField places;
    int64_t places_at, values_at;
    explicit Fields(const tw_program &p)
        : places(p.index == X_NONE ? 0 : p.k, p.chunk, p.block, p.index), places_at(4 * p.scale), values_at(places_at + places.nbytes) {}
};

struct alignas(64) Work {
    float sum[ROOM];      // of the members; zero between rows where coefficients are few
    float scratch[ROOM];  // of the transform; then the update
    float values[ROOM];   // of some members
    int32_t places[ROOM], part[ROOM], count[ROOM], touched[ROOM];
    uint8_t codes[ROOM], copy[FIELD_ROOM];
    Fields fields;
    explicit Work(const tw_program &p) : fields(p) {}
};

// value(code) of n codes of a byte; 16 at a time are read and written.
template <class Get> TW_INLINE void each_code(const uint8_t *codes, int64_t n, float *values, Get value) {
    for (int64_t i = 0; i < n; i += WIDTH) store(values + i, value(load_codes(codes + i)));
}

// What n packed values at `in` stand for, n16 of them written; `in` has at least the padded bytes of n values.
void read_values(const tw_program &p, const uint8_t *in, float scale, int64_t n, uint8_t *codes, float *values) {
    const int wide = value_bits(p.value);
    const F s = all(scale);
    if (wide < 8 && wide > 1) unpack_codes(in, n, wide, codes), in = codes;
    else if (wide == 8 && n % 16) std::memcpy(codes, in, (size_t)padded(8 * n)), in = codes;
    switch (p.value) {
        case V_FLOAT32: std::memcpy(values, in, (size_t)(4 * n)); return;
        case V_BFLOAT16:
        case V_FLOAT16:
            for (int64_t i = 0; i < n; i += WIDTH) {
                uint16_t half[WIDTH] = {};
                std::memcpy(half, in + 2 * i, (size_t)(2 * std::min<int64_t>(WIDTH, n - i)));
                I code;
                for (int j = 0; j < WIDTH; j++) code[j] = half[j];
                store(values + i, p.value == V_BFLOAT16 ? from_bf16(code) : from_fp16(code));
            }
            return;
        case V_INT8: return each_code(in, n, values, [&](I code) { return to_float((I)((U)code << 24) >> 24) * s; });
        case V_INT4: return each_code(in, n, values, [&](I code) { return to_float((I)((U)code << 28) >> 28) * s; });
        case V_INT2: return each_code(in, n, values, [&](I code) { return to_float((I)((U)code << 30) >> 30) * s; });
        case V_FP8: return each_code(in, n, values, [&](I code) { return floats(bits(from_fp8(code & 0x7F) * s) | (I)((U)(code & 0x80) << 24)); });
        case V_FP4: return each_code(in, n, values, [&](I code) { return floats(bits(from_fp4(code & 7) * s) | (I)((U)(code & 8) << 28)); });
        default:  // a sign
            for (int64_t i = 0; i < n; i += WIDTH) {
                uint32_t word = 0;
                std::memcpy(&word, in + i / 8, WIDTH < 8 ? 1 : WIDTH / 8);
                const U minus = (U{} + (word >> (WIDTH < 8 ? i % 8 : 0))) >> (U)lanes() << 31;
                store(values + i, floats(bits(s) ^ (I)minus));
            }
    }
}

// Whether a vote's record says that its member does not vote in this row.
bool is_silent(const tw_program &p, float scale, const uint8_t *values, const int32_t *index) {
    return p.scale ? scale == 0 : looks_silent(p, values, index);
}

// The scale of a record that has one, else 1.
float scale_of(const tw_program &p, const uint8_t *record) {
    float scale = 1;
    if (p.scale) std::memcpy(&scale, record, 4);
    return scale;
}

// The places of a record's values; with `checked` whether they are sound.
template <bool checked> bool read_places(const tw_program &p, const uint8_t *record, Work &work, int32_t *places) {
    const Fields &at = work.fields;
    return unpack_index<checked>(at.places, record + at.places_at, p.record - at.places_at, work.copy, work.part, places);
}

// The places and values, times `factor`, of a member's record.
void read_some(const tw_program &p, const uint8_t *record, float factor, Work &work, int32_t *places, float *values) {
    const float scale = scale_of(p, record);
    const uint8_t *const codes = record + work.fields.values_at;
    read_places<false>(p, record, work, places);
    if (p.value == V_VOTE && is_silent(p, scale, codes, places)) std::memset(values, 0, (size_t)(4 * p.k));
    else read_values(p, codes, (p.value == V_VOTE ? 1.0f : scale) * factor, p.k, work.codes, values);
}

bool is_power_of_two(int64_t n) { return (n & (n - 1)) == 0; }

// Whether each sum is divided: there is no factor that makes a mean of it and is right to the bit.
bool divides(const TwDecode &job) { return job.contributors || !is_power_of_two(job.members); }

// Whether the values of a row may be multiplied by a power of two from 2^-21 on before they are added and not after: nothing then becomes
// so small that it is rounded. A value is a scale of 16 bits times at least 2^-9, so that all sums are multiples of 2^-104.
bool may_scale_before(const TwDecode &job, int64_t row) {
    const tw_program &p = job.program;
    if (value_bits(p.value) > 8) return false;
    for (int64_t m = 0; m < job.members && p.value != V_VOTE; m++) {
        const float scale = scale_of(p, job.payloads[m] + row * p.record);
        if (scale != 0 && !(scale >= 0x1p-80f)) return false;
    }
    return true;
}

// Adds the members' coefficients, each times `factor`, and divides them where that is no multiplication. Several records are read before
// they are added: what has just been written in parts is not there yet for those who read it whole.
void add_some(const TwDecode &job, int64_t row, float factor, Work &work) {
    constexpr int64_t AT_ONCE = 1024;  // coefficients
    const tw_program &p = job.program;
    float *const sum = work.sum, *const values = work.values;
    int32_t *const places = work.places, *const count = work.count, *const touched = work.touched;
    const bool counts = divides(job);
    int64_t so_far = 0;
    for (int64_t m = 0; m < job.members;) {
        int64_t n = 0;
        do {
            read_some(p, job.payloads[m] + row * p.record, factor, work, places + n, values + n);
            prefetch(job.payloads[m] + (row + 4) * p.record);
            m++, n += p.k;
        } while (m < job.members && n + p.k <= AT_ONCE);
        if (!counts) {
#pragma GCC unroll 8
            for (int64_t i = 0; i < n; i++) sum[places[i]] += values[i];
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            const int32_t at = places[i];
            sum[at] += values[i];
            touched[so_far] = at;
            so_far += count[at]++ == 0;
        }
    }
    const float all_members = (float)job.members;
    for (int64_t i = 0; i < so_far; i++) {
        const int32_t at = touched[i];
        sum[at] /= job.contributors ? (float)count[at] : all_members;
        count[at] = 0;
    }
}

// v - sign(u) * lr for lr >= 0, and v where u is 0.
TW_INLINE F less_signed(F v, F u, float lr) {
    const F step = floats(bits(all(lr)) | (bits(u) & INT32_MIN));
#if defined(__AVX512F__)
    return (F)_mm512_mask_sub_ps((__m512)v, _mm512_cmp_ps_mask((__m512)u, _mm512_setzero_ps(), _CMP_NEQ_OQ), (__m512)v, (__m512)step);
#else
    return (u > 0) | (u < 0) ? v - step : v;
#endif
}

// Weights of any dtype as vectors of float32; what is stored is rounded half to even.
struct Float32 {
    static constexpr int64_t nbytes = 4;
    static TW_INLINE F get(const char *p) { return load((const float *)p); }
    static TW_INLINE F round(F v) { return v; }
    static TW_INLINE void put(char *p, F v) { store((float *)p, v); }
};
// NaN stays NaN, and what is too large becomes Inf, as torch rounds.
struct BFloat16 {
    static constexpr int64_t nbytes = 2;
    static TW_INLINE I code(F v) {
        const U b = (U)bits(v);
        const I rounded = (I)((b + 0x7FFF + ((b >> 16) & 1)) >> 16), nan = magnitude(v) > 0x7F800000;
        return (0x7FC0 & nan) | (rounded & ~nan);
    }
    static TW_INLINE F get(const char *p) {
        uint16_t half[WIDTH];
        std::memcpy(half, p, sizeof half);
        I v;
        for (int j = 0; j < WIDTH; j++) v[j] = half[j];
        return floats(v << 16);
    }
    static TW_INLINE F round(F v) { return floats(code(v) << 16); }
    static TW_INLINE void put(char *p, F v) {
        const I c = code(v);
        uint16_t half[WIDTH];
        for (int j = 0; j < WIDTH; j++) half[j] = (uint16_t)c[j];
        std::memcpy(p, half, sizeof half);
    }
};

// What becomes of a vector of the update; `w`, `anchor` and `momentum` are where its weights are.
template <class T, bool sign, bool decays> struct StepBy {
    typedef T Weights;
    float lr, keep;
    TW_INLINE void operator()(char *w, float *, float *, F u) const {
        F v = T::get(w);
        if (decays) v = T::round(v * keep);
        T::put(w, sign ? less_signed(v, u, lr) : v - u * lr);
    }
};
template <class T, bool momentum_, bool nesterov> struct SgdBy {
    typedef T Weights;
    float lr, mu;
    TW_INLINE void operator()(char *w, float *anchor, float *momentum, F u) const {
        if (momentum_) {
            const F m = load(momentum) * mu + u;
            store(momentum, m);
            u = nesterov ? u + m * mu : m;
        }
        const F a = load(anchor) - u * lr;  // lr 1 changes nothing
        store(anchor, a);
        if (w) T::put(w, a);
    }
};

// `by` further on, where there is anything at all.
template <class T> TW_INLINE T *moved(T *p, int64_t by) { return p ? p + by : nullptr; }

template <class By> TW_INLINE void finish_run(const By &by, char *w, float *anchor, float *momentum, const float *u, int64_t n) {
    constexpr int64_t NBYTES = By::Weights::nbytes;
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        by(moved(w, i * NBYTES), moved(anchor, i), moved(momentum, i), load(u + i));
    if (i == n) return;
    // The last few go by way of whole vectors.
    const size_t left = (size_t)(n - i);
    alignas(64) char wide_w[4 * WIDTH] = {};
    alignas(64) float wide_a[WIDTH] = {}, wide_m[WIDTH] = {}, wide_u[WIDTH] = {};
    std::memcpy(wide_u, u + i, 4 * left);
    if (w) std::memcpy(wide_w, w + i * NBYTES, NBYTES * left);
    if (anchor) std::memcpy(wide_a, anchor + i, 4 * left);
    if (momentum) std::memcpy(wide_m, momentum + i, 4 * left);
    by(w ? wide_w : nullptr, wide_a, wide_m, load(wide_u));
    if (w) std::memcpy(w + i * NBYTES, wide_w, NBYTES * left);
    if (anchor) std::memcpy(anchor + i, wide_a, 4 * left);
    if (momentum) std::memcpy(momentum + i, wide_m, 4 * left);
}

template <class By> void finish_with(const By &by_, const TwDecode &job, int64_t start, int64_t n, const float *u) {
    const By by = by_;  // in registers
    float *const anchors = job.finish.anchor, *const momenta = job.finish.momentum;
    each_run(*job.layout, start, n, [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
        char *w = moved(sheet.data, element * By::Weights::nbytes);
        const int64_t flat = sheet.flat + element;
        finish_run(by, w, moved(anchors, flat), moved(momenta, flat), u + at, count);
    });
}

// visit(by) with what the job does to weights of a dtype.
template <class T, class Visit> void with_step_of(const tw_finish &f, Visit visit) {
    if (f.kind == TW_STEP) {
        const bool decays = f.keep != 1;
        if (f.sign && decays) return visit(StepBy<T, true, true>{f.lr, f.keep});
        if (f.sign) return visit(StepBy<T, true, false>{f.lr, f.keep});
        if (decays) return visit(StepBy<T, false, true>{f.lr, f.keep});
        return visit(StepBy<T, false, false>{f.lr, f.keep});
    }
    if (f.mu == 0) return visit(SgdBy<T, false, false>{f.lr, f.mu});
    if (f.nesterov) return visit(SgdBy<T, true, true>{f.lr, f.mu});
    return visit(SgdBy<T, true, false>{f.lr, f.mu});
}
template <class Visit> void with_step(const tw_finish &f, int dtype, Visit visit) {
    dtype == TW_BFLOAT16 ? with_step_of<BFloat16>(f, visit) : with_step_of<Float32>(f, visit);
}

void put_out(const TwDecode &job, int64_t start, int64_t n, const float *u) {
    float *const outs = job.finish.anchor;
    each_run(*job.layout, start, n, [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
        float *out = outs + sheet.flat + element;
        if (aligned(out) && count % WIDTH == 0)
            for (int64_t i = 0; i < count; i += WIDTH) stream(out + i, load(u + at + i));
        else std::memcpy(out, u + at, (size_t)(4 * count));
    });
}

void finish(const TwDecode &job, int64_t start, int64_t n, const float *u) {
    if (job.finish.kind == TW_OUT) return put_out(job, start, n, u);
    const int dtype = job.layout->dtype;
    const auto finish_all = [&](const auto &by) { finish_with(by, job, start, n, u); };
    if (dtype == TW_BFLOAT16 || dtype == TW_FLOAT32) return with_step(job.finish, dtype, finish_all);
    // Tensors of both dtypes: run by run, each with a layout of its own.
    each_run(*job.layout, start, n, [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
        TwLayout alone;
        TwSheet run = sheet;
        run.height = 1, run.width = count, run.down = run.across = run.first_row = run.pool = 0;
        run.flat = sheet.flat + element;
        run.data = moved(sheet.data, element * element_nbytes(sheet.dtype));
        alone.sheets.push_back(run), alone.pooled = count, alone.dtype = sheet.dtype;
        TwDecode one = job;
        one.layout = &alone;
        finish(one, 0, count, u + at);
    });
}

// A tile of side 64 whose update is known but not applied yet. That is done beside the first pass over the next row, which writes over the
// update block by block: memory is then asked for a little at a time, and arithmetic need not wait for it. Lines come in pairs, LINES of
// them before each turn.
template <class By> struct Waiting {
    By by;
    const float *u;
    char *weights;
    float *anchor, *momentum;
    int64_t width;  // of a row of the sheet
    int64_t row = 64 - WIDTH, at = row * width;  // the rows of a block go beside it: the last ones first, as the blocks come

    TW_INLINE void line(int i) {
        const int64_t half = i % 2 * 32;
#pragma GCC unroll 8
        for (int64_t c = half; c < half + 32; c += WIDTH)
            by(moved(weights, (at + c) * By::Weights::nbytes), moved(anchor, at + c), moved(momentum, at + c), load(u + 64 * row + c));
        if (i % 2) row++, at += width;
    }
    TW_INLINE void turn() { row -= 2 * WIDTH, at -= 2 * WIDTH * width; }
};

// visit(Waiting) of the tile of a row whose update is in `u`.
template <class Visit> void with_waiting(const TwDecode &job, int64_t row, const float *u, Visit visit) {
    const TwSheet &sheet = sheet_of_row(*job.layout, row);
    const int64_t first = tile_offset(*job.layout, sheet, row), flat = sheet.flat + first;
    with_step(job.finish, sheet.dtype, [&](const auto &by) {
        typedef std::decay_t<decltype(by)> By;
        char *const weights = moved(sheet.data, first * By::Weights::nbytes);
        visit(Waiting<By>{by, u, weights, moved(job.finish.anchor, flat), moved(job.finish.momentum, flat), sheet.width});
    });
}

// The update of a row from its sums, to work.scratch; that of the row `waiting` (-1: none), which still lies there, is applied beside it.
template <bool scaled> void invert(const TwDecode &job, int64_t row, int64_t waiting, float factor, Work &work) {
    Ahead ahead = tile_ahead(*job.layout, row + 2, work.sum);
    const Sums<scaled> sums = {work.sum, factor};
    StoreAt<false> emit = {work.scratch};  // where it reads: fewer lines in the first cache
    if (waiting < 0) return transform_tile<Way::inverse>(sums, work.scratch, job.program.side, ahead, emit);
    auto get = sums.template of<64>();
    static_assert(get.backward, "the tile that waits is applied in this order");
    with_waiting(job, waiting, work.scratch, [&](const auto &tile) {
        Beside<Ahead, std::decay_t<decltype(tile)>> beside = {ahead, tile};
        columns_to_rows<Way::inverse, 64>(get, work.scratch, beside);
        ahead = beside.next;
    });
    columns<Way::inverse, 64>(work.scratch, nullptr, ahead, emit);
}

// The update of a tile that nothing comes after.
void finish_waiting(const TwDecode &job, int64_t waiting, const Work &work) {
    with_waiting(job, waiting, work.scratch, [](auto tile) {
        for (int block = 0; block < 64; block += WIDTH, tile.turn())
            for (int i = 0; i < LINES; i++) tile.line(i);
    });
}

// -- what an encoder can have made ---------------------------------------------------------------------------------------------

bool sound_record(const tw_program &p, const uint8_t *record, Work &work) {
    const float scale = scale_of(p, record);
    const uint8_t *const values = record + work.fields.values_at;
    if (p.index != X_NONE && !read_places<true>(p, record, work, work.places)) return false;
    if (value_bits(p.value) > 8) return sound_floats(p, values, p.k);
    if (p.value != V_VOTE) return (!p.scale || sound_scale(scale, value_most(p.value))) && sound_codes(p, values, scale, p.k);
    if (!p.scale) return sound_codes(p, values, 1, p.k);
    if (bits_of(scale) != 0 && scale != 1) return false;
    if (!sound_codes(p, values, scale, p.k)) return false;
    if (scale == 0 && p.index != X_NONE)
        for (int64_t i = 0; i < p.k; i++)
            if (work.places[i] != i * (p.block ? p.block : 1)) return false;
    return true;
}

}  // namespace

namespace TW_NAMESPACE {

void decode(const TwDecode &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    Work work(p);
    std::memset(work.count, 0, p.index == X_NONE ? 0 : (size_t)(4 * p.chunk));
    std::memset(work.sum, 0, p.index == X_NONE ? 0 : (size_t)(4 * p.chunk));
    const float factor = divides(job) ? 1 : 1 / (float)job.members;
    int64_t waiting = -1;  // the row of a tile whose update is in work.scratch
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t row = unit / job.units.pieces, piece = unit % job.units.pieces;
        const int64_t start = row * p.chunk + piece * TW_PIECE, n = std::min(job.units.length, p.chunk - piece * TW_PIECE);
        const float *u = work.sum;
        const bool straight = p.index == X_NONE && !p.side && job.finish.kind == TW_OUT && start + n <= job.layout->pooled;
        float *const out = straight ? job.finish.anchor + start : nullptr;  // without a basis all numbers lie in order
        if (p.index == X_NONE) mean_of_row(job, row, piece * TW_PIECE, n, out && aligned(out), work.sum, out ? out : work.sum);
        const bool some = p.index != X_NONE, scaled = some && p.side && may_scale_before(job, row);
        if (some) add_some(job, row, scaled ? factor * usual_scale(p.side) : 1, work);
        if (out) continue;
        if (p.side) {
            if (scaled) invert<true>(job, row, waiting, 1, work);
            else invert<false>(job, row, waiting, some ? factor : 1, work);
            waiting = p.side == 64 && row < job.layout->tile_rows && job.finish.kind != TW_OUT ? row : -1;
            if (waiting >= 0) continue;  // it is applied beside the next row
            u = work.scratch;
        } else if (some && factor != 1) {
            for (int64_t i = 0; i < n; i += WIDTH) store(work.sum + i, load(work.sum + i) * factor);
        }
        finish(job, start, n, u);
        if (!p.side && p.index != X_NONE) std::memset(work.sum, 0, (size_t)(4 * n));
    }
    if (waiting >= 0) finish_waiting(job, waiting, work);
    fence();
}

void check(const TwCheck &job, int64_t begin, int64_t end) {
    const tw_program &p = job.program;
    Work work(p);
    for (int64_t unit = begin; unit < end; unit++) {
        job.bad[unit] = -1;
        const int64_t row = unit / job.units.pieces, piece = unit % job.units.pieces;
        const uint8_t *record = job.payload + row * p.record;
        bool sound;
        if (value_bits(p.value) > 8 && p.index == X_NONE) {
            const int64_t n = std::min(job.units.length, p.chunk - piece * TW_PIECE);
            sound = sound_floats(p, record + piece * TW_PIECE * value_bits(p.value) / 8, n);
        } else {
            sound = sound_record(p, record, work);
        }
        if (!sound) job.bad[unit] = row;
    }
}

}  // namespace TW_NAMESPACE
