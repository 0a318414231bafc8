// The C ABI: arguments are checked here, once; then rows are shared out to threads, on the instruction set chosen at run time.
#include "thinwire.h"

#include <atomic>
#include <climits>
#include <cstdlib>

#include "jobs.h"
#include "pool.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

TW_DECLARE(tw_baseline)
#ifdef TW_X86
TW_DECLARE(tw_v3)
TW_DECLARE(tw_v4)
#define TW_CALL(function, ...)                                                      \
    (isa().load() == 2   ? tw_v4::function(__VA_ARGS__)                             \
     : isa().load() == 1 ? tw_v3::function(__VA_ARGS__)                             \
                         : tw_baseline::function(__VA_ARGS__))
#else
#define TW_CALL(function, ...) tw_baseline::function(__VA_ARGS__)
#endif

namespace {

int best() {
#ifdef TW_X86
    // By feature: GCC 11 compiles for x86-64-v4, but cannot ask for it by that name.
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (v4) return 2;
    if (v3) return 1;
#endif
    return 0;
}

int at_start() {
    const char *asked = std::getenv("THINWIRE_ISA");  // the bits are the same at every level: this is for tests and benchmarks
    const int level = asked ? std::atoi(asked) : 2;
    const int most = best();
    return level < 0 ? 0 : level < most ? level : most;
}

std::atomic<int> &isa() {
    static std::atomic<int> level(at_start());
    return level;
}

constexpr int64_t MOST_BYTES = int64_t(1) << 56;

bool product_fits(int64_t a, int64_t b) { return a >= 0 && b >= 0 && (b == 0 || a <= MOST_BYTES / b); }

int64_t padded(int64_t bits) { return (bits + 31) / 32 * 4; }

int64_t value_bits(int64_t value) {
    static const int64_t bits[] = {32, 16, 16, 8, 4, 2, 1, 1, 8, 4};
    return bits[value];
}

bool power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

enum { FLOAT16 = 2, VOTE = 7, FP4 = 9, ALL = 0, TOP_K = 1, BLOCK_MAX = 2, NONE = 0, ELIAS_FANO = 1, PLANES = 2, BITMAP = 3, OFFSETS = 4 };

int64_t index_nbytes(const tw_program &p) {
    switch (p.index) {
        case NONE: return 0;
        case ELIAS_FANO: return tw_index_nbytes(p.k, p.chunk, TW_ELIAS_FANO, 0);
        case PLANES: return tw_index_nbytes(p.k, p.chunk, TW_PLANES, 0);
        case BITMAP: return tw_index_nbytes(p.k, p.chunk, TW_BITMAP, 0);
        default: {
            int64_t planes = 0;
            while ((p.block - 1) >> planes > 0) planes++;
            return padded(p.k * planes);
        }
    }
}

// Whether this is a program that the kernels can run within their buffers.
bool known(const tw_program &p) {
    if (p.rows < 0 || p.chunk < 1 || p.k < 1 || p.k > p.chunk) return false;
    if (p.value < 0 || p.value > FP4 || p.scale < 0 || p.scale > 1 || p.seed < 0 || p.seed > UINT32_MAX) return false;
    const bool cast = p.value <= FLOAT16;
    if (cast && p.scale) return false;
    if (!cast && p.value != VOTE && !p.scale) return false;
    if (p.select == ALL ? p.k != p.chunk || p.index != NONE : p.index == NONE) return false;
    const bool whole_rows = p.select != ALL || !cast || p.side != 0;
    if (whole_rows && p.chunk > TW_MOST_CHUNK) return false;
    if (p.side && (!(p.side == 8 || p.side == 16 || p.side == 32 || p.side == 64) || p.chunk != p.side * p.side)) return false;
    if (p.select != ALL && !(power_of_two(p.chunk) && p.chunk >= 8)) return false;
    if (p.select == TOP_K && !(p.index == ELIAS_FANO || p.index == PLANES || p.index == BITMAP)) return false;
    if (p.select == BLOCK_MAX && !(p.index == OFFSETS && power_of_two(p.block) && p.block >= 2 && p.block <= p.chunk && p.block * p.k == p.chunk))
        return false;
    if (p.select < ALL || p.select > BLOCK_MAX || (p.select != BLOCK_MAX && p.block != 0)) return false;
    if (p.chunk > MOST_BYTES / 32) return false;
    if (p.record != 4 * p.scale + index_nbytes(p) + padded(p.k * value_bits(p.value))) return false;
    return product_fits(p.rows, p.chunk) && product_fits(p.rows, p.record);
}

TwUnits units_of(const tw_program &p) {
    TwUnits units;
    units.length = p.chunk;
    if (p.select == ALL && p.value <= FLOAT16 && !p.side && p.chunk > TW_PIECE) {
        units.length = TW_PIECE;
        units.pieces = (p.chunk + TW_PIECE - 1) / TW_PIECE;
    }
    units.count = p.rows * units.pieces;
    return units;
}

// False when the sheets are not exactly those of the program's matrix.
bool lay_out(const tw_program &p, const tw_sheet *sheets, int64_t count, bool need_data, TwLayout &layout) {
    if (count < 0 || (count > 0 && !sheets)) return false;
    layout.side = p.side;
    layout.sheets.reserve((size_t)count);
    int64_t rows = 0, pooled = 0, numel = 0;
    for (int64_t i = 0; i < count; i++) {
        const tw_sheet &s = sheets[i];
        if (s.dtype < TW_FLOAT32 || s.dtype > TW_FLOAT16 || !product_fits(s.height, s.width)) return false;
        const int64_t size = s.height * s.width;
        if (need_data && size && !s.data) return false;
        const int64_t down = p.side ? s.height / p.side : 0, across = p.side ? s.width / p.side : 0;
        if (i == 0) layout.dtype = s.dtype;
        if (s.dtype != layout.dtype) layout.dtype = -1;
        layout.sheets.push_back({static_cast<char *>(s.data), s.dtype, s.height, s.width, down, across, rows, numel, pooled});
        rows += down * across;
        pooled += size - down * across * p.side * p.side;
        numel += size;
        if (numel > MOST_BYTES) return false;
    }
    layout.tile_rows = rows, layout.pooled = pooled, layout.numel = numel;
    return p.rows == rows + (pooled + p.chunk - 1) / p.chunk;
}

template <class Job, void (*kernel)(const Job &, int64_t, int64_t)> void range(void *job, int64_t begin, int64_t end) {
    kernel(*static_cast<const Job *>(job), begin, end);
}

#define TW_ON_ISA(function, Job)                                                                    \
    void on_isa_##function(const Job &job, int64_t begin, int64_t end) { TW_CALL(function, job, begin, end); }
TW_ON_ISA(encode, TwEncode)
TW_ON_ISA(decode, TwDecode)
TW_ON_ISA(check, TwCheck)
TW_ON_ISA(transform, TwTransform)

// Below 65536 coefficients waking a thread costs more than it saves; and nobody means a million threads.
int threads_for(int threads, int64_t coefficients) { return coefficients < 65536 ? 1 : threads < 256 ? threads : 256; }

// Memory for a result of each unit, kept from call to call: a free of 64 KB or more may make the C library give back all that others have
// freed, which takes milliseconds.
template <class T> T *each_unit(int64_t count) {
    constexpr size_t MOST = 1 << 20;  // bytes that are kept
    thread_local std::vector<T> kept;
    if (kept.capacity() * sizeof(T) > MOST && (size_t)count * sizeof(T) <= MOST) std::vector<T>().swap(kept);
    kept.resize(std::max(kept.size(), (size_t)count));
    return kept.data();
}

// Whether each of `rows` times k places is above the one before and below chunk: other ones would be written anywhere.
bool ascending(const uint16_t *index, int64_t rows, int64_t k, int64_t chunk) {
    unsigned wrong = 0;
    for (int64_t row = 0; row < rows && k; row++, index += k) {
        for (int64_t i = 1; i < k; i++) wrong |= index[i] <= index[i - 1];
        wrong |= index[k - 1] >= chunk;
    }
    return !wrong;
}

}  // namespace

