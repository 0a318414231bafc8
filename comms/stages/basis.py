"""Linear orthonormal changes of coordinates."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thinwire.comms.codec import Spec, Stage
from thinwire.kernels import dispatch
from thinwire.kernels.program import Program

SIDES = (8, 16, 32, 64)


@dataclass(frozen=True, repr=False)
class DCT(Stage):
    """The 2-D DCT-II of square tiles (DeMo, arXiv:2411.19870); coefficient order is column frequency * side + row frequency.

    Right for gradients (every step), wrong for pseudo-gradients: there it costs loss (benchmarks/training/sweep).
    """

    kind: ClassVar[str] = "basis"
    side: int = 64

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"DCT got side={self.side}; choose one of {SIDES}")

    def plan(self, spec: Spec) -> Spec:
        if spec.chunk != self.side**2:
            raise ValueError(f"DCT of side {self.side} works on rows of {self.side**2}, got chunk={spec.chunk}")
        return spec

    def encode(self, x: Tensor, spec: Spec) -> Tensor:
        return dispatch.dct_tiles(x, self.side)

    def decode(self, y: Tensor, spec: Spec) -> Tensor:
        return dispatch.idct_tiles(y, self.side)

    def fuse(self, program: Program, spec: Spec) -> Program | None:
        return program._replace(side=self.side) if not program.side else None
