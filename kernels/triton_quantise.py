"""How a value becomes a small integer, in Triton: `thinwire.kernels.reference`, with the same bits.

Shorter floats are rounded with integer operations: the casts of Triton's interpreter truncate (triton issue 8322), and one rule serves
all formats. Division is `tl.div_rn`, IEEE division on a GPU and in the interpreter; `/` is not.
"""

import triton
import triton.language as tl

from thinwire.kernels.program import Value

FLOAT32 = tl.constexpr(int(Value.FLOAT32))
SIGN = tl.constexpr(int(Value.SIGN))
VOTE = tl.constexpr(int(Value.VOTE))
FLOAT16 = tl.constexpr(int(Value.FLOAT16))

SMALLEST = tl.constexpr(2.0**-126)
LARGEST = tl.constexpr(2.0**100)
LARGEST_BITS = tl.constexpr(0x71800000)
ZERO_BLOCK = tl.constexpr(2.0**-100)
HALF_CODE = tl.constexpr(1.5 * 2**23)  # added to a float below 2^22, leaves the nearest integer, half to even, in its low bits
WHOLE_BITS = tl.constexpr(0x4B000000)  # of 2^23, whose low bits count ones
SURE = tl.constexpr(0.5 - 2.0**-15)  # two roundings more than a quotient's move a number below 128 by less than 2^-15
SILENT = tl.constexpr((0x7F4A7C15, 0x9E3779B9))  # signs of a row that does not vote, 64 in turn


@triton.jit
def magnitude_bits(x):
    """The bits of |x|, whose order is that of the magnitudes."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def flush(x):
    """Zero what the wire cannot carry: denormals, NaN, Inf and |x| > 2^100."""
    size = tl.abs(x)
    return tl.where((size >= SMALLEST) & (size <= LARGEST), x, 0.0)


@triton.jit
def round_up16(x):
    """The smallest float32 >= x with at most 16 significant bits; 0 for x < 2^-100."""
    up = ((x.to(tl.int32, bitcast=True) + 0xFF) & ~0xFF).to(tl.float32, bitcast=True)
    return tl.where(x < ZERO_BLOCK, 0.0, up)


@triton.jit
def halving_sum(x):
    """The sum of each row of `(rows, n)`: the upper half on the lower half, until one is left. A sum of two has but one order."""
    n: tl.constexpr = x.shape[1]
    if n == 1:
        total = tl.reshape(x, (x.shape[0],))
    else:
        total = halving_sum(tl.sum(tl.reshape(x, (x.shape[0], 2, n // 2)), 1))
    return total


@triton.jit
def scale_of(x, S: tl.constexpr):
    """`(rows,)`: the mean magnitude for signs, else the largest / qmax, rounded up to 16 bits; of votes 1, or 0 where a row has none.

    x is 0 beyond the k of a row.
    """
    if S.coded == VOTE:
        scale = (tl.max(magnitude_bits(x), 1) > 0).to(tl.float32)
    elif S.coded == SIGN:
        total = halving_sum(tl.abs(x))
        scale = round_up16(tl.div_rn(total, tl.full(total.shape, S.k, tl.float32)))
    else:
        most = tl.max(tl.abs(x), 1)
        scale = round_up16(tl.div_rn(most, tl.full(most.shape, S.qmax, tl.float32)))
    return scale


@triton.jit
def to_short(size, mantissa: tl.constexpr, bias: tl.constexpr):
    """The code of the nearest short float to `size` >= 0, half to even: bits of the mantissa dropped, or steps of the lowest exponent."""
    bits = size.to(tl.int32, bitcast=True)
    drop: tl.constexpr = 23 - mantissa
    normal = ((bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)) >> drop) - ((127 - bias) << mantissa)
    if bias == 127:  # a float32 that small is 0
        code = normal
    else:
        steps: tl.constexpr = 2.0 ** (24 - bias - mantissa)  # a float32 of this size has the steps of the lowest exponent
        lowest = (size + steps).to(tl.int32, bitcast=True) - ((127 + 24 - bias - mantissa) << 23)
        code = tl.where(size < 2.0 ** (1 - bias), lowest, normal)
    return code


@triton.jit
def from_short(code, mantissa: tl.constexpr, bias: tl.constexpr):
    """What the code of a short float >= 0 stands for."""
    normal = ((code + ((127 - bias) << mantissa)) << (23 - mantissa)).to(tl.float32, bitcast=True)
    if bias == 127:
        size = normal
    else:
        lowest = code.to(tl.float32) * (2.0 ** (1 - bias - mantissa))
        size = tl.where((code >> mantissa) == 0, lowest, normal)
    return size


@triton.jit
def lowbias32(x):
    """A mixing of 32 bits; x is uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def noise(scale, row, j, seed: tl.constexpr):
    """16 random bits for value j of a row, as float32: they follow from the seed, the row's scale and number, and j."""
    start = lowbias32(scale.to(tl.uint32, bitcast=True) ^ seed) + row.to(tl.uint32) * 0x9E3779B9
    words = lowbias32((j >> 1).to(tl.uint32) ^ lowbias32(start)[:, None])
    return ((words >> ((j & 1) * 16).to(tl.uint32)) & 0xFFFF).to(tl.float32)


