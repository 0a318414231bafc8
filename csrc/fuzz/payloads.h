// Payloads: what tw_encode makes of any memory is accepted by tw_check; whatever is changed in it, only -1 or a row comes back, and what is
// accepted decodes to numbers and is what an encoder makes of them.
#pragma once
#include <cmath>
#include <memory>

#include "programs.h"

namespace fuzz {

struct Counts {
    int64_t payloads, refused, accepted_changed, padding, canonical;
    int64_t programs, programs_known, layouts, streams, streams_refused, transforms;
};
extern Counts *counts;

using Memory = std::unique_ptr<Block>;

inline Memory floats_of(Source &source, int64_t n, Trouble kind) {
    Memory memory(new Block(source, 4 * n, 4));
    for (int64_t i = 0; i < n; i++) memory->as<float>()[i] = trouble(source, kind);
    return memory;
}

inline float widened(const uint8_t *at, int64_t dtype) {
    if (dtype == TW_FLOAT32) return *reinterpret_cast<const float *>(at);
    const uint32_t half = *reinterpret_cast<const uint16_t *>(at);
    if (dtype == TW_BFLOAT16) return float_of_bits(half << 16);
    const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3FF;
    if (exponent == 31) return float_of_bits(sign | 0x7F800000 | mantissa << 13);
    const float size = exponent ? std::ldexp((float)(1024 + mantissa), (int)exponent - 25) : std::ldexp((float)mantissa, -24);
    return float_of_bits(bits_of_float(size) | sign);
}

// Sources for an encoder: any floats of any dtype in memory of their own.
struct Tensors {
    std::vector<tw_sheet> sheets;
    std::vector<Memory> memory;
    int64_t numel = 0;

