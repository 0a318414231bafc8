// What a case is made from: numbers that follow from a seed and a counter (or are read from libFuzzer's bytes), and memory that shows
// every byte read or written beside it.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace fuzz {

// What is being done, for the message when it goes wrong.
extern thread_local const char *doing;

[[noreturn]] inline void fail(const char *what) {
    std::fprintf(stderr, "fuzz: %s (doing: %s)\n", what, doing);
    std::abort();
}
inline void require(bool holds, const char *what) {
    if (!holds) fail(what);
}

inline float float_of_bits(uint32_t b) {
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}
inline uint32_t bits_of_float(float f) {
    uint32_t b;
    std::memcpy(&b, &f, 4);
    return b;
}

struct Source {
    uint64_t seed = 0, counter = 0;
    const uint8_t *bytes = nullptr;
    size_t left = 0;

    uint64_t next() {
        uint64_t x = seed + ++counter * 0x9E3779B97F4A7C15ull;  // splitmix64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ x >> 27) * 0x94D049BB133111EBull;
        x ^= x >> 31;
        if (left >= 8) {
            std::memcpy(&x, bytes, 8);
            bytes += 8, left -= 8;
        }
        return x;
    }
    int64_t below(int64_t n) { return n > 1 ? (int64_t)(next() % (uint64_t)n) : 0; }
    int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
    bool one_in(int64_t n) { return below(n) == 0; }
    template <class T, size_t n> T pick(const T (&from)[n]) { return from[below((int64_t)n)]; }
    // Small numbers much more often than large ones.
    int64_t small(int64_t most) { return below(1 + below(1 + below(most + 1))); }
};

// Numbers that have broken arithmetic on sizes before.
inline int64_t odd_number(Source &source) {
    static const int64_t odd[] = {-1,      0,       1,       2,         3,         7,         15,        17,        63,       65,     4095,
                                  4097,    16384,   16385,   1ll << 31, 1ll << 32, 1ll << 33, 1ll << 47, 1ll << 51, 1ll << 56, 1ll << 62,
                                  INT64_MAX, INT64_MIN, INT64_MAX / 2, INT64_MIN + 1, 0x7FFFFFFF, 0xFFFFFFFF};
    const int64_t number = source.pick(odd);
    return source.one_in(3) ? (int64_t)source.next() >> source.below(64) : number;
}

// Exactly `size` bytes, `shift` bytes away from an aligned place: on the heap, where the sanitizer watches each byte beside them, or at the
// end (or the start) of pages with none behind (before) them, which also stops what the sanitizer cannot see (streaming stores).
class Block {
  public:
    Block(Source &source, int64_t size, int64_t step = 1, bool filled = false) : size_(size) {
        if (size <= ROOM && source.one_in(3)) {
            base_ = region();
            const bool at_end = !source.one_in(4);
            const int64_t shift = source.one_in(2) ? 0 : source.below(64) / step * step;
            data_ = base_ + (at_end ? ROOM - size : shift <= ROOM - size ? shift : 0);
        } else {
            const int64_t shift = source.one_in(2) ? 0 : source.below(64) / step * step;
            heap_ = static_cast<uint8_t *>(std::malloc((size_t)(size + shift)));
            data_ = heap_ + shift;
        }
        if (filled) fill(0);
    }
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;
    ~Block() {
        std::free(heap_);
        if (base_) spare().push_back(base_);
    }

    uint8_t *bytes() { return data_; }
    template <class T> T *as() { return reinterpret_cast<T *>(data_); }
    int64_t size() const { return size_; }
    void fill(uint8_t value) {
        if (size_) std::memset(data_, value, (size_t)size_);
    }
    bool equals(const Block &other) const {
        return size_ == other.size_ && (!size_ || std::memcmp(data_, other.data_, (size_t)size_) == 0);
    }

  private:
    static constexpr int64_t ROOM = 1 << 20, PAGE = 1 << 16;
    uint8_t *data_ = nullptr, *heap_ = nullptr, *base_ = nullptr;
    int64_t size_;

    static std::vector<uint8_t *> &spare() {
        static std::vector<uint8_t *> regions;
        return regions;
    }
    static uint8_t *region() {
        if (spare().empty()) {
            void *at = mmap(nullptr, ROOM + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            require(at != MAP_FAILED && mprotect((uint8_t *)at + PAGE, ROOM, PROT_READ | PROT_WRITE) == 0, "no memory");
            return (uint8_t *)at + PAGE;
        }
        uint8_t *at = spare().back();
        spare().pop_back();
        return at;
    }
};

// Floats of one kind of trouble; all of a block are of the same kind.
enum class Trouble { plain, any_bits, ties, halves_of_127, halves_of_7, quarters_of_6, zeros, sparse, tiny, huge, wide, special, kinds };

inline float trouble(Source &source, Trouble kind) {
    const uint64_t r = source.next();
    const float unit = (float)(int32_t)r * 0x1p-31f;
    switch (kind) {
        case Trouble::any_bits: return float_of_bits((uint32_t)r);
        case Trouble::ties: return (float)((int64_t)(r % 7) - 3);
        case Trouble::halves_of_127: return (float)((int64_t)(r % 509) - 254) * 0.5f;  // between two codes, if 127 is the largest
        case Trouble::halves_of_7: return (float)((int64_t)(r % 29) - 14) * 0.5f;
        case Trouble::quarters_of_6: return (float)((int64_t)(r % 49) - 24) * 0.25f;
        case Trouble::zeros: return r & 1 ? 0.0f : -0.0f;
        case Trouble::sparse: return r >> 40 & 15 ? 0.0f : unit;
        case Trouble::tiny: return float_of_bits((uint32_t)(r >> 32 & 0x80FFFFFF));  // around 2^-126
        case Trouble::huge: return float_of_bits((uint32_t)(r >> 32 & 0x80FFFFFF) + 0x71000000);  // around 2^100
        case Trouble::wide: return float_of_bits((uint32_t)(r >> 32 & 0x807FFFFF) | (uint32_t)(1 + r % 226) << 23);
        case Trouble::special: {
            static const uint32_t odd[] = {0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x007FFFFF, 0x00800000,
                                           0x7F7FFFFF, 0x71800000, 0x71800001, 0x0D800000, 0x0D7FFFFF, 0x3F800000, 0xBF800000, 0x477FE000};
            return float_of_bits(odd[r >> 33 & 15]);
        }
        default: return unit;
    }
}

inline Trouble any_trouble(Source &source) { return (Trouble)source.below((int64_t)Trouble::kinds); }

}  // namespace fuzz
