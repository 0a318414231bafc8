"""The specification of every kernel, in numpy: one row at a time, fp32, unfused, in a fixed order.

`thinwire.kernels.vector` (torch), the C++ library and the Triton kernels must produce the same bits. A row is a 1-D float32 array of
`chunk` coefficients; see docs/wire-format.md for the record these functions add up to.
"""

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Index = NDArray[np.int64]
Bytes = NDArray[np.uint8]

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
