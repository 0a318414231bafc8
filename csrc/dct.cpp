// The DCT by itself, of tiles and of rows of 64.
#include "jobs.h"
#include "tile.h"

namespace {

template <Way way, bool past_caches> void run(const TwTransform &job, int64_t begin, int64_t end) {
    alignas(64) float scratch[2 * 4096];
    const int64_t n = job.side * job.side;
    for (int64_t i = begin; i < end; i++) {
        if (job.side) {
            Ahead ahead = {(const char *)(job.in + (i + 1) * n), 4 * job.side};
            StoreAt<past_caches> emit = {job.out + i * n};
            transform_tile<way>(Tile<way>{job.in + i * n}, scratch, job.side, ahead, emit);
            continue;
        }
        const float *in = job.in + i * 64 * WIDTH_MOST;
        float *out = job.out + i * 64 * WIDTH_MOST;
        const int64_t left = std::min<int64_t>(WIDTH_MOST, job.rows - i * WIDTH_MOST);
        for (int64_t row = 0; row < left; row += WIDTH) {
            if (row + WIDTH <= left) {
                transform_rows<way, past_caches>(in + row * 64, out + row * 64);
            } else {
                alignas(64) float rest[64 * WIDTH] = {};
                std::memcpy(rest, in + row * 64, (size_t)(256 * (left - row)));
                transform_rows<way, false>(rest, rest);
                std::memcpy(out + row * 64, rest, (size_t)(256 * (left - row)));
            }
        }
    }
    fence();
}

}  // namespace

namespace TW_NAMESPACE {

void transform(const TwTransform &job, int64_t begin, int64_t end) {
    // A tile is written column by column: past the caches only in whole lines.
    const bool past_caches = aligned(job.out) && job.in != job.out && (WIDTH == 16 || !job.side);
    if (job.inverse) past_caches ? run<Way::inverse, true>(job, begin, end) : run<Way::inverse, false>(job, begin, end);
    else past_caches ? run<Way::forward, true>(job, begin, end) : run<Way::forward, false>(job, begin, end);
}

}  // namespace TW_NAMESPACE
