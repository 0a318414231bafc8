// A million payloads, programs, tensors and streams that nobody should send, under sanitizers: only error codes may come back.
//
//     tw_fuzz [cases=N] [seed=S] [jobs=J] [case=I]
//
// Case i depends on the seed and on i alone; `case=I` runs one again. Built with clang's -fsanitize=fuzzer and -DTW_LIBFUZZER libFuzzer
// drives the same cases instead.
#include "../thinwire.cpp"  // with its local functions

#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arguments.h"

namespace fuzz {
thread_local const char *doing = "nothing";
Counts alone, *counts = &alone;
}  // namespace fuzz

using namespace fuzz;

extern "C" const char *__asan_default_options() { return "abort_on_error=1:handle_abort=0:quarantine_size_mb=16:detect_leaks=0"; }
extern "C" const char *__ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

#ifdef TW_LIBFUZZER

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Source source;
    source.bytes = data, source.left = size;
    any_case(source);
    return 0;
}

#else

namespace {

int64_t seed = 0, present = -1;

void on_signal(int number) {
    std::fprintf(stderr, "fuzz: run it again with  seed=%lld case=%lld  (doing: %s)\n", (long long)seed, (long long)present, doing);
    signal(number, SIG_DFL);
    raise(number);
}

void run(int64_t number) {
    present = number;
    if (number % 256 == 0) alarm(60);  // no case takes a second
    Source source;
    source.seed = (uint64_t)seed * 0xD1342543DE82EF95ull + (uint64_t)number * 0xA0761D6478BD642Full;
    any_case(source);
}

double now() {
    timeval t;
    gettimeofday(&t, nullptr);
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
}

int64_t asked(int argc, char **argv, const char *name, int64_t otherwise) {
    const size_t length = std::strlen(name);
    for (int i = 1; i < argc; i++)
        if (std::strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return std::atoll(argv[i] + length + 1);
    return otherwise;
}

}  // namespace

int main(int argc, char **argv) {
    const int64_t cases = asked(argc, argv, "cases", 1000000), one = asked(argc, argv, "case", -1);
    const int64_t jobs = std::max<int64_t>(1, asked(argc, argv, "jobs", sysconf(_SC_NPROCESSORS_ONLN)));
    seed = asked(argc, argv, "seed", 0);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    if (one >= 0) {
        run(one);
        std::printf("fuzz: case %lld of seed %lld is as it should be\n", (long long)one, (long long)seed);
        return 0;
    }
    void *shared = mmap(nullptr, sizeof(Counts) * (size_t)jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(shared != MAP_FAILED, "no memory");
    const double start = now();
    for (int64_t job = 0; job < jobs; job++)
        if (fork() == 0) {
            counts = static_cast<Counts *>(shared) + job;
            for (int64_t i = job; i < cases; i += jobs) run(i);
            std::exit(0);
        }
    int failed = 0, status;
    while (wait(&status) > 0) failed |= status != 0;
    const double seconds = now() - start;
    int64_t sum[sizeof(Counts) / sizeof(int64_t)] = {};
    for (int64_t job = 0; job < jobs; job++)
        for (size_t i = 0; i < sizeof sum / sizeof *sum; i++) sum[i] += reinterpret_cast<int64_t *>(static_cast<Counts *>(shared) + job)[i];
    Counts all;
    std::memcpy(&all, sum, sizeof all);
    if (failed) return 1;
    std::printf("fuzz: %lld cases in %.0f s, %.0f a second on %lld processes, seed %lld: no finding\n", (long long)cases, seconds,
                (double)cases / seconds, (long long)jobs, (long long)seed);
    const auto told = [](const char *name, int64_t n) { std::printf("      %-42s %9lld\n", name, (long long)n); };
    told("payloads encoded and checked", all.payloads);
    told("  changed and refused", all.refused);
    told("  changed, accepted and decoded", all.accepted_changed);
    told("  with a padding bit, all refused", all.padding);
    told("  accepted records that were made again", all.canonical);
    told("odd programs and arguments", all.programs);
    told("  programs among them that are known", all.programs_known);
    told("layouts of up to 2^55 numbers", all.layouts);
    told("index streams", all.streams);
    told("  refused", all.streams_refused);
    told("transforms", all.transforms);
    return 0;
}

#endif
