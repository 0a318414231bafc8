"""A chain of stages as plain integers: all that a fused kernel needs to know of a codec and its matrix."""

from enum import IntEnum
from typing import NamedTuple


class Select(IntEnum):
    """Which coefficients of a row are sent."""

    ALL = 0
    TOP_K = 1
    BLOCK_MAX = 2


class Value(IntEnum):
    """How a coefficient is sent."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    INT8 = 3
    INT4 = 4
    INT2 = 5
    SIGN = 6
    VOTE = 7
    FP8 = 8  # e4m3
    FP4 = 9  # e2m1


class Index(IntEnum):
    """How the places of the coefficients are sent."""

    NONE = 0
    ELIAS_FANO = 1
    PLANES = 2
    BITMAP = 3
    OFFSETS = 4  # bit planes of the place within a block


class Program(NamedTuple):
    """What a kernel runs on a `(rows, chunk)` matrix: tiles of `side`, `k` coefficients a row, records of `record` bytes."""

    rows: int
    chunk: int
    side: int  # of the DCT tiles; 0: no change of basis
    select: int
    k: int
    block: int  # coefficients an index stands for with BLOCK_MAX, else 0
    value: int
    index: int  # type: ignore[assignment]
    scale: int  # 1: a float32 a row, 0: none
    record: int  # bytes
    seed: int  # of stochastic rounding, from 1 on; 0: half to even

    @property
    def nbytes(self) -> int:
        """Of a payload."""
        return self.rows * self.record