extern "C" {

int tw_abi(void) { return 3; }

int tw_isa(void) { return isa().load(); }

int tw_set_isa(int level) {
    const int most = best();
    isa().store(level < 0 ? 0 : level < most ? level : most);
    return isa().load();
}

int64_t tw_encode(const tw_program *program, const tw_sheet *sources, int64_t sheets, const float *anchor, const float *held, float decay,
                  float gain, uint8_t *payload, float *kept, double *stats, int threads) {
    if (!program || !known(*program)) return TW_BAD_PROGRAM;
    TwLayout layout;
    if (!lay_out(*program, sources, sheets, true, layout)) return TW_BAD_LAYOUT;
    if (!stats || (program->rows && !payload && !kept) || (kept && kept == held)) return TW_BAD_ARGUMENT;
    const TwUnits units = units_of(*program);
    double *const each = each_unit<double>(3 * units.count);
    TwEncode job = {*program, &layout, units, anchor, held, decay, gain, payload, kept, each};
    tw_parallel(threads_for(threads, program->rows * program->chunk), units.count, range<TwEncode, on_isa_encode>, &job);
    for (int i = 0; i < 3; i++) {
        stats[i] = 0;
        for (int64_t unit = 0; unit < units.count; unit++) stats[i] += each[3 * (size_t)unit + i];
    }
    return 0;
}

int64_t tw_check(const tw_program *program, const uint8_t *payload, int threads) {
    if (!program || !known(*program)) return TW_BAD_PROGRAM;
    if (!payload && program->rows) return TW_BAD_ARGUMENT;
    const TwUnits units = units_of(*program);
    int64_t *const bad = each_unit<int64_t>(units.count);
    TwCheck job = {*program, units, payload, bad};
    tw_parallel(threads_for(threads, program->rows * program->chunk), units.count, range<TwCheck, on_isa_check>, &job);
    for (int64_t unit = 0; unit < units.count; unit++)
        if (bad[unit] >= 0) return bad[unit];
    return -1;
}

int64_t tw_decode(const tw_program *program, const uint8_t *const *payloads, int64_t members, int contributors, const tw_finish *finish,
                  const tw_sheet *targets, int64_t sheets, int threads) {
    if (!program || !known(*program)) return TW_BAD_PROGRAM;
    if (!finish || finish->kind < TW_OUT || finish->kind > TW_SGD || members < 1 || members > USHRT_MAX || !payloads) return TW_BAD_ARGUMENT;
    for (int64_t m = 0; m < members; m++)
        if (!payloads[m] && program->rows) return TW_BAD_ARGUMENT;
    TwLayout layout;
    if (!lay_out(*program, targets, sheets, finish->kind == TW_STEP, layout)) return TW_BAD_LAYOUT;
    if (finish->kind == TW_STEP && finish->sign && !(finish->lr >= 0)) return TW_BAD_ARGUMENT;
    if (finish->kind != TW_STEP && !finish->anchor && layout.numel) return TW_BAD_ARGUMENT;
    if (finish->kind == TW_SGD && finish->mu != 0 && !finish->momentum && layout.numel) return TW_BAD_ARGUMENT;
    for (const TwSheet &sheet : layout.sheets)
        if (finish->kind != TW_OUT && sheet.dtype == TW_FLOAT16) return TW_BAD_LAYOUT;
    const TwUnits units = units_of(*program);
    TwDecode job = {*program, &layout, units, payloads, members, contributors != 0, *finish};
    tw_parallel(threads_for(threads, program->rows * program->chunk), units.count, range<TwDecode, on_isa_decode>, &job);
    return 0;
}

void tw_large_pages(void *data, int64_t nbytes) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t page = 2 << 20;
    const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + (uintptr_t)nbytes) / page * page;
    if (data && begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)data, (void)nbytes;
