// Arguments that cannot be meant, tensors too large to exist, index coding by itself, and the transforms.
#pragma once
#include "payloads.h"

namespace fuzz {

// A field of a program is something odd. Whether the library takes it is seen without giving it any memory.
inline void program_case(Source &source) {
    doing = "odd program";
    counts->programs++;
    tw_program p = any_program(source);
    p.rows = source.below(4);
    int64_t *fields = &p.rows;
    for (int64_t i = source.between(1, 3); i > 0; i--) {
        int64_t &field = fields[source.below((int64_t)(sizeof p / sizeof p.rows))];
        field = source.one_in(2) ? odd_number(source) : (int64_t)((uint64_t)field + (uint64_t)source.between(-2, 2));
    }
    const auto usable = [](int64_t n) { return 0 < n && n < 1 << 20; };
    if (source.one_in(3) && usable(p.k) && usable(p.chunk) && p.value >= 0 && p.value < 10 && p.block < 1 << 20)
        p.record = fields_of(p).nbytes;
    const int64_t code = tw_check(&p, nullptr, 1);
    require(code == TW_BAD_PROGRAM || code == TW_BAD_ARGUMENT || (code == -1 && p.rows == 0), "neither known nor unknown");
    if (code == TW_BAD_PROGRAM) return;
    counts->programs_known++;
    require(p.rows >= 0 && p.chunk > 0 && p.record >= 0, "a program of no size is known");
    if (p.chunk > 1 << 17 || p.rows > (1 << 18) / p.chunk || p.record > 1 << 20) return;
    const std::vector<tw_sheet> shapes = {{nullptr, 0, p.side ? p.rows * p.side : 1, p.side ? p.side : p.rows * p.chunk}};
    const Memory made = encoded(source, p, shapes);
    if (!made || !p.rows) return;
    Block payload(source, made->size());
    for (int64_t i = 0; i < payload.size(); i++) payload.bytes()[i] = (uint8_t)source.next();
    const int64_t row = tw_check(&p, payload.bytes(), 1);
    require(-1 <= row && row < p.rows, "no row and no error");
    decode(source, p, shapes, {payload.bytes(), made->bytes()}, row < 0, payload);
}

// Nothing is given that could be read, so everything must be refused.
inline void argument_case(Source &source) {
    doing = "odd arguments";
    counts->programs++;
    tw_program p = any_program(source);
    std::vector<tw_sheet> sheets = any_sheets(source, p, 3);
    const int64_t numel = numel_of(sheets);
    double stats[3];
    float number = 0;
    for (tw_sheet &sheet : sheets) sheet.data = nullptr;
    const int64_t count = (int64_t)sheets.size();
    int64_t code = tw_encode(&p, sheets.data(), count, nullptr, nullptr, 1, 1, nullptr, nullptr, stats, 1);
    require(code == (numel ? TW_BAD_LAYOUT : p.rows ? TW_BAD_ARGUMENT : 0), "tensors without data are read");
    require(tw_encode(&p, sheets.data(), count, nullptr, nullptr, 1, 1, nullptr, nullptr, nullptr, 1) < 0, "no stats");
    require(tw_encode(nullptr, sheets.data(), count, nullptr, nullptr, 1, 1, nullptr, nullptr, stats, 1) == TW_BAD_PROGRAM, "no program");
    require(tw_encode(&p, nullptr, 1 + source.below(9), nullptr, nullptr, 1, 1, nullptr, nullptr, stats, 1) == TW_BAD_LAYOUT, "no sheets");
    for (int64_t odd : {INT64_MAX, INT64_MIN, int64_t(-1), int64_t(1) << 60})
        require(tw_encode(&p, nullptr, odd, nullptr, nullptr, 1, 1, nullptr, nullptr, stats, 1) == TW_BAD_LAYOUT, "as many sheets");
    for (tw_sheet &sheet : sheets) sheet.data = &number;  // not looked at before the arguments
    if (p.rows) {
        code = tw_encode(&p, sheets.data(), count, nullptr, &number, 1, 1, nullptr, &number, stats, 1);
        require(code == TW_BAD_ARGUMENT, "what is kept is written over what is held");
        code = tw_encode(&p, sheets.data(), count, nullptr, nullptr, 1, 1, nullptr, nullptr, stats, 1);
        require(code == TW_BAD_ARGUMENT, "nothing is wanted");
    }
    const uint8_t *payload = nullptr;
    tw_finish finish = {};
    finish.kind = source.one_in(2) ? source.below(3) : odd_number(source);
    finish.mu = 0.5f, finish.anchor = source.one_in(2) ? &number : nullptr;
    if (p.rows) require(tw_decode(&p, &payload, 1, 0, &finish, sheets.data(), count, 1) == TW_BAD_ARGUMENT, "a payload is missing");
    payload = (const uint8_t *)stats;
    const int64_t wrong = source.one_in(2) ? -source.below(5) : 65536 + source.below(INT64_MAX / 2);
    require(tw_decode(&p, &payload, wrong, 0, &finish, sheets.data(), count, 1) == TW_BAD_ARGUMENT, "as many members");
    require(tw_decode(&p, nullptr, 1, 0, &finish, sheets.data(), count, 1) == TW_BAD_ARGUMENT, "no payloads");
    require(tw_decode(&p, &payload, 1, 0, nullptr, sheets.data(), count, 1) == TW_BAD_ARGUMENT, "no finish");
    finish.anchor = nullptr;
    if (finish.kind == TW_STEP) finish.kind = TW_SGD;
    if (numel) require(tw_decode(&p, &payload, 1, 0, &finish, sheets.data(), count, 1) == TW_BAD_ARGUMENT, "no anchor, or no such finish");
    finish.kind = TW_SGD, finish.anchor = &number;
    if (numel) require(tw_decode(&p, &payload, 1, 0, &finish, sheets.data(), count, 1) == TW_BAD_ARGUMENT, "no momentum");
    finish.kind = TW_STEP;
    for (tw_sheet &sheet : sheets) sheet.data = nullptr;
    if (numel) require(tw_decode(&p, &payload, 1, 0, &finish, sheets.data(), count, 1) == TW_BAD_LAYOUT, "no weights");
    if (count) {
        for (tw_sheet &sheet : sheets) sheet.data = &number;
        sheets[(size_t)source.below(count)].dtype = TW_FLOAT16;
        require(tw_decode(&p, &payload, 1, 0, &finish, sheets.data(), count, 1) == TW_BAD_LAYOUT, "float16 weights");
        tw_sheet &sheet = sheets[(size_t)source.below(count)];
        (source.one_in(3) ? sheet.dtype : source.one_in(2) ? sheet.height : sheet.width) = odd_number(source);
        code = tw_encode(&p, sheets.data(), count, nullptr, nullptr, 1, 1, nullptr, nullptr, stats, 1);
        require(code == TW_BAD_LAYOUT || code == TW_BAD_ARGUMENT || (code == 0 && p.rows == 0), "odd sheets");
    }
    require(tw_dct_tiles(&number, &number, source.one_in(2) ? -1 - source.small(1 << 20) : INT64_MAX - source.small(1 << 20), 8, 0, 1) ==
            TW_BAD_ARGUMENT, "as many tiles");
    require(tw_dct_tiles(nullptr, &number, 1, 8, 0, 1) == TW_BAD_ARGUMENT && tw_dct_tiles(&number, nullptr, 1, 8, 0, 1) == TW_BAD_ARGUMENT,
            "tiles of nothing");
    const int side = (int)source.between(-70, 70);
    if (side != 8 && side != 16 && side != 32 && side != 64)
        require(tw_dct_tiles(&number, &number, 1, side, 0, 1) == TW_BAD_ARGUMENT, "such a side");
    require(tw_dct_rows(&number, &number, source.one_in(2) ? -1 - source.small(99) : INT64_MAX - source.small(99), 0, 1) == TW_BAD_ARGUMENT,
            "as many rows");
    require(tw_dct_rows(nullptr, &number, 1, 0, 1) == TW_BAD_ARGUMENT && tw_dct_rows(&number, nullptr, 1, 0, 1) == TW_BAD_ARGUMENT,
            "rows of nothing");
}

// A matrix element's sheet and place in it, worked out in whole tensors and 128 bits.
struct Place {
    int64_t sheet, element;
};

inline Place place_of(const std::vector<tw_sheet> &sheets, int64_t side, __int128 at) {
    const auto tiles = [&](const tw_sheet &s) { return side ? (__int128)(s.height / side) * (s.width / side) : 0; };
    const __int128 tile = (__int128)side * side;
    for (size_t i = 0; i < sheets.size(); i++) {
        const __int128 inside = tiles(sheets[i]) * tile;
        if (at < inside) {
            const __int128 number = at / tile, within = at % tile, across = sheets[i].width / side;
            const __int128 y = number / across * side + within / side, x = number % across * side + within % side;
            return {(int64_t)i, (int64_t)(y * sheets[i].width + x)};
        }
        at -= inside;
    }
    for (size_t i = 0; i < sheets.size(); i++) {
        const __int128 height = sheets[i].height, width = sheets[i].width;
        const __int128 down = tiles(sheets[i]) ? height / side * side : 0, right = down ? width % side : 0;
        if (at < down * right) return {(int64_t)i, (int64_t)(at / right * width + (width - right) + at % right)};
        at -= down * right;
        if (at < (height - down) * width) return {(int64_t)i, (int64_t)(down * width + at)};
        at -= (height - down) * width;
    }
    return {-1, -1};
}

// Where rows lie in tensors of up to 2^55 numbers that nobody has.
inline void layout_case(Source &source) {
    doing = "layout";
    counts->layouts++;
    tw_program p = any_program(source);
    std::vector<tw_sheet> sheets;
    __int128 tiles = 0, pooled = 0;
    for (int64_t i = source.between(1, 5); i > 0; i--) {
        const int64_t bits = source.below(50), high = source.below(bits + 1);
        const int64_t height = source.below(2 + (int64_t(1) << high)), width = source.below(2 + (int64_t(1) << (bits - high)));
        sheets.push_back({nullptr, source.below(3), height, width});
        const __int128 tiled = p.side ? (__int128)(height / p.side) * (width / p.side) : 0;
        tiles += tiled, pooled += (__int128)height * width - tiled * p.chunk;
    }
    p.rows = (int64_t)(tiles + (pooled + p.chunk - 1) / p.chunk);
    const uint64_t asked = source.next();
    for (int64_t wrong : {int64_t(-1), int64_t(1)}) {
        TwLayout layout;
        tw_program other = p;
        other.rows += wrong;
        require(!lay_out(other, sheets.data(), (int64_t)sheets.size(), false, layout), "a row too many or too few");
    }
    if (!known(p)) return;  // more bytes than there can be
    TwLayout layout;
    require(lay_out(p, sheets.data(), (int64_t)sheets.size(), false, layout), "a layout is refused");
    require(layout.numel == (int64_t)(tiles * p.side * p.side + pooled) && layout.tile_rows == tiles, "a layout of another size");
    if (!p.rows) return;
    const int64_t rows[] = {0, p.rows - 1, (int64_t)(asked % (uint64_t)p.rows), (int64_t)tiles - 1, (int64_t)tiles};
    for (int64_t row : rows) {
        if (row < 0 || row >= p.rows) continue;
        int64_t seen = 0;
        const auto visit = [&](const TwSheet &sheet, int64_t element, int64_t at, int64_t count) {
            require(at == seen && count > 0, "runs have a gap");
            seen += count;
            for (int64_t within : {int64_t(0), count - 1}) {
                const Place place = place_of(sheets, p.side, (__int128)row * p.chunk + at + within);
                require(&sheet == &layout.sheets[(size_t)place.sheet] && element + within == place.element, "a number from another place");
            }
        };
        const int64_t filled = each_run(layout, row * p.chunk, p.chunk, visit);
        require(filled == seen, "another count");
        const bool at_end = row == p.rows - 1 && place_of(sheets, p.side, (__int128)row * p.chunk + filled).sheet < 0;
        require(filled == p.chunk || at_end, "too short");
    }
}

inline void stream_case(Source &source) {
    doing = "index coding";
    counts->streams++;
    const int coding = source.one_in(2) ? TW_RICE : (int)source.below(3);
    const int64_t chunk = source.one_in(50) ? source.between(1, TW_MOST_CHUNK) : source.between(1, 600), rows = source.below(4);
    const int64_t k = source.one_in(8) ? chunk : source.one_in(20) ? 0 : source.small(chunk);
    const int rice = coding == TW_RICE ? (int)source.below(source.one_in(4) ? 16 : 8) : 0;
    const int64_t nbytes = tw_index_nbytes(k, chunk, coding, rice);
    require(nbytes >= 0, "a size is refused");
    const int64_t stride = nbytes + (source.one_in(3) ? source.below(9) : 0);
    Block index(source, 2 * rows * k, 2), sizes(source, 8 * rows, 8);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t way = source.below(4);
        int64_t left = k;
        for (int64_t at = 0; left; at++) {  // of the places from here on, each is as likely
            const bool taken = way == 0 ? at >= chunk - k : way == 1 ? at < k : source.below(chunk - at) < left;
            if (taken) index.as<uint16_t>()[row * k + k - left--] = (uint16_t)at;
        }
    }
    Block packed(source, rows * stride);
    packed.fill(0xA5);
    any_isa(source);
    int64_t code = tw_index_pack(index.as<uint16_t>(), rows, k, chunk, coding, rice, packed.bytes(), stride, sizes.as<int64_t>());
    require(code == 0, "places are refused");
    for (int64_t row = 0; row < rows; row++)
        require(sizes.as<int64_t>()[row] >= 0 && sizes.as<int64_t>()[row] <= nbytes, "a size beyond the room");
    // What is read: a Golomb-Rice stream ends with its last byte, which is also the last there is.
    const auto last = [&] { return coding == TW_RICE && rows ? (rows - 1) * stride + sizes.as<int64_t>()[rows - 1] : rows * stride; };
    const bool changed = rows && k && source.one_in(8) == 0;
    if (changed && coding == TW_RICE && source.one_in(4)) {
        int64_t &size = sizes.as<int64_t>()[source.below(rows)];
        size = std::min(std::max<int64_t>(0, size + source.between(-3, 3)), stride);
    }
    Block read(source, last());
    if (last()) std::memcpy(read.bytes(), packed.bytes(), (size_t)last());
    if (changed && last())
        switch (source.below(4)) {
            case 0: read.bytes()[source.below(last())] ^= (uint8_t)(1 << source.below(8)); break;
            case 1: read.bytes()[source.below(last())] = (uint8_t)source.next(); break;
            case 2: read.fill(source.one_in(2) ? 0xFF : 0x00); break;
            default:
                for (int64_t i = 0; i < last(); i++) read.bytes()[i] = (uint8_t)source.next();
        }
    Block back(source, 2 * rows * k, 2);
    back.fill(0xA5);
    any_isa(source);
    const int64_t bad = tw_index_unpack(read.bytes(), rows, k, chunk, coding, rice, stride, sizes.as<int64_t>(), back.as<uint16_t>());
    require(-1 <= bad && bad < rows, "no row and no error");
    require(changed || (bad == -1 && back.equals(index)), "places do not come back");
    counts->streams_refused += bad >= 0;
    const int64_t sound = bad < 0 ? rows : bad;
    Block again(source, sound * stride), sizes_again(source, 8 * sound, 8);
    for (int64_t i = 0; i < rows * k; i++) require(back.as<uint16_t>()[i] < chunk, "a place beyond the row");
    for (int64_t i = 0; i < sound * k; i++)
        require(i % k == 0 || back.as<uint16_t>()[i] > back.as<uint16_t>()[i - 1], "places do not ascend");
    code = tw_index_pack(back.as<uint16_t>(), sound, k, chunk, coding, rice, again.bytes(), stride, sizes_again.as<int64_t>());
    require(code == 0, "places are refused");
    for (int64_t row = 0; row < sound; row++) {
        const int64_t size = sizes_again.as<int64_t>()[row];
        require(coding != TW_RICE || size == sizes.as<int64_t>()[row], "accepted at another length");
        const bool as_made = !size || std::memcmp(again.bytes() + row * stride, read.bytes() + row * stride, (size_t)size) == 0;
        require(as_made, "accepted, but not made");
    }
    if (!rows || !k) return;
    // Places that do not ascend or are beyond the row would be written anywhere.
    back.as<uint16_t>()[source.below(rows * k)] = source.one_in(2) ? 0xFFFF : (uint16_t)source.next();
    bool ascending = true;
    for (int64_t i = 0; i < rows * k; i++)
        ascending = ascending && back.as<uint16_t>()[i] < chunk && (i % k == 0 || back.as<uint16_t>()[i] > back.as<uint16_t>()[i - 1]);
    code = tw_index_pack(back.as<uint16_t>(), rows, k, chunk, coding, rice, packed.bytes(), stride, sizes.as<int64_t>());
    require(code == (ascending ? 0 : TW_BAD_ARGUMENT), "places that cannot be meant");
    const int64_t short_of = stride - nbytes + 1;
    require(tw_index_pack(index.as<uint16_t>(), rows, k, chunk, coding, rice, packed.bytes(), stride - short_of, sizes.as<int64_t>()) < 0 &&
            tw_index_unpack(read.bytes(), rows, k, chunk, coding, rice, stride - short_of, sizes.as<int64_t>(), back.as<uint16_t>()) < -1,
            "too small a stride");
    if (coding != TW_RICE) return;
    sizes.as<int64_t>()[source.below(rows)] = source.one_in(2) ? stride + 1 : -1 - source.small(99);
    code = tw_index_unpack(read.bytes(), rows, k, chunk, coding, rice, stride, sizes.as<int64_t>(), back.as<uint16_t>());
    require(code < -1, "such a size");
}