@triton.jit
def silent_signs(j):
    """The sign bits of a row that does not vote."""
    word = tl.where((j & 32) == 0, SILENT[0], SILENT[1]).to(tl.uint32)
    return (word >> (j & 31).to(tl.uint32)) & 1


@triton.jit
def encode_values(x, j, row, scale, S: tl.constexpr):
    """`(rows, n)` values x, of which those with j < k count and the others are 0, to uint32 codes; `scale (rows,)` is their `scale_of`."""
    if S.coded == FLOAT32:
        code = x.to(tl.uint32, bitcast=True)
    elif S.coded == VOTE:
        code = (x < 0).to(tl.uint32)
        if S.scale == 0:
            votes = tl.max(magnitude_bits(x), 1) > 0
            code = tl.where(votes[:, None], code, silent_signs(j))
    elif S.coded == SIGN:
        code = ((x < 0) & (scale != 0)[:, None]).to(tl.uint32)
    elif S.integer and S.seed == 0:
        code = _nearest(x, scale, S)
    elif S.scale:
        ratio = _ratio(x, scale)
        if S.integer:
            number = _at_random(ratio, scale, j, row, S) & ((1 << S.bits) - 1)
        else:
            size = to_short(tl.abs(ratio), S.mantissa, S.bias)
            number = _signed(tl.minimum(size, (1 << (S.bits - 1)) - 1 - (S.bits == 8)), ratio, S.bits)
        code = tl.where((scale == 0)[:, None], 0, number).to(tl.uint32)
    else:
        size = tl.abs(x)
        if S.coded == FLOAT16:
            # Too large for it: what is sent must leave a number without rounding, as 2^15 does below 2^39.
            size = tl.where(size <= 65504.0, size, tl.where(size < 2.0**39, 2.0**15, 0.0))
        code = _signed(to_short(size, S.mantissa, S.bias), x, S.bits).to(tl.uint32)
    return tl.where(j < S.k, code, 0)


@triton.jit
def _ratio(x, scale):
    return tl.div_rn(x, tl.broadcast_to(tl.where(scale == 0, 1.0, scale)[:, None], x.shape))


@triton.jit
def _nearest(x, scale, S: tl.constexpr):
    """round-half-even(x / scale), the quotient rounded first, in the low bits; none is beyond qmax, as the scale was rounded up.

    A division costs as much as all the rest: where everything is sent, 1 / scale does unless some quotient lies beside a half.
    """
    if S.sparse:
        shifted = _ratio(x, scale) + HALF_CODE
    else:
        ratio = x * tl.where(scale == 0, 0.0, tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), tl.where(scale == 0, 1.0, scale)))[:, None]
        shifted = ratio + HALF_CODE
        if tl.max(tl.abs(ratio - (shifted - HALF_CODE))) >= SURE:
            shifted = _ratio(x, scale) + HALF_CODE
    return shifted.to(tl.uint32, bitcast=True) & ((1 << S.bits) - 1)


@triton.jit
def _at_random(ratio, scale, j, row, S: tl.constexpr):
    below = ratio.to(tl.int32)  # towards zero; `tl.floor` flushes denormals
    below -= (below.to(tl.float32) > ratio).to(tl.int32)
    number = below + ((ratio - below.to(tl.float32)) * 65536.0 > noise(scale, row, j, S.seed)).to(tl.int32)
    return tl.minimum(tl.maximum(number, -S.qmax), S.qmax)


@triton.jit
def _signed(size, like, bits: tl.constexpr):
    """A code with the sign of `like`; -0 is 0."""
    return tl.where((like < 0) & (size > 0), size | (1 << (bits - 1)), size)


@triton.jit
def decode_values(code, scale, silent, S: tl.constexpr):
    """What uint32 codes stand for, float32; `silent (rows,)`: rows that do not vote."""
    if S.coded == FLOAT32:
        value = code.to(tl.float32, bitcast=True)
    elif S.coded == VOTE:
        value = tl.where(silent[:, None], 0.0, 1.0 - 2.0 * code.to(tl.float32))
    elif S.coded == SIGN:
        value = tl.where(code != 0, -scale[:, None], scale[:, None])
    elif S.integer:
        top: tl.constexpr = 1 << (S.bits - 1)
        whole = (code ^ (WHOLE_BITS | top)).to(tl.float32, bitcast=True)  # 2^23 + top + number; conversions are slow
        value = (whole - (2.0**23 + top)) * scale[:, None]
    else:
        size = from_short((code & ((1 << (S.bits - 1)) - 1)).to(tl.int32), S.mantissa, S.bias)
        if S.scale:
            size = size * scale[:, None]
        # The sign bit as a bit: negation makes +0 of +0 in triton 3.6.
        value = (size.to(tl.uint32, bitcast=True) | ((code >> (S.bits - 1)) << 31)).to(tl.float32, bitcast=True)
    return value
