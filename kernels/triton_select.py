"""Which coefficients of a row are sent, in Triton: the k largest by a search over thresholds, or the largest of every block.

Magnitudes are compared as the integers of their bits, which have the same order: `key` is `(rows, width)` int32, 0 beyond a row's end,
where it loses every tie. Places are written, ascending, to int16 memory.
"""

import triton
import triton.language as tl

from thinwire.kernels.triton_words import gather_bits, lowest, popcount, pour


@triton.jit
def write_above(key, least, to):
    """The set of the keys that are at least `least`, as `width / 32` words of each row to memory at `to (rows, 1)`."""
    word = gather_bits((key >= least[:, None]).to(tl.uint32), 32)
    tl.store(to + tl.arange(0, word.shape[1])[None, :], word.to(tl.int32, bitcast=True))


@triton.jit
def threshold(key, k: tl.constexpr):
    """For each row a t with at least k keys >= t and either exactly k, or fewer than k keys > t; and how many keys are >= t.

    Bisection of [lower, upper): it stops as soon as k keys lie above the middle, after about 10 rounds where the numbers differ, and at
    once in a row of zeros. As long as nothing is known below, it looks a power of four under the largest, then of sixteen, and on.
    """
    most = tl.max(key, 1)
    lower = tl.zeros_like(most)
    upper = most + 1
    found = tl.full(most.shape, 1 << 30, tl.int32)  # of keys >= 0: more than enough
    reach = tl.full(most.shape, 1 << 23, tl.int32)
    while tl.max(upper - lower, 0) > 1:
        middle = lower + ((upper - lower) >> 1)
        near = most - reach
        middle = tl.where((lower == 0) & (near > middle) & (near < upper), near, middle)
        reach = tl.minimum(reach * 2, 1 << 30)
        # Sign bits of differences: the compiler counts comparisons at twice the cost.
        count = -tl.sum(((middle - 1)[:, None] - key) >> 31, 1)
        found = tl.where(count >= k, count, found)
        lower = tl.where(count >= k, middle, lower)
        upper = tl.where(count == k, middle + 1, tl.where(count < k, middle, upper))
    return lower, found


@triton.jit
def top_k(key, sets, k: tl.constexpr):
    """The set of the k largest of each row by (key descending, place ascending), as `(rows, width / 32)` words.

    Also the sum of squares of the others, as the floats whose bits the keys are. `sets`: memory of this kernel program for two sets, where
    words change from lanes that hold them many times over to lanes that hold a few each.
    """
    rows: tl.constexpr = key.shape[0]
    n: tl.constexpr = key.shape[1] // 32
    least, found = threshold(key, k)
    to = sets + n * tl.arange(0, rows)[:, None]
    write_above(key, least, to)
    ties = tl.max(found, 0) > k
    if ties:
        write_above(key, least + 1, to + rows * n)
    tl.debug_barrier()
    at = to + tl.arange(0, n)[None, :]
    chosen = tl.load(at).to(tl.uint32, bitcast=True)
    if ties:  # of those that equal the threshold the first are taken, as many as are missing
        above = tl.load(at + rows * n).to(tl.uint32, bitcast=True)
        equal = chosen ^ above
        ones = popcount(equal)
        before = tl.cumsum(ones, 1) - ones
        missing = k - tl.sum(popcount(above), 1)
        chosen = above | lowest(equal, tl.minimum(tl.maximum(missing[:, None] - before, 0), 32))
    equal = least.to(tl.float32, bitcast=True)
    under = tl.where(key < least[:, None], key, 0).to(tl.float32, bitcast=True)
    return chosen, tl.sum(under * under) + tl.sum((found - k).to(tl.float32) * equal * equal)


@triton.jit
def block_max(key, block: tl.constexpr):
    """`(rows, width / block)` place of the largest of every block, the lowest of several; and the sum of squares of the others."""
    rows: tl.constexpr = key.shape[0]
    blocks: tl.constexpr = key.shape[1] // block
    inside = tl.reshape(key, (rows, blocks, block))
    most = tl.max(inside, 2)
    lane = tl.arange(0, block)[None, None, :]
    first = tl.min(tl.where(inside == most[:, :, None], lane, block), 2)
    others = tl.where(lane != first[:, :, None], inside, 0).to(tl.float32, bitcast=True)
    return first + block * tl.arange(0, blocks)[None, :], tl.sum(others * others)


@triton.jit
def select(key, to, sets, valid, S: tl.constexpr):
    """Write the places of the coefficients that are sent to memory at `to (rows, 1)`; a barrier must follow. `sets`: see `top_k`.

    Returns their set as `(rows, width / 32)` words (of the k largest; else 0), and the sum of squares of the others.
    """
    if S.block:
        words = 0
        place, rest = block_max(key, S.block)
        j = tl.arange(0, place.shape[1])[None, :]
        tl.store(to + j, place.to(tl.int16), mask=valid & (j < S.k))
    else:
        words, rest = top_k(key, sets, S.k)
        pour(words, to, valid, S.k)
    return words, rest


@triton.jit(do_not_specialize=["rows"])
def select_kernel(x, places, sets, rows, S: tl.constexpr):
    """places = the k largest, or the largest of every block, of `(rows, chunk)` float32."""
    row = tl.program_id(0).to(tl.int64) * S.lines
    line = tl.arange(0, S.lines)[:, None]
    column = tl.arange(0, S.width)[None, :]
    valid = line < rows - row
    numbers = tl.load(x + row * S.chunk + line * S.chunk + column, mask=valid & (column < S.chunk), other=0.0)
    mine = sets + row * (2 * S.width // 32)
    select(numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF, places + row * S.k + line * S.k, mine, valid, S)
