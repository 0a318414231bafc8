// The DCT by itself, of tiles and of rows of 64. Rows, and tiles of side 64, go past the caches beside the next transform, line by line.
#include "jobs.h"
#include "tile.h"

namespace {

template <Way way, bool past_caches> void tiles(const TwTransform &job, int64_t begin, int64_t end) {
    alignas(64) float scratch[2 * 4096];
    const int64_t n = job.side * job.side;
    for (int64_t i = begin; i < end; i++) {
        Ahead ahead = {(const char *)(job.in + (i + 1) * n), 4 * job.side};
        StoreAt<past_caches> emit = {job.out + i * n};
        transform_tile<way>(Tile<way>{job.in + i * n}, scratch, job.side, ahead, emit);
    }
}

// Of side 64, past the caches.
template <Way way> void large_tiles(const TwTransform &job, int64_t begin, int64_t end) {
    constexpr int64_t N = 64 * 64;
    alignas(64) float tile[N];
    Behind behind;
    for (int64_t i = begin; i < end; i++) {
        FromTile<way, 64> get = {job.in + i * N};
        static_assert(!get.backward, "the last tile goes out in this order");
        Beside<Ahead, Behind> beside = {{(const char *)(get.x + N), 4 * 64}, behind};
        StoreAt<false> emit = {tile};
        if (behind.to) columns_to_rows<way, 64>(get, tile, beside);
        else columns_to_rows<way, 64>(get, tile, beside.next);
        columns<way, 64>(tile, nullptr, beside.next, emit);
        behind = {tile, job.out + i * N};
    }
    put_away(behind, N);
}

// The next rows lie behind these: two lines for each step beside the transform.
struct FollowingRows {
    const char *at;
    TW_INLINE void line(int i) { prefetch(at + 128 * i), prefetch(at + 128 * i + 64); }
    TW_INLINE void turn() {}
};

// WIDTH rows of 64 numbers, each a transform. `out` is written at the end.
template <Way way, class Aside> void transform_rows(const float *in, float *out, Aside aside) {
    const float first = (float)std::sqrt(1.0 / 64), other = (float)std::sqrt(2.0 / 64);
    alignas(64) float turned[64 * WIDTH];
    F y[64], rows[WIDTH];
    for (int u = 0; u < 64; u += WIDTH) {
        for (int i = 0; i < WIDTH; i++) rows[i] = load(in + i * 64 + u);
        store_transposed(rows, turned + u * WIDTH, WIDTH);
    }
    lee<way, 64>([&](int i) { return way == Way::inverse ? load(turned + i * WIDTH) * (i ? other : first) : load(turned + i * WIDTH); },
                 [&](int k, F v) { y[k] = way == Way::forward ? v * (k ? other : first) : v; }, aside);
    for (int u = 0; u < 64; u += WIDTH) store_transposed(y + u, out + u, 64);
}

template <Way way> void rows(const TwTransform &job, bool past_caches, int64_t begin, int64_t end) {
    constexpr int64_t N = 64 * WIDTH;
    alignas(64) float done[N], rest[N] = {};
    Behind behind;
    for (int64_t at = 64 * WIDTH_MOST * begin; at < 64 * std::min(WIDTH_MOST * end, job.rows); at += N) {
        const int64_t n = std::min(N, 64 * job.rows - at);
        const float *in = job.in + at;
        if (n < N) std::memcpy(rest, in, (size_t)(4 * n)), in = rest;
        const Beside<FollowingRows, Behind> beside = {{(const char *)(in + N)}, behind};
        if (behind.to) transform_rows<way>(in, done, beside);
        else transform_rows<way>(in, done, beside.next);
        behind = {};
        if (past_caches && n == N) behind = {done, job.out + at};
        else std::memcpy(job.out + at, done, (size_t)(4 * n));
    }
    put_away(behind, N);
}

template <Way way> void transform_way(const TwTransform &job, int64_t begin, int64_t end) {
    const bool past_caches = aligned(job.out) && job.in != job.out;
    if (!job.side) rows<way>(job, past_caches, begin, end);
    else if (past_caches && job.side == 64) large_tiles<way>(job, begin, end);
    else if (past_caches && WIDTH == 16) tiles<way, true>(job, begin, end);  // column by column: in whole lines only
    else tiles<way, false>(job, begin, end);
    fence();
}

}  // namespace

namespace TW_NAMESPACE {

void transform(const TwTransform &job, int64_t begin, int64_t end) {
    job.inverse ? transform_way<Way::inverse>(job, begin, end) : transform_way<Way::forward>(job, begin, end);
}

}  // namespace TW_NAMESPACE
