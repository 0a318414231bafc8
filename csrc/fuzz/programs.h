// Programs and tensors: sound ones by construction, with sizes worked out here a second time, and where the fields of their records lie.
#pragma once
#include "../thinwire.h"
#include "source.h"

namespace fuzz {

enum { CASTS_END = 3, INT2 = 5, SIGN = 6, VOTE = 7, FP8 = 8, FP4 = 9 };
enum { ALL_SENT, TOP_K_SENT, BLOCK_MAX_SENT };
enum { NO_INDEX, AS_ELIAS_FANO, AS_PLANES, AS_BITMAP, AS_OFFSETS };

// Bits that are used of a field, and bits that it has.
struct Field {
    int64_t first_byte, used, bits;
};

struct Fields {
    std::vector<Field> of;
    int64_t nbytes = 0;

    void add(int64_t used) {
        const int64_t words = (used + 31) / 32;
        of.push_back({nbytes, used, 32 * words});
        nbytes += 4 * words;
    }
    // A random bit that must be 0, or -1.
    int64_t padding_bit(Source &source) const {
        int64_t bit = -1, seen = 0;
        for (const Field &field : of)
            if (field.bits > field.used && source.one_in(++seen)) bit = 8 * field.first_byte + source.between(field.used, field.bits - 1);
        return bit;
    }
};

inline int64_t log2_up(int64_t n) {
    int64_t bits = 0;
    while ((int64_t(1) << bits) < n) bits++;
    return bits;
}

inline int64_t bits_of_value(int64_t value) {
    static const int64_t bits[] = {32, 16, 16, 8, 4, 2, 1, 1, 8, 4};
    return bits[value];
}

inline Fields fields_of(const tw_program &p) {
    Fields fields;
    if (p.scale) fields.add(32);
    if (p.index == AS_ELIAS_FANO) {
        int64_t low = 0;
        while (p.k << (low + 1) <= p.chunk) low++;
        fields.add(p.k + (p.chunk >> low));
        fields.add(p.k * low);
    }
    if (p.index == AS_PLANES) fields.add(p.k * log2_up(p.chunk));
    if (p.index == AS_BITMAP) fields.add(p.chunk);
    if (p.index == AS_OFFSETS) fields.add(p.k * log2_up(p.block));
    fields.add(p.k * bits_of_value(p.value));
    return fields;
}

// A program that the library must know; all but its rows.
inline tw_program any_program(Source &source) {
    tw_program p = {};
    p.value = source.below(10);
    p.select = source.below(3);
    if (source.one_in(4)) {
        static const int64_t sides[] = {8, 8, 8, 8, 8, 16, 16, 16, 32, 64};
        p.side = source.pick(sides);
    }
    const bool large = source.one_in(200);
    if (p.side) p.chunk = p.side * p.side;
    else if (p.select != ALL_SENT) p.chunk = int64_t(1) << (large ? source.between(11, 14) : source.between(3, source.one_in(8) ? 11 : 8));
    else if (p.value < CASTS_END) p.chunk = large ? source.between(4090, 20000) : source.between(1, 300);
    else p.chunk = large ? source.between(1024, 16384) : source.between(1, 300);
    p.k = p.chunk;
    if (p.select == TOP_K_SENT) {
        p.k = source.one_in(2) ? source.between(1, p.chunk) : 1 + source.small(p.chunk - 1);
        if (source.one_in(6)) p.k = source.one_in(2) ? p.chunk : 1;
        p.index = source.between(AS_ELIAS_FANO, AS_BITMAP);
    }
    if (p.select == BLOCK_MAX_SENT) {
        p.block = int64_t(1) << source.between(1, log2_up(p.chunk));
        p.k = p.chunk / p.block;
        p.index = AS_OFFSETS;
    }
    p.scale = p.value < CASTS_END ? 0 : p.value == VOTE ? source.below(2) : 1;
    if (p.value >= CASTS_END && p.value <= INT2 && source.one_in(3)) p.seed = 1 + source.below(0xFFFFFFFF);
    p.record = fields_of(p).nbytes;
    return p;
}

// Tensors by their shapes; gives the program its rows.
inline std::vector<tw_sheet> any_sheets(Source &source, tw_program &p, int64_t most_rows) {
    std::vector<tw_sheet> sheets;
    if (source.one_in(2)) {  // whole rows
        p.rows = source.between(source.one_in(20) ? 0 : 1, most_rows);
        if (p.side) sheets.push_back({nullptr, 0, p.rows * p.side, p.side});
        else sheets.push_back({nullptr, 0, 1, p.rows * p.chunk});
        return sheets;
    }
    int64_t cells = 0, tiles = 0, pooled = 0;
    for (int64_t i = source.below(5); i > 0; i--) {
        const int64_t left = most_rows * p.chunk - cells;
        int64_t height = 1, width = source.below(left + 1);
        if (source.one_in(2) && width) height = source.between(1, p.side ? 3 * p.side : 9), width /= height;
        if (p.side && source.one_in(3)) height = p.side + source.small(p.side + 3), width = p.side + source.small(p.side + 3);
        if (height * width > left) height = 1, width = left;
        sheets.push_back({nullptr, 0, height, width});
        const int64_t tiled = p.side ? (height / p.side) * (width / p.side) : 0;
        cells += height * width, tiles += tiled, pooled += height * width - tiled * p.chunk;
    }
    p.rows = tiles + (pooled + p.chunk - 1) / p.chunk;
    return sheets;
}

inline int64_t numel_of(const std::vector<tw_sheet> &sheets) {
    int64_t numel = 0;
    for (const tw_sheet &sheet : sheets) numel += sheet.height * sheet.width;
    return numel;
}

// Instruction set of the calls that follow, on as few levels as the processor has.
inline void any_isa(Source &source) { tw_set_isa((int)source.below(3)); }

}  // namespace fuzz
