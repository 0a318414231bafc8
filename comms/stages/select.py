"""Which coefficients of a row are sent."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from thinwire.comms.codec import Spec, Stage, Values
from thinwire.kernels import vector
from thinwire.kernels.program import Program, Select


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


@dataclass(frozen=True, repr=False)
class All(Stage):
    """Every coefficient, in rows of `chunk` (each has its own scale), or in one row when `chunk` is None."""

    kind: ClassVar[str] = "select"
    chunk: int | None = 1024

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"All got chunk={self.chunk}; choose a positive number, or None for one row")

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, k=spec.chunk, index="all")

    def encode(self, x: Tensor, spec: Spec) -> Values:
        return Values(vector.flush(x), None)

    def fuse(self, program: Program, spec: Spec) -> Program:
        return program._replace(select=Select.ALL)


@dataclass(frozen=True, repr=False)
class TopK(Stage):
    """The k largest of every `chunk` coefficients by (|x| descending, index ascending)."""

    kind: ClassVar[str] = "select"
    k: int = 32
    chunk: int = 4096

    def __post_init__(self) -> None:
        if not _power_of_two(self.chunk):
            raise ValueError(f"TopK got chunk={self.chunk}; choose a power of two")
        if not 1 <= self.k <= self.chunk:
            raise ValueError(f"TopK keeps k={self.k} of chunk={self.chunk}; choose 1 <= k <= chunk")

    def plan(self, spec: Spec) -> Spec:
        if self.k > spec.chunk:
            raise ValueError(f"TopK keeps k={self.k} of chunk={spec.chunk}; choose k <= chunk")
        return replace(spec, k=self.k, index="sorted")

    def encode(self, x: Tensor, spec: Spec) -> Values:
        x = vector.flush(x)
        index = vector.top_k(x, self.k)
        return Values(x.gather(1, index), index)

    def fuse(self, program: Program, spec: Spec) -> Program:
        return program._replace(select=Select.TOP_K)


@dataclass(frozen=True, repr=False)
class BlockMax(Stage):
    """The largest of every `block` consecutive coefficients (lowest index of equals): no search, log2(block) index bits."""

    kind: ClassVar[str] = "select"
    block: int = 64
    chunk: int = 4096

    def __post_init__(self) -> None:
        if not _power_of_two(self.block) or not 2 <= self.block <= self.chunk:
            raise ValueError(f"BlockMax got block={self.block}; choose a power of two from 2 to chunk={self.chunk} (16..256 pay)")
        if not _power_of_two(self.chunk):
            raise ValueError(f"BlockMax got chunk={self.chunk}; choose a power of two")

    def plan(self, spec: Spec) -> Spec:
        if spec.chunk % self.block:
            raise ValueError(f"BlockMax got rows of {spec.chunk}, not a multiple of block={self.block}; choose a smaller block")
        return replace(spec, k=spec.chunk // self.block, index="block", block=self.block)

    def encode(self, x: Tensor, spec: Spec) -> Values:
        x = vector.flush(x)
        index = vector.block_max(x, self.block)
        return Values(x.gather(1, index), index)

    def fuse(self, program: Program, spec: Spec) -> Program:
        return program._replace(select=Select.BLOCK_MAX)
