"""The specification of every kernel, in numpy: one row at a time, fp32, unfused, in a fixed order.

`thinwire.kernels.vector` (torch), the C++ library and the Triton kernels must produce the same bits. A row is a 1-D float32 array of
`chunk` coefficients; `thinwire.kernels.reference_chain` puts these functions together to a record (docs/wire-format.md).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Index = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

SMALLEST = np.float32(2.0**-126)  # below it a number is zero: denormals cost 4.7x and differ between devices
LARGEST = np.float32(2.0**100)  # above it a number counts as not finite, so that no sum of payloads can overflow
ZERO_BLOCK = np.float32(2.0**-100)  # a row whose largest magnitude is below it is sent as zeros


def flush(x: Row) -> tuple[Row, int]:
    """Zero what the wire cannot carry (denormals, NaN, Inf, |x| > 2^100); returns the row and how many were not finite."""
    magnitude = np.abs(x)
    bad = ~(magnitude <= LARGEST)
    keep = (magnitude >= SMALLEST) & ~bad
    return np.where(keep, x, np.float32(0)).astype(np.float32), int(bad.sum())


def top_k(x: Row, k: int) -> Index:
    """Indices of the k largest by (|x| descending, index ascending), returned in ascending order."""
    order = np.lexsort((np.arange(x.size), -np.abs(x)))
    chosen: Index = np.sort(order[:k]).astype(np.int64)
    return chosen


def block_max(x: Row, block: int) -> Index:
    """The index of the largest |x| of every `block` consecutive elements, the lowest index where several are equal."""
    blocks = np.abs(x).reshape(-1, block)
    chosen: Index = (blocks.argmax(1) + block * np.arange(len(blocks))).astype(np.int64)
    return chosen


def round_up16(x: np.float32) -> np.float32:
    """The smallest float32 >= x with at most 16 significant bits: its product with a small integer is exact."""
    bits = np.float32(x).view(np.int32).item()
    return np.int32((bits + 0xFF) & ~0xFF).view(np.float32)


def absmax_scale(values: Row, qmax: int) -> np.float32:
    """The largest magnitude divided by `qmax`, rounded up to 16 bits; 0 for a zero block."""
    largest = np.abs(values).max(initial=np.float32(0))
    return np.float32(0) if largest < ZERO_BLOCK else round_up16(np.float32(largest / np.float32(qmax)))


def mean_scale(values: Row) -> np.float32:
    """The mean magnitude (halving tree sum over the next power of two, then one division), rounded up; 0 for a zero block."""
    size = 1 << max(values.size - 1, 0).bit_length()
    total = np.zeros(size, np.float32)
    total[: values.size] = np.abs(values)
    while total.size > 1:
        half = total.size // 2
        total = total[:half] + total[half:]
    mean = np.float32(total[0] / np.float32(max(values.size, 1)))
    return np.float32(0) if mean < ZERO_BLOCK else round_up16(mean)


def quantise(values: Row, scale: np.float32, qmax: int) -> NDArray[np.int8]:
    """round-half-even(values / scale), clamped to +-qmax; zeros where the scale is 0."""
    if scale == 0:
        return np.zeros(values.size, np.int8)
    codes: NDArray[np.int8] = np.clip(np.rint(values / scale), -qmax, qmax).astype(np.int8)
    return codes


def lowbias32(x: Words) -> Words:
    """A mixing of 32 bits (C. Wellons, hash-prospector): the random numbers of stochastic rounding, the same everywhere."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def stochastic_noise(n: int, seed: int, row: int, scale: np.float32) -> NDArray[np.uint16]:
    """16 bits for each of n values of a row: they depend on the seed, the row's scale and number, and the place among the values."""
    bits = np.array([scale], np.float32).view(np.uint32)
    row_seed = lowbias32(lowbias32(bits ^ np.uint32(seed)) + np.array([row * 0x9E3779B9 % 2**32], np.uint32))
    j = np.arange(n, dtype=np.uint32)
    words = lowbias32((j // 2).astype(np.uint32) ^ row_seed)
    return np.where(j % 2 == 0, words & 0xFFFF, words >> 16).astype(np.uint16)


def quantise_stochastic(values: Row, scale: np.float32, qmax: int, seed: int, row: int) -> NDArray[np.int8]:
    """values / scale rounded down, or up as often as it is above: up where the part above, times 2^16, exceeds 16 random bits."""
    if scale == 0:
        return np.zeros(values.size, np.int8)
    ratio = values / scale
    below = np.floor(ratio)
    up = (ratio - below) * np.float32(65536) > stochastic_noise(values.size, seed, row, scale).astype(np.float32)
    codes: NDArray[np.int8] = np.clip(below + up.astype(np.float32), -qmax, qmax).astype(np.int8)
    return codes


class Tiny(NamedTuple):
    """A float of few bits, as OCP's: a sign, an exponent, `mantissa` bits; no Inf, and no NaN that we ever send."""

    mantissa: int
    bias: int
    largest: int  # code of the largest number, without the sign
    qmax: int  # that number
    sign: int  # the sign bit


E4M3 = Tiny(mantissa=3, bias=7, largest=0x7E, qmax=448, sign=0x80)
E2M1 = Tiny(mantissa=1, bias=1, largest=0x7, qmax=6, sign=0x8)


def to_tiny(values: Row, scale: np.float32, tiny: Tiny) -> NDArray[np.uint8]:
    """The nearest tiny float to values / scale (half to even), at most qmax; a result of -0 becomes 0, and all are where the scale is 0."""
    if scale == 0:
        return np.zeros(values.size, np.uint8)
    magnitude = np.abs(values / scale)
    bits, drop = magnitude.view(np.uint32).astype(np.int64), 23 - tiny.mantissa
    normal = ((bits + (1 << (drop - 1)) - 1 + ((bits >> drop) & 1)) >> drop) - ((127 - tiny.bias) << tiny.mantissa)
    step = np.float32(2.0 ** (1 - tiny.bias - tiny.mantissa))  # between the numbers of the lowest exponent
    lowest = np.rint(np.minimum(magnitude, np.float32(tiny.qmax)) / step).astype(np.int64)
    code = np.where(magnitude < np.float32(2.0 ** (1 - tiny.bias)), lowest, np.minimum(normal, tiny.largest))
    codes: NDArray[np.uint8] = np.where((values < 0) & (code > 0), code | tiny.sign, code).astype(np.uint8)
    return codes


def from_tiny(codes: NDArray[np.uint8], tiny: Tiny) -> Row:
    """What the codes stand for, before the scale."""
    exponent = ((codes & (tiny.sign - 1)) >> tiny.mantissa).astype(np.int64)
    mantissa = (codes & ((1 << tiny.mantissa) - 1)) + np.where(exponent > 0, 1 << tiny.mantissa, 0)
    magnitude = np.ldexp(mantissa.astype(np.float64), np.maximum(exponent, 1) - tiny.bias - tiny.mantissa)
    values: Row = np.where(codes & tiny.sign, -magnitude, magnitude).astype(np.float32)
    return values


def to_bf16(values: Row) -> NDArray[np.uint16]:
    """bfloat16 bit patterns, rounded half to even by integer arithmetic; a result of -0 becomes 0."""
    bits = values.view(np.uint32).astype(np.uint64)
    codes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(codes == 0x8000, 0, codes).astype(np.uint16)


def to_fp16(values: Row) -> NDArray[np.uint16]:
    """float16 bit patterns, rounded half to even; beyond +-65504 it is +-2^15, from 2^39 on 0; a result of -0 becomes 0."""
    magnitude = np.abs(values)
    beyond = np.copysign(np.where(magnitude < np.float32(2.0**39), np.float32(2.0**15), np.float32(0)), values)
    within = np.where(magnitude <= np.float32(65504), values, beyond)
    codes = within.astype(np.float16).view(np.uint16)
    return np.where(codes == 0x8000, 0, codes).astype(np.uint16)


def pack_bits(codes: NDArray[np.uint8], bits: int) -> Bytes:
    """`bits` per code, code j at bit j*bits, least significant bit first, zero-padded to 4 bytes."""
    planes = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    flat = np.packbits(planes.reshape(-1).astype(np.uint8), bitorder="little")
    return np.pad(flat, (0, -flat.size % 4))


def pack_planes(codes: Index, planes: int) -> Bytes:
    """Plane-major bits: bit i of plane p is bit p of code i, at position p*len(codes)+i; zero-padded to 4 bytes."""
    bits = (codes[None, :] >> np.arange(planes)[:, None]) & 1
    return pack_bits(bits.reshape(-1).astype(np.uint8), 1)


def elias_fano_low_bits(k: int, chunk: int) -> int:
    """How many low bits of each of k sorted indices below `chunk` are stored verbatim: floor(log2(chunk / k))."""
    return max((chunk // k).bit_length() - 1, 0) if k else 0


def elias_fano(index: Index, chunk: int) -> Bytes:
    """Sorted indices: a unary upper part (bit (index >> low) + i for the i-th), then the low bits as planes."""
    k, low = len(index), elias_fano_low_bits(len(index), chunk)
    upper = np.zeros(k + (chunk >> low), np.uint8)
    upper[(index >> low) + np.arange(k)] = 1
    return np.concatenate([pack_bits(upper, 1), pack_planes(index & ((1 << low) - 1), low)])


def bitmap(index: Index, chunk: int) -> Bytes:
    """One bit a coefficient, set where it is sent."""
    bits = np.zeros(chunk, np.uint8)
    bits[index] = 1
    return pack_bits(bits, 1)
