"""Memory larger than the cache, cut into slices that are used in turn: no measurement finds its numbers in a cache."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MB = 2**20


@dataclass
class Slice:
    """A part of the pool: `x` is only read, `y` may be written, `cargo` is what else an operation reads, by contestant."""

    x: Tensor
    y: Tensor
    cargo: dict[str, Any] = field(default_factory=dict)


class Pool:
    """Two float32 arrays of normal numbers, `x` to read and `y` to write, of `megabytes` each."""

    def __init__(self, megabytes: int) -> None:
        self.nbytes = megabytes * MB
        self._x, self._y = torch.zeros(self.nbytes // 4), torch.zeros(self.nbytes // 4)
        generator = torch.Generator().manual_seed(0)
        for part in self._x.split(MB):
            part.normal_(generator=generator)

    def slices(self, elements: int, cargo: Callable[[], dict[str, Any]] | None = None, cargo_nbytes: int = 0) -> list[Slice]:
        """All of the pool in slices, `y` set anew; with `cargo` of its own in each, as many as make up the size of the pool."""
        count = self._x.numel() // elements
        if cargo_nbytes:
            count = max(min(count, self.nbytes // cargo_nbytes), 2)
        self._y.copy_(self._x)
        parts = list(zip(self._x.split(elements), self._y.split(elements), strict=True))[:count]
        return [Slice(x, y, cargo() if cargo else {}) for x, y in parts]
