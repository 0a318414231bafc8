// The C ABI, and the choice of instruction set at run time.
#include "thinwire.h"

#include <atomic>
#include <cstdlib>

#define TW_DECLARE(name)                                                                      \
    namespace name {                                                                          \
    int dct_tiles(const float *in, float *out, int64_t tiles, int side, int inverse);         \
    }

TW_DECLARE(tw_baseline)
#ifdef TW_X86
TW_DECLARE(tw_v3)
TW_DECLARE(tw_v4)
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

}  // namespace

extern "C" {

int tw_abi(void) { return 1; }

int tw_isa(void) { return isa().load(); }

int tw_set_isa(int level) {
    const int most = best();
    isa().store(level < 0 ? 0 : level < most ? level : most);
    return isa().load();
}

int tw_dct_tiles(const float *in, float *out, int64_t tiles, int side, int inverse) {
#ifdef TW_X86
    if (isa().load() == 2) return tw_v4::dct_tiles(in, out, tiles, side, inverse);
    if (isa().load() == 1) return tw_v3::dct_tiles(in, out, tiles, side, inverse);
#endif
    return tw_baseline::dct_tiles(in, out, tiles, side, inverse);
}
}
