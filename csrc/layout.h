// Where the rows of a (rows, chunk) matrix lie in the tensors of a fragment (optim/fragment.py): whole tiles first, then the pool of edges
// and small tensors end to end.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "thinwire.h"

// Not in an anonymous namespace: built once in thinwire.cpp and read by the kernels. Nothing here is inline code with vectors.
struct TwSheet {
    char *data;
    int64_t dtype, height, width;
    int64_t down, across;  // tiles
    int64_t first_row;     // matrix row of its first tile
    int64_t flat, pool;    // its place among all elements, and in the pool
};

struct TwLayout {
    std::vector<TwSheet> sheets;
    int64_t side = 0, tile_rows = 0, pooled = 0, numel = 0;
    int64_t dtype = TW_FLOAT32;  // of all sheets, or -1
};

namespace {

inline int64_t element_nbytes(int64_t dtype) { return dtype == TW_FLOAT32 ? 4 : 2; }

inline const TwSheet &sheet_of_row(const TwLayout &layout, int64_t row) {
    auto after = std::upper_bound(layout.sheets.begin(), layout.sheets.end(), row,
                                  [](int64_t r, const TwSheet &sheet) { return r < sheet.first_row; });
    return *(after - 1);
}

inline const TwSheet &sheet_of_place(const TwLayout &layout, int64_t place) {
    auto after = std::upper_bound(layout.sheets.begin(), layout.sheets.end(), place,
                                  [](int64_t p, const TwSheet &sheet) { return p < sheet.pool; });
    return *(after - 1);
}

// The element of a sheet where the tile of a matrix row begins.
inline int64_t tile_offset(const TwLayout &layout, const TwSheet &sheet, int64_t row) {
    const int64_t tile = row - sheet.first_row;
    return (tile / sheet.across * sheet.width + tile % sheet.across) * layout.side;
}

// Where the tile of a row lies in memory and how many bytes its rows are apart; null for rows of the pool.
inline const char *tile_at(const TwLayout &layout, int64_t row, int64_t *stride) {
    if (row >= layout.tile_rows) return nullptr;
    const TwSheet &sheet = sheet_of_row(layout, row);
    *stride = sheet.width * element_nbytes(sheet.dtype);
    return sheet.data ? sheet.data + tile_offset(layout, sheet, row) * element_nbytes(sheet.dtype) : nullptr;
}

// Calls visit(sheet, element of the sheet, place in the span, count) for each contiguous run of `count` matrix elements from `start` on;
// returns how many there are (the rest of the last row is padding).
template <class Visit> inline int64_t each_run(const TwLayout &layout, int64_t start, int64_t count, Visit visit) {
    const int64_t tile = layout.side * layout.side;
    if (start < layout.tile_rows * tile) {  // rows of tiles are asked for whole
        const TwSheet &sheet = sheet_of_row(layout, start / tile);
        const int64_t first = tile_offset(layout, sheet, start / tile);
        for (int64_t i = 0; i < layout.side; i++) visit(sheet, first + i * sheet.width, i * layout.side, layout.side);
        return count;
    }
    int64_t place = start - layout.tile_rows * tile, done = 0;
    while (done < count && place < layout.pooled) {
        const TwSheet &sheet = sheet_of_place(layout, place);
        const int64_t q = place - sheet.pool, tall = sheet.down * layout.side, right = sheet.width - sheet.across * layout.side;
        int64_t element, run;
        if (sheet.down && sheet.across && q < tall * right) {  // beside the tiles
            element = q / right * sheet.width + sheet.across * layout.side + q % right;
            run = right - q % right;
        } else {  // below them, or a sheet without tiles
            const int64_t beside = sheet.down && sheet.across ? tall * right : 0, top = sheet.down && sheet.across ? tall : 0;
            element = top * sheet.width + q - beside;
            run = sheet.height * sheet.width - element;
        }
        run = std::min(run, count - done);
        visit(sheet, element, done, run);
        done += run, place += run;
    }
    return done;
}

}  // namespace
