"""The specification of reading: bytes of a row to numbers, or `Unsound` for bytes that no encoder can have made."""

import numpy as np
from numpy.typing import NDArray

from thinwire.kernels.reference import LARGEST, SMALLEST, ZERO_BLOCK, Bytes, Index, Row, elias_fano_low_bits


class Unsound(ValueError):
    """Bytes that no encoder can have made, and why."""


def require(condition: object, otherwise: str) -> None:
    """Raise `Unsound(otherwise)` unless the condition holds."""
    if not condition:
        raise Unsound(otherwise)


def packed_nbytes(n: int, bits: int) -> int:
    """Bytes of n codes of `bits` bits, padded to 4."""
    return -(-n * bits // 32) * 4


def unpack_bits(packed: Bytes, bits: int, n: int) -> NDArray[np.uint8]:
    """The n codes of `pack_bits`."""
    flat = np.unpackbits(packed, bitorder="little")
    require(not flat[n * bits :].any(), "a padding bit is set")
    planes = flat[: n * bits].reshape(n, bits)
    codes: NDArray[np.uint8] = (planes << np.arange(bits, dtype=np.uint8)).sum(1).astype(np.uint8)
    return codes


def unpack_planes(packed: Bytes, planes: int, n: int) -> Index:
    """The n integers of `pack_planes`."""
    bits = unpack_bits(packed, 1, planes * n).reshape(planes, n).astype(np.int64)
    codes: Index = (bits << np.arange(planes)[:, None]).sum(0)
    return codes


def unpack_elias_fano(packed: Bytes, k: int, chunk: int) -> Index:
    """The k indices of `elias_fano`, perhaps not increasing."""
    low = elias_fano_low_bits(k, chunk)
    upper_bits = k + (chunk >> low)
    split = packed_nbytes(upper_bits, 1)
    positions = np.flatnonzero(unpack_bits(packed[:split], 1, upper_bits))
    require(positions.size == k, "the upper part has not one bit for each index")
    index: Index = (positions - np.arange(k)) << low | unpack_planes(packed[split:], low, k)
    return index


def unpack_bitmap(packed: Bytes, k: int, chunk: int) -> Index:
    """The k indices of `bitmap`."""
    index: Index = np.flatnonzero(unpack_bits(packed, 1, chunk)).astype(np.int64)
    require(index.size == k, "the bitmap has not one bit for each index")
    return index


def require_places(index: Index, chunk: int) -> None:
    """Indices are strictly increasing and below `chunk`."""
    require((index[1:] > index[:-1]).all() and (index < chunk).all(), "indices are not increasing, or beyond the row")


def require_scale(scale: np.float32, qmax: int) -> None:
    """A scale is 0, or positive, of at most 16 significant bits, and of the size that `absmax_scale` gives."""
    require(np.float32(scale).view(np.uint32) & 0xFF == 0, "the scale has more than 16 significant bits")
    if scale.view(np.uint32) != 0:
        # The largest that an encoder makes is 2^100 / qmax rounded up; the smallest a little below 2^-100 / qmax.
        require(ZERO_BLOCK <= scale * np.float32(qmax) <= 2 * LARGEST, "the scale is not one of a row of numbers")


def require_floats(values: Row) -> None:
    """Floats are +0, or of a magnitude that is sent."""
    magnitude = np.abs(values)
    zero = values.view(np.uint32) == 0
    require((zero | ((magnitude >= SMALLEST) & (magnitude <= LARGEST))).all(), "a float is not finite, too large, denormal or -0")
