"""Exact patches between two sets of bfloat16 weights: old and the patch give new, bit for bit, whatever the bits are.

A step of a small learning rate moves few bfloat16 values, and those by one unit in the last place. How often a value moves, and how far,
depends on its exponent, which both sides know: values are taken in the order of the old exponents (stable), so that neighbours are alike
and the entropy coder adapts to each exponent by itself.

    patch    blocks, one for every 4,194,304 values; the last one less
    block    form 1, then by form
      0      nothing: no value has changed
      1      stored: the new values, 2 bytes each
      2      dense: low plane, high plane                       of the changes of all values
      3      sparse: count 4, shift 1, gaps, rest, low plane, high plane     of the values that have changed; each of these is a section
              (comms/sections.py), that of the gaps behind its length before deflation, 4

- A change is the difference of two 16-bit keys that order all bfloat16 patterns by value (NaN outermost), modulo 2^16, zigzag: 1 unit down
  is 1, 1 unit up is 2. Its low and high bytes are two planes.
- Integers are little-endian. Without old weights every old value counts as 0, and the order is that of the tensor: the planes are then
  exponents, and mantissas with their sign, so that a whole set of weights takes about 2/3 of its bytes.

No patch is longer than `limit_nbytes`: a block that gains nothing is stored.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinwire.comms import gaps
from thinwire.comms.sections import Reader, section
from thinwire.comms.wire import WireError

Words = NDArray[np.uint16]

BLOCK = 1 << 22  # values; bounds what encoder and decoder hold beside the weights
_SAME, _STORED, _DENSE, _SPARSE = range(4)


def limit_nbytes(numel: int) -> int:
    """The most bytes that a patch of `numel` values can take: 2 each, and one a block."""
    return 2 * numel + -(-numel // BLOCK)


def encode(old: Tensor | None, new: Tensor) -> bytes:
    """The patch that makes `old` into `new`, both 1-D bfloat16 on the CPU; None: from nothing. Deterministic.

    Raises `ValueError` for other tensors.

    >>> old = torch.zeros(1000, dtype=torch.bfloat16)
    >>> new = old.clone(); new[7] = 1.0
    >>> patch = encode(old, new)
    >>> len(patch), torch.equal(decode(old, patch, 1000), new)
    (30, True)
    """
    after = _words(new)
    before = None if old is None else _words(old)
    if before is not None and len(before) != len(after):
        raise ValueError(f"old weights have {len(before)} values, new ones {len(after)}; a patch is between weights of one model")
    blocks = []
    for at in range(0, len(after), BLOCK):
        end = at + BLOCK
        blocks.append(_encode_block(None if before is None else before[at:end], after[at:end]))
    return b"".join(blocks)


def decode(old: Tensor | None, patch: bytes | memoryview, numel: int) -> Tensor:
    """The `(numel,)` bfloat16 weights that a patch makes of `old`; allocates no more than a few bytes a value, and old stays as it is.

    Raises `WireError`, and nothing else, for bytes that are no patch of `numel` values.
    """
    before = None if old is None else _words(old)
    if before is not None and len(before) != numel:
        raise ValueError(f"old weights have {len(before)} values, the patch is for {numel}")
    reader = Reader(memoryview(patch).cast("B"))
    if len(reader.data) > limit_nbytes(numel) or len(reader.data) < -(-numel // BLOCK):
        raise WireError(f"a patch of {len(reader.data)} bytes for {numel} values")
    after = np.empty(numel, np.uint16)
    for at in range(0, numel, BLOCK):
        end = min(at + BLOCK, numel)
        after[at:end] = _decode_block(None if before is None else before[at:end], reader, end - at)
    if reader.at != len(reader.data):
        raise WireError(f"{len(reader.data) - reader.at} bytes behind the patch")
    return torch.from_numpy(after.view(np.int16)).view(torch.bfloat16)


def _encode_block(old: Words | None, new: Words) -> bytes:
    if old is not None and np.array_equal(old, new):
        return bytes([_SAME])
    change = _changes(old, new)
    places = np.flatnonzero(change)
    found = [bytes([_STORED]) + new.astype("<u2").tobytes(), bytes([_SPARSE]) + _encode_sparse(change, places)]
    if 4 * len(places) >= len(change):  # with fewer, zeros in the planes cost more than gaps
        found.append(bytes([_DENSE]) + _encode_planes(change))
    return min(found, key=len)


def _decode_block(old: Words | None, reader: Reader, numel: int) -> Words:
    form = reader.take(1)[0]
    if form == _SAME:
        return np.zeros(numel, np.uint16) if old is None else old
    if form == _STORED:
        return np.frombuffer(reader.take(2 * numel), "<u2")
    if form == _DENSE:
        return _applied(old, _decode_planes(reader, numel), numel)
    if form == _SPARSE:
        return _applied(old, _decode_sparse(reader, numel), numel)
    raise WireError(f"form {form} of a block is unknown")


def _changes(old: Words | None, new: Words) -> Words:
    """Zigzag differences in the order of the old exponents."""
    if old is not None:
        order = _order(old)
        old, new = old[order], new[order]
    difference = (_key(new) - (_key(old) if old is not None else _key(np.zeros(1, np.uint16)))).astype(np.uint16)
    change: Words = difference << 1 ^ np.negative(difference >> 15)
    return change


def _applied(old: Words | None, change: Words, numel: int) -> Words:
    """The inverse of `_changes`."""
    difference: Words = change >> 1 ^ np.negative(change & 1)
    if old is None:
        return _unkey(_key(np.zeros(1, np.uint16)) + difference)
    order = _order(old)
    new = np.empty(numel, np.uint16)
    new[order] = _unkey(_key(old[order]) + difference)
    return new


def _order(old: Words) -> NDArray[np.intp]:
    return np.argsort((old >> 7 & 0xFF).astype(np.uint8), kind="stable")


def _key(words: Words) -> Words:
    """A number that grows with the value; both zeros have their own."""
    keys: Words = words ^ (np.negative(words >> 15) | np.uint16(0x8000))
    return keys


def _unkey(keys: Words) -> Words:
    words: Words = keys ^ (np.subtract(keys >> 15, np.uint16(1)) | np.uint16(0x8000))
    return words


def _encode_sparse(change: Words, places: NDArray[np.intp]) -> bytes:
    return gaps.write(places, len(change)) + _encode_planes(change[places])


def _decode_sparse(reader: Reader, numel: int) -> Words:
    places = gaps.read(reader, numel)
    change = np.zeros(numel, np.uint16)
    change[places] = _decode_planes(reader, len(places))
    return change


def _encode_planes(change: Words) -> bytes:
    return section((change & 0xFF).astype(np.uint8)) + section((change >> 8).astype(np.uint8))


def _decode_planes(reader: Reader, numel: int) -> Words:
    low = np.frombuffer(reader.section(numel), np.uint8)
    high = np.frombuffer(reader.section(numel), np.uint8)
    change: Words = np.bitwise_or(low, high.astype(np.uint16) << np.uint16(8))
    return change


def _words(weights: Tensor) -> Words:
    """The bit patterns of 1-D bfloat16 weights, without a copy where they are contiguous."""
    if weights.dtype != torch.bfloat16 or weights.dim() != 1 or weights.device.type != "cpu":
        raise ValueError(f"a patch is of 1-D bfloat16 weights on the CPU, got {tuple(weights.shape)} {weights.dtype} on {weights.device}")
    words: Words = weights.detach().contiguous().view(torch.int16).numpy().view(np.uint16)
    return words