    Tensors(Source &source, const std::vector<tw_sheet> &shapes, int64_t dtypes) : sheets(shapes) {
        const Trouble kind = any_trouble(source);
        const int64_t dtype = source.below(dtypes);
        for (tw_sheet &sheet : sheets) {
            sheet.dtype = source.one_in(8) ? source.below(dtypes) : dtype;
            const int64_t n = sheet.height * sheet.width, nbytes = sheet.dtype == TW_FLOAT32 ? 4 : 2;
            memory.emplace_back(new Block(source, n * nbytes, nbytes));
            for (int64_t i = 0; i < n; i++) {
                const uint32_t bits = bits_of_float(trouble(source, kind));
                if (nbytes == 4) memory.back()->as<uint32_t>()[i] = bits;
                else memory.back()->as<uint16_t>()[i] = (uint16_t)(kind == Trouble::any_bits ? bits : bits >> 16);
            }
            sheet.data = memory.back()->bytes();
            numel += n;
        }
    }
    int64_t bad(const float *anchor) const {
        int64_t count = 0, flat = 0;
        for (const tw_sheet &sheet : sheets)
            for (int64_t i = 0; i < sheet.height * sheet.width; i++, flat++) {
                const float raw = widened((const uint8_t *)sheet.data + i * (sheet.dtype == TW_FLOAT32 ? 4 : 2), sheet.dtype);
                count += !(std::fabs(anchor ? anchor[flat] - raw : raw) <= 0x1p100f);
            }
        return count;
    }
};

inline int threads_of(Source &source, bool many = false) { return many || source.one_in(50) ? (int)source.between(many ? 2 : -1, 5) : 1; }

// Whether there are coefficients enough for the pool.
inline bool many(const tw_program &p) { return p.rows * p.chunk >= 65536; }

inline float share(Source &source) {
    static const float shares[] = {0.0f, 0.5f, 0.875f, 0.999f, 1.0f, 0x1p-20f};
    return source.pick(shares);
}

// A payload that the encoder made, the same at two instruction sets.
inline Memory encoded(Source &source, const tw_program &p, const std::vector<tw_sheet> &shapes) {
    doing = "encode";
    Tensors sources(source, shapes, 3);
    Memory anchor = source.one_in(4) ? floats_of(source, sources.numel, any_trouble(source)) : nullptr;
    Memory held = source.one_in(2) ? floats_of(source, p.rows * p.chunk, any_trouble(source)) : nullptr;
    const bool usual = !source.one_in(8);
    const float decay = usual ? share(source) : trouble(source, Trouble::any_bits);
    const float gain = usual ? share(source) : trouble(source, Trouble::any_bits);
    Memory payload[2], kept[2];
    const bool want_kept = !source.one_in(4), want_payload = !want_kept || !source.one_in(8);
    const int64_t rounds = source.one_in(2) ? 2 : 1;
    for (int i = 0; i < rounds; i++) {
        any_isa(source);
        payload[i].reset(new Block(source, p.rows * p.record));
        kept[i].reset(new Block(source, 4 * p.rows * p.chunk, 4));
        payload[i]->fill(i ? 0xA5 : 0x5A), kept[i]->fill(i ? 0xA5 : 0x5A);
        double stats[3];
        const int64_t code = tw_encode(&p, sources.sheets.data(), (int64_t)sources.sheets.size(), anchor ? anchor->as<float>() : nullptr,
                                       held ? held->as<float>() : nullptr, decay, gain, want_payload ? payload[i]->bytes() : nullptr,
                                       want_kept ? kept[i]->as<float>() : nullptr, stats, threads_of(source, many(p)));
        require(code == 0, "a known program is refused");
        require(stats[0] == (double)sources.bad(anchor ? anchor->as<float>() : nullptr), "another count of bad numbers");
        for (int64_t j = 0; want_kept && usual && j < p.rows * p.chunk; j++)
            require(std::isfinite(kept[i]->as<float>()[j]), "what is kept is not finite");
    }
    if (rounds == 2) {
        require(payload[0]->equals(*payload[1]) || !want_payload, "another instruction set gives another payload");
        // Only outside of what an optimizer asks for may a state hold NaN, whose bits are anybody's.
        require(!usual || kept[0]->equals(*kept[1]) || !want_kept, "another instruction set keeps something else");
    }
    if (!want_payload) return nullptr;
    any_isa(source);
    require(tw_check(&p, payload[0]->bytes(), threads_of(source, many(p))) == -1, "what an encoder made is refused");
    return std::move(payload[0]);
}

// Changes something; returns the row in which a padding bit is set, or -1.
inline int64_t change(Source &source, const tw_program &p, Block &payload) {
    static const uint32_t words[] = {0x00000000, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x007FFFFF, 0x00800000,
                                     0x80000000, 0x7F7FFFFF, 0x3F800000, 0x3F800001, 0x0D800000, 0x72000000, 0x71800000, 0x71800001};
    static const uint8_t extremes[] = {0x00, 0x01, 0x7E, 0x7F, 0x80, 0x81, 0x88, 0xFE, 0xFF};
    uint8_t *bytes = payload.bytes();
    const int64_t size = payload.size(), row = source.below(p.rows);
    uint8_t *record = bytes + row * p.record;
    const auto put_word = [&](int64_t at, uint32_t word) { std::memcpy(record + at, &word, 4); };  // records are whole words
    switch (source.below(12)) {
        case 0: return -1;
        case 1: record[source.below(p.record)] ^= (uint8_t)(1 << source.below(8)); return -1;
        case 2:
            for (int64_t i = source.between(2, 16); i > 0; i--) bytes[source.below(size)] ^= (uint8_t)(1 << source.below(8));
            return -1;
        case 3: record[source.below(p.record)] = source.pick(extremes); return -1;
        case 4: put_word(source.below(p.record / 4) * 4, source.pick(words)); return -1;
        case 5: {  // the scale, or the first word
            uint32_t scale;
            std::memcpy(&scale, record, 4);
            put_word(0, source.one_in(2) ? source.pick(words) : scale + (uint32_t)source.between(-2, 2) * 0x100u);
            return -1;
        }
        case 6: {  // the head of one record, the tail of another
            const int64_t at = source.below(p.record), other = source.below(p.rows);
            std::memmove(record + at, bytes + other * p.record + at, (size_t)(p.record - at));
            return -1;
        }
        case 7:
            for (int64_t i = 0; i < p.record; i++) record[i] = (uint8_t)source.next();
            return -1;
        case 8: std::memset(record, source.one_in(2) ? 0x00 : 0xFF, (size_t)p.record); return -1;
        case 9: {
            const int64_t from = source.below(p.record), n = source.between(1, p.record - from);
            std::memset(record + from, source.pick(extremes), (size_t)n);
            return -1;
        }
        case 10: {  // bytes moved by one
            const int64_t from = source.below(p.record);
            std::memmove(record + from, record + from + 1, (size_t)(p.record - from - 1));
            return -1;
        }
        default: {
            const int64_t bit = fields_of(p).padding_bit(source);
            if (bit < 0) return -1;
            record[bit / 8] |= (uint8_t)(1 << bit % 8);
            return row;
        }
    }
}

// The row of a payload of which decoded numbers `u` are `row`: the same bytes, where the numbers say all.
inline void require_canonical(Source &source, const tw_program &p, const std::vector<tw_sheet> &shapes, const Block &payload, Block &u) {
    if (p.seed || p.side || shapes.size() != 1 || numel_of(shapes) != p.rows * p.chunk) return;
    if (p.value == SIGN && (p.k & (p.k - 1))) return;  // a mean of equal numbers is that number, but for its rounding
    doing = "encode what was decoded";
    std::vector<tw_sheet> sheets = shapes;
    sheets[0].dtype = TW_FLOAT32, sheets[0].data = u.bytes();
    Block again(source, payload.size());
    double stats[3];
    any_isa(source);
    require(tw_encode(&p, sheets.data(), 1, nullptr, nullptr, 1, 1, again.bytes(), nullptr, stats, 1) == 0, "a known program is refused");
    for (int64_t row = 0; row < p.rows; row++) {
        const float *values = u.as<float>() + row * p.chunk;
        int64_t sent = 0;
        bool in_range = true;
        for (int64_t i = 0; i < p.chunk; i++) sent += values[i] != 0, in_range = in_range && std::fabs(values[i]) <= 0x1p100f;
        // Zeros among the chosen may have been anywhere; a largest number rounded up above 2^100 is none that is sent.
        const bool all_said = p.select == ALL_SENT || sent == p.k || (sent == 0 && p.value == VOTE);
        if (!all_said || !in_range) continue;
        require(std::memcmp(again.bytes() + row * p.record, const_cast<Block &>(payload).bytes() + row * p.record, (size_t)p.record) == 0,
                "a record that is accepted is not what an encoder makes of its numbers");
        counts->canonical++;
    }
}

// Payloads of some members, decoded to one of the finishes; `sound`: all have passed tw_check.
inline void decode(Source &source, const tw_program &p, const std::vector<tw_sheet> &shapes, const std::vector<const uint8_t *> &payloads,
                   bool sound, const Block &first) {
    doing = "decode";
    const int64_t numel = numel_of(shapes);
    tw_finish finish = {};
    finish.kind = source.one_in(2) ? (int64_t)TW_OUT : source.below(3), finish.sign = source.below(2), finish.nesterov = source.below(2);
    finish.lr = source.one_in(3) ? 1 : share(source), finish.keep = source.one_in(2) ? 1 : share(source), finish.mu = share(source);
    Tensors targets(source, shapes, 2);
    Memory anchor, momentum;
    if (finish.kind != TW_STEP) anchor = floats_of(source, numel, finish.kind == TW_OUT ? Trouble::plain : any_trouble(source));
    if (finish.kind == TW_SGD && (finish.mu != 0 || source.one_in(2))) momentum = floats_of(source, numel, any_trouble(source));
    finish.anchor = anchor ? anchor->as<float>() : nullptr, finish.momentum = momentum ? momentum->as<float>() : nullptr;
    if (finish.kind == TW_OUT || (finish.kind == TW_SGD && source.one_in(3)))
        for (tw_sheet &sheet : targets.sheets) sheet.data = nullptr;
    any_isa(source);
    const int contributors = (int)source.below(2);
    const auto run = [&](float *out) {
        finish.anchor = out;
        require(tw_decode(&p, payloads.data(), (int64_t)payloads.size(), contributors, &finish, targets.sheets.data(),
                          (int64_t)targets.sheets.size(), threads_of(source, many(p))) == 0, "a known program is refused");
    };
    run(finish.anchor);
    if (finish.kind != TW_OUT || !sound) return;
    const float most = (p.value < CASTS_END ? 0x1p100f : 0x1p101f) * (p.side ? 1.01f * (float)p.side : 1.0f);  // the basis is orthonormal
    for (int64_t i = 0; i < numel; i++)
        require(std::fabs(anchor->as<float>()[i]) <= most, "what was accepted decodes to what was never sent");
    if (source.one_in(2)) {
        Block again(source, 4 * numel, 4);
        again.fill(0xA5);
        any_isa(source);
        run(again.as<float>());
        require(again.equals(*anchor), "another instruction set decodes something else");
    }
    if (payloads.size() == 1) require_canonical(source, p, shapes, first, *anchor);
}

inline void payload_case(Source &source) {
    tw_program p = any_program(source);
    const bool threaded = source.one_in(3000);
    const std::vector<tw_sheet> shapes = any_sheets(source, p, threaded ? 1 + 70000 / p.chunk : p.chunk > 2048 ? 2 : 4);
    counts->payloads++;
    const Memory made = encoded(source, p, shapes);
    if (!made || !p.rows) return;
    Block payload(source, made->size());
    std::memcpy(payload.bytes(), made->bytes(), (size_t)made->size());
    const int64_t padded = change(source, p, payload);
    const bool same = payload.equals(*made);
    doing = "check";
    any_isa(source);
    const int64_t row = tw_check(&p, payload.bytes(), threads_of(source, many(p)));
    require(-1 <= row && row < p.rows, "no row and no error");
    require(padded < 0 || row >= 0, "a padding bit is accepted");
    require(!same || row == -1, "what an encoder made is refused");
    if (source.one_in(4)) {
        any_isa(source);
        require(tw_check(&p, payload.bytes(), 1) == row, "another instruction set refuses another row");
    }
    counts->padding += padded >= 0, counts->refused += row >= 0, counts->accepted_changed += row < 0 && !same;
    std::vector<const uint8_t *> payloads = {payload.bytes()};
    while (source.one_in(3)) payloads.push_back(source.one_in(2) ? made->bytes() : payload.bytes());
    decode(source, p, shapes, payloads, row < 0, payload);
}

}  // namespace fuzz