#endif
}

int64_t tw_dct_tiles(const float *in, float *out, int64_t tiles, int side, int inverse, int threads) {
    if (!(side == 8 || side == 16 || side == 32 || side == 64)) return TW_BAD_ARGUMENT;
    if (!product_fits(tiles, 4 * side * side) || (tiles && (!in || !out))) return TW_BAD_ARGUMENT;
    TwTransform job = {in, out, side, 0, inverse != 0};
    tw_parallel(threads_for(threads, tiles * side * side), tiles, range<TwTransform, on_isa_transform>, &job);
    return 0;
}

int64_t tw_dct_rows(const float *in, float *out, int64_t rows, int inverse, int threads) {
    if (!product_fits(rows, 4 * 64) || (rows && (!in || !out))) return TW_BAD_ARGUMENT;
    TwTransform job = {in, out, 0, rows, inverse != 0};
    tw_parallel(threads_for(threads, rows * 64), (rows + WIDTH_MOST - 1) / WIDTH_MOST, range<TwTransform, on_isa_transform>, &job);
    return 0;
}

int64_t tw_index_nbytes(int64_t k, int64_t chunk, int coding, int rice) {
    if (k < 0 || chunk < 1 || k > chunk || chunk > 65536 || rice < 0 || rice > 15) return TW_BAD_ARGUMENT;
    int64_t planes = 0, low = 0;
    while (((chunk - 1) >> planes) > 0) planes++;
    while (k && (chunk / k) >> (low + 1)) low++;
    switch (coding) {
        case TW_PLANES: return padded(k * planes);
        case TW_ELIAS_FANO: return padded(k + (chunk >> low)) + padded(k * low);
        case TW_BITMAP: return padded(chunk);
        case TW_RICE: return (k * (1 + rice) + (chunk >> rice) + 7) / 8;
        default: return TW_BAD_ARGUMENT;
    }
}