inline void transform_case(Source &source) {
    doing = "transform";
    counts->transforms++;
    static const int sides[] = {8, 8, 8, 16, 16, 32, 64, 0};
    const int side = source.pick(sides), inverse = (int)source.below(2);
    const int64_t count = source.below(side == 64 ? 3 : 20), n = count * (side ? side * side : 64);
    const Memory in = floats_of(source, n, source.one_in(2) ? Trouble::plain : any_trouble(source));
    Block out(source, 4 * n, 4);
    out.fill(0x5A);
    const auto run = [&](const float *from, float *to) {
        any_isa(source);
        const int64_t code = side ? tw_dct_tiles(from, to, count, side, inverse, 1) : tw_dct_rows(from, to, count, inverse, 1);
        require(code == 0, "a transform is refused");
    };
    run(in->as<float>(), out.as<float>());
    run(in->as<float>(), in->as<float>());
    for (int64_t i = 0; i < n; i++) {  // NaN may have any bits
        const float a = in->as<float>()[i], b = out.as<float>()[i];
        require(bits_of_float(a) == bits_of_float(b) || (std::isnan(a) && std::isnan(b)), "another instruction set transforms otherwise");
    }
}

inline void any_case(Source &source) {
    const int64_t kind = source.below(100);
    if (kind < 68) payload_case(source);
    else if (kind < 88) stream_case(source);
    else if (kind < 93) program_case(source);
    else if (kind < 95) argument_case(source);
    else if (kind < 98) layout_case(source);
    else transform_case(source);
}

}  // namespace fuzz
