"""The record of a row in Triton: `scale | upper bits | planes | values` in 32-bit words (docs/wire-format.md), written and read.

Pointers `at (rows, 1)` stand at the first word of each row's record; `valid (rows, 1)` says which rows there are. Places are kept in int16
memory at `places (rows, 1)`, because bits of a record lie in another order than the lanes that hold them.
"""

import triton
import triton.language as tl

from thinwire.kernels.program import Index
from thinwire.kernels.triton_quantise import SIGN, VOTE, scale_of, silent_signs
from thinwire.kernels.triton_words import gather_bits, popcount, pour

ELIAS_FANO = tl.constexpr(int(Index.ELIAS_FANO))
PLANES = tl.constexpr(int(Index.PLANES))
BITMAP = tl.constexpr(int(Index.BITMAP))
OFFSETS = tl.constexpr(int(Index.OFFSETS))


@triton.jit
def write_words(word, at, first: tl.constexpr, count: tl.constexpr, valid):
    """`(rows, n)` uint32 as words first .. first + count - 1 of each record."""
    n = tl.arange(0, word.shape[1])[None, :]
    tl.store(at + first + n, word.to(tl.int32, bitcast=True), mask=valid & (n < count))


@triton.jit
def read_words(at, first: tl.constexpr, count: tl.constexpr, n: tl.constexpr, valid):
    """Words first .. first + count - 1 of each record as `(rows, n)` uint32, zeros behind them."""
    j = tl.arange(0, n)[None, :]
    return tl.load(at + first + j, mask=valid & (j < count), other=0).to(tl.uint32, bitcast=True)


@triton.jit
def write_scale(x, at, valid, S: tl.constexpr):
    """Write the scale of `(rows, n)` values and return it, 0 where there is none.

    A mean is read back from memory: what a long sum leaves every thread holds, and the compiler would do the rest of the work so.
    """
    scale = tl.zeros((x.shape[0],), tl.float32)
    if S.scale:
        scale = scale_of(x, S)
        tl.store(at, scale.to(tl.int32, bitcast=True)[:, None], mask=valid)
        if S.coded == SIGN:
            tl.debug_barrier()
            scale = read_scale(at, valid, S)
    return scale


@triton.jit
def read_scale(at, valid, S: tl.constexpr):
    """`(rows,)` float32; 0 where there is none."""
    scale = tl.zeros((at.shape[0],), tl.int32)
    if S.scale:
        scale = tl.reshape(tl.load(at, mask=valid, other=0), (at.shape[0],))
    return scale.to(tl.float32, bitcast=True)


@triton.jit
def write_planes(places, at, valid, S: tl.constexpr):
    """Bit p of place i at p * k + i, for the low bits of the places in memory."""
    if S.low:
        bit = tl.arange(0, S.low_bits)[None, :]
        place = tl.load(places + bit % S.k, mask=valid & (bit < S.k * S.low), other=0).to(tl.int32)
        packed = gather_bits(((place >> (bit // S.k)) & 1).to(tl.uint32), 32)
        write_words(packed, at, S.low_at, S.low_words, valid)


@triton.jit
def write_upper(place, at, valid, S: tl.constexpr):
    """Elias-Fano's upper part: bit (place >> low) + i for the i-th place of `(rows, n)`, some words at a time."""
    if S.index == ELIAS_FANO:
        i = tl.arange(0, place.shape[1])[None, :]
        position = tl.where(i < S.k, (place >> S.low) + i, -1)
        bit = (1 << (position & 31)).to(tl.uint32)
        for first in range(0, S.upper_words, S.step):
            word = first + tl.arange(0, S.step)[None, :]
            hit = (position >> 5)[:, None, :] == word[:, :, None]
            packed = tl.sum(tl.where(hit, bit[:, None, :], 0).to(tl.uint32), 2)
            tl.store(at + S.upper_at + word, packed.to(tl.int32, bitcast=True), mask=valid & (word < S.upper_words))


@triton.jit
def write_values(code, at, room, S: tl.constexpr):
    """`(rows, n)` uint32 codes below 2^bits, of which the first `room (rows, 1)` count."""
    packed = gather_bits(code, 32 // S.bits)
    n = tl.arange(0, packed.shape[1])[None, :]
    tl.store(at + S.value_at + n, packed.to(tl.int32, bitcast=True), mask=n * (32 // S.bits) < room)


@triton.jit
def read_upper(places, at, valid, S: tl.constexpr):
    """Pour the ones of the upper part into memory: place[i] = position of the i-th. A barrier must follow. Returns how many there are."""
    word = read_words(at, S.upper_at, S.upper_words, S.upper_room, valid)
    pour(word, places, valid, S.k)
    return tl.sum(popcount(word), 1)


@triton.jit
def read_bits(at, first: tl.constexpr, number, size: tl.constexpr, counted):
    """The `size` bits of number `number` in a field that starts at word `first`."""
    word = tl.load(at + first + (number * size >> 5), mask=counted, other=0).to(tl.uint32, bitcast=True)
    if size < 32:
        word = (word >> (number * size & 31).to(tl.uint32)) & ((1 << size) - 1)
    return word


@triton.jit
def read_place(i, places, at, valid, S: tl.constexpr):
    """The place of coefficient i `(1, n)` of each row, from the record and the positions that `read_upper` left.

    What no encoder made may give any place, also one beyond the row.
    """
    counted = valid & (i >= 0) & (i < S.k)
    place = tl.zeros((at.shape[0], i.shape[1]), tl.int32)
    planes: tl.constexpr = S.low
    for plane in tl.static_range(planes):
        if S.k % 32 == 0:  # a plane begins with a word
            bit = read_bits(at, S.low_at + plane * (S.k // 32), i, 1, counted)
        else:
            bit = read_bits(at, S.low_at, plane * S.k + i, 1, counted)
        place += bit.to(tl.int32) << plane
    if S.index == OFFSETS:
        place += i * S.block
    elif S.index != PLANES:
        position = tl.load(places + i, mask=counted, other=0).to(tl.int32)
        place = position if S.index == BITMAP else ((position - i) << S.low) | place
    return place


@triton.jit
def read_codes(at, room, S: tl.constexpr):
    """`(rows, many)` uint32 codes, of which the first `room (rows, 1)` count: each word is read once and taken apart in registers."""
    per: tl.constexpr = 32 // S.bits
    n = tl.arange(0, S.many // per)[None, :]
    word = tl.load(at + S.value_at + n, mask=n * per < room, other=0).to(tl.uint32, bitcast=True)
    if per == 1:
        code = word
    else:
        shift = (tl.arange(0, per) * S.bits)[None, None, :].to(tl.uint32)
        code = tl.reshape((word[:, :, None] >> shift) & ((1 << S.bits) - 1), (at.shape[0], S.many))
    return code


@triton.jit
def silent_rows(code, place, i, scale, S: tl.constexpr):
    """`(rows,)` whether a row's record reads as no vote: scale 0, or without a scale the first places and the signs of silence."""
    silent = scale == 0
    if S.coded == VOTE and S.scale == 0:
        other = code != silent_signs(i)
        if S.sparse:
            other = other | (place != i * (S.block if S.block else 1))
        silent = tl.max((other & (i < S.k)).to(tl.int32), 1) == 0
    return silent