int64_t tw_index_pack(const uint16_t *index, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, uint8_t *out, int64_t stride,
                      int64_t *sizes) {
    const int64_t nbytes = tw_index_nbytes(k, chunk, coding, rice);
    if (nbytes < 0 || chunk > TW_MOST_CHUNK || !product_fits(rows, stride) || stride < nbytes) return TW_BAD_ARGUMENT;
    if (rows && ((k && !index) || (stride && !out))) return TW_BAD_ARGUMENT;
    if ((coding == TW_RICE && rows && !sizes) || !ascending(index, rows, k, chunk)) return TW_BAD_ARGUMENT;
    uint8_t nothing = 0;
    if (!out) out = &nothing;  // of no size
    TW_CALL(index_pack, index, rows, k, chunk, coding, rice, out, stride, sizes);
    return 0;
}

int64_t tw_index_unpack(const uint8_t *in, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, int64_t stride,
                        const int64_t *sizes, uint16_t *index) {
    const int64_t nbytes = tw_index_nbytes(k, chunk, coding, rice);
    if (nbytes < 0 || chunk > TW_MOST_CHUNK || !product_fits(rows, stride) || stride < nbytes) return TW_BAD_ARGUMENT;
    if (rows && ((k && !index) || (stride && !in))) return TW_BAD_ARGUMENT;
    if (coding == TW_RICE && rows && !sizes) return TW_BAD_ARGUMENT;
    for (int64_t row = 0; coding == TW_RICE && row < rows; row++)
        if (sizes[row] < 0 || sizes[row] > stride) return TW_BAD_ARGUMENT;
    const uint8_t nothing = 0;
    if (!in) in = &nothing;
    return TW_CALL(index_unpack, in, rows, k, chunk, coding, rice, stride, sizes, index);
}
}
