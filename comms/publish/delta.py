"""A lossy step between bfloat16 weights: int8 with one scale for 256 values. What it decodes to is what everybody holds from then on.

    delta  scales (bfloat16, little-endian, one a block; the last block may be shorter), codes as a section (comms/sections.py)

    new = bfloat16(old + code * scale)

A scale has 8 significant bits and a code 7, so their product is exact in float32; the sum is rounded once to float32, then once to
bfloat16, both to nearest even: the same on every machine. What a step leaves out is part of the next one, which starts from what is held.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinwire.comms.sections import Reader, section
from thinwire.comms.wire import WireError

BLOCK = 256
_LARGEST = 127
_TINY = 2.0**-100  # a scale below is zero: no product is subnormal


def limit_nbytes(numel: int) -> int:
    """The most bytes that a delta of `numel` values takes."""
    return 2 * -(-numel // BLOCK) + 4 + numel


def encode(old: Tensor, new: Tensor) -> tuple[bytes, Tensor] | None:
    """`(numel,)` bfloat16 and float32 to the delta and the bfloat16 weights that it makes of `old`; None where numbers are not finite."""
    base = _float32(old)
    with np.errstate(over="ignore", invalid="ignore"):
        step = new.numpy() - base
    if not np.isfinite(step).all():
        return None
    padded = np.zeros((-(-len(step) // BLOCK), BLOCK), np.float32)
    padded.reshape(-1)[: len(step)] = step
    scales = _rounded_up(np.abs(padded).max(1, initial=0.0) / np.float32(_LARGEST))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(scales[:, None] > 0, padded / scales[:, None], 0)
    codes = np.clip(np.rint(ratios), -_LARGEST, _LARGEST).astype(np.int8).reshape(-1)[: len(step)]
    made = _apply(base, scales, codes)
    if not bool(made.isfinite().all()):
        return None
    return (scales.view(np.uint32) >> 16).astype("<u2").tobytes() + section(codes.view(np.uint8)), made


def decode(old: Tensor, delta: bytes, numel: int) -> Tensor:
    """The `(numel,)` bfloat16 weights that a delta makes of `old`; raises `WireError` for bytes that are no such delta."""
    reader = Reader(memoryview(delta))
    words = np.frombuffer(reader.take(2 * -(-numel // BLOCK)), "<u2")
    scales = (words.astype(np.uint32) << 16).view(np.float32)
    if not (np.isfinite(scales) & ((scales == 0) | (scales >= _TINY))).all():
        raise WireError("a scale of the delta is no number that it can have")
    codes = np.frombuffer(reader.section(numel), np.int8)
    if reader.at != len(reader.data):
        raise WireError(f"{len(reader.data) - reader.at} bytes behind the delta")
    return _apply(_float32(old), scales, codes)


def _apply(base: NDArray[np.float32], scales: NDArray[np.float32], codes: NDArray[np.int8]) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):
        made = base + codes.astype(np.float32) * np.repeat(scales, BLOCK)[: len(codes)]
    return torch.from_numpy(made).to(torch.bfloat16)


def _rounded_up(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the next bfloat16 that is not below, or to zero."""
    up = (scales.view(np.uint32) + 0xFFFF & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(up >= _TINY, up, np.float32(0))


def _float32(flat: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = flat.to(torch.float32).numpy()
    return values
