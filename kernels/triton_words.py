"""Sets of bits in 32-bit words, in Triton: uint32 tensors `(rows, n)`.

Without inline assembly, which the interpreter has not, and without `tl.gather`, which crashes the compiler of triton 3.6.
"""

import triton
import triton.language as tl


@triton.jit
def popcount(x):
    """The number of ones of each word, as int32."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def gather_bits(bits, per: tl.constexpr):
    """`(rows, per * n)` unsigned numbers of 32 / per bits to `(rows, n)` words, the first in the lowest bits."""
    if per == 1:
        packed = bits
    else:
        shift = tl.arange(0, per) * (32 // per)
        parts = tl.reshape(bits, (bits.shape[0], bits.shape[1] // per, per))
        packed = tl.sum(parts << shift[None, None, :].to(tl.uint32), 2)
    return packed


@triton.jit
def lowest(word, n):
    """Each word's n lowest ones, all of them where it has no more."""
    found = tl.zeros_like(n)
    left = n
    rest = word
    for level in tl.static_range(5):
        ones = popcount(rest & ((1 << (16 >> level)) - 1))
        above = left >= ones
        found += tl.where(above, 16 >> level, 0)
        rest = tl.where(above, rest >> (16 >> level), rest)
        left -= tl.where(above, ones, 0)
    # `found` is the place of the first one too many.
    first = word & ((1 << found.to(tl.uint32)) - 1).to(tl.uint32)
    return tl.where(n < popcount(word), first, word)


@triton.jit
def pour(word, to, valid, k: tl.constexpr):
    """Write the places of the ones of each row, ascending and at most k of them, to int16 memory at `to (rows, 1)`.

    One from each word at a time; all are visible to the whole program after a barrier.
    """
    ones = popcount(word)
    rank = tl.cumsum(ones, 1) - ones
    start = 32 * tl.arange(0, word.shape[1])[None, :]
    rounds = tl.max(tl.max(ones, 1), 0)
    done = 0
    while done < rounds:
        place = start + popcount((word & (0 - word)) - 1)
        tl.store(to + rank, place.to(tl.int16), mask=valid & (word != 0) & (rank < k))
        word = word & (word - 1)
        rank += 1
        done += 1
