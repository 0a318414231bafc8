"""An operation of the table: who takes part, and what must be reached."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.kernels.pool import Pool, Slice

Contestant = Callable[[Slice], Any]

PROBES: dict[str, Contestant] = {
    "read-sum": lambda s: s.x.sum(),
    "copy": lambda s: s.y.copy_(s.x),
    "mul_": lambda s: s.y.mul_(0.999),
    "lerp_": lambda s: s.y.lerp_(s.x, 0.001),
}


class Sizes(NamedTuple):
    """Elements of one call: large enough that the call itself costs nothing, small enough to take turns."""

    dense: int = 2**22
    height: int = 1024  # of the matrix of the fused operations
    width: int = 2048
    indices: int = 2**20

    @property
    def matrix(self) -> int:
        return self.height * self.width


QUICK = Sizes(dense=2**14, height=128, width=128, indices=2**12)


class Lineup(NamedTuple):
    """An operation made ready: the slices and everybody that is measured on them; `elements` is what one call works on."""

    slices: list[Slice]
    elements: int
    ours: Contestant
    peers: Mapping[str, Contestant]


@dataclass(frozen=True)
class Operation:
    """A row. `probe` moves about the same bytes; `goal`: ours takes at most so many times the probe's time.

    `beats`: ours is at least so many times as fast as a peer (None: only shown). `rate`: at least so many million elements a second.
    """

    name: str
    lineup: Callable[[Pool, Sizes], Lineup]
    probe: str = ""
    goal: float | None = None
    beats: Mapping[str, float | None] = field(default_factory=dict)
    rate: float | None = None
    read: float = 0.0  # bytes an element that must be read from memory
    written: float = 0.0
    wall: bool = False  # measured by the clock on the wall: more than one thread
    alone: bool = False  # compares ours with ours: nothing to show without the library
