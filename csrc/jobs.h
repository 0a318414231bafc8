// What thinwire.cpp hands to the kernels of an instruction set: checked arguments, and a range of units of work.
#pragma once
#include "layout.h"

constexpr int64_t TW_MOST_CHUNK = 16384;  // coefficients of a row that has to be seen whole
constexpr int64_t TW_PIECE = 4096;        // a longer row without scale and index is worked on in pieces of this many

struct TwUnits {
    int64_t pieces = 1, length = 0;  // of a row
    int64_t count = 0;               // in all rows
};

struct TwEncode {
    tw_program program;
    const TwLayout *layout;
    TwUnits units;
    const float *anchor, *held;
    float decay, gain;
    uint8_t *payload;
    float *kept;
    double *stats;  // three a unit
};

struct TwDecode {
    tw_program program;
    const TwLayout *layout;
    TwUnits units;
    const uint8_t *const *payloads;
    int64_t members;
    bool contributors;
    tw_finish finish;
};

struct TwCheck {
    tw_program program;
    TwUnits units;
    const uint8_t *payload;
    int64_t *bad;  // a row for each unit, or -1
};

constexpr int64_t WIDTH_MOST = 16;  // numbers in the widest vector: rows of 64 come in units of so many

struct TwTransform {
    const float *in;
    float *out;
    int64_t side, rows;  // side 0: rows of 64
    bool inverse;
};

#define TW_DECLARE(name)                                                     \
    namespace name {                                                         \
    void encode(const TwEncode &job, int64_t begin, int64_t end);            \
    void decode(const TwDecode &job, int64_t begin, int64_t end);            \
    void check(const TwCheck &job, int64_t begin, int64_t end);              \
    void transform(const TwTransform &job, int64_t begin, int64_t end);      \
    void index_pack(const uint16_t *index, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, uint8_t *out, int64_t stride, \
                    int64_t *sizes);                                         \
    int64_t index_unpack(const uint8_t *in, int64_t rows, int64_t k, int64_t chunk, int coding, int rice, int64_t stride,              \
                         const int64_t *sizes, uint16_t *index);             \
    }

#ifdef TW_NAMESPACE
namespace TW_NAMESPACE {
void encode_rows(const TwEncode &job, int64_t begin, int64_t end);   // any row
void encode_dense(const TwEncode &job, int64_t begin, int64_t end);  // where every coefficient is sent, without a basis
}
#endif
