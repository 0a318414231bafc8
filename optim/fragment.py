"""Parameters seen as one flat float32 vector and as one `(rows, chunk)` matrix of whole rows.

    flat    (numel,)        the parameters end to end, in order: anchor, outer momentum and updates live here
    matrix  (rows, chunk)   what a codec works on; zero-padded, the padding is never stored in a parameter

Without tiles a matrix is the flat vector, padded at its end. With tiles of side s every tensor of two or more dimensions is cut into
s x s tiles (as a matrix: first dimension x the rest; edge tiles zero-padded), and everything that would be mostly padding is pooled:
laid end to end in rows of s*s. No divisor is ever searched: a prime side costs one partly filled tile, not the whole matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from thinwire.comms.codec import Codec, Plan
from thinwire.comms.recipes import codec as named_codec


def local(tensor: Tensor) -> Tensor:
    """The part of a (possibly FSDP2-sharded) tensor that lives here."""
    # Importing DTensor to ask isinstance would cost every `import thinwire` a quarter of a second.
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


@dataclass(frozen=True)
class _Tiled:
    """One tensor as a grid of tiles."""

    start: int  # in the flat vector
    height: int
    width: int
    side: int

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.height // self.side), -(-self.width // self.side)

    @property
    def rows(self) -> int:
        return prod(self.grid)

    def cut(self, flat: Tensor) -> Tensor:
        (down, across), s = self.grid, self.side
        sheet = flat[self.start : self.start + self.height * self.width].view(self.height, self.width)
        sheet = pad(sheet, (0, across * s - self.width, 0, down * s - self.height))
        return sheet.view(down, s, across, s).transpose(1, 2).reshape(self.rows, s * s)

    def paste(self, rows: Tensor, flat: Tensor) -> None:
        (down, across), s = self.grid, self.side
        sheet = rows.view(down, across, s, s).transpose(1, 2).reshape(down * s, across * s)
        flat[self.start : self.start + self.height * self.width].view(self.height, self.width).copy_(sheet[: self.height, : self.width])


class Fragment:
    """The layout of some tensors under a codec, and the plan of their payload.

    When the codec's payload would not be smaller than the float32 one, the fragment is sent dense and `plan.codec` says so.

    >>> fragment = Fragment([torch.Size([300, 100]), torch.Size([100])], "blockmax")
    >>> fragment.numel, fragment.plan.rows, fragment.plan.nbytes
    (30100, 8, 480)
    """

    def __init__(self, shapes: Sequence[torch.Size], codec: str | Codec) -> None:
        codec = named_codec(codec)
        self.shapes = tuple(torch.Size(shape) for shape in shapes)
        self.sizes = tuple(shape.numel() for shape in self.shapes)
        self.numel = sum(self.sizes)
        self._tiles: list[_Tiled] = []
        self._lay_out(codec)
        if not self.plan.codec.summable and self.plan.nbytes >= self.dense_nbytes:
            self._lay_out(named_codec("none"))

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the float32 payload."""
        return 4 * self.numel

    def matrix(self, flat: Tensor) -> Tensor:
        """`(numel,)` float32 to `(rows, chunk)`, outside the basis; may share memory with `flat`."""
        parts = [tile.cut(flat) for tile in self._tiles]
        pooled = flat if not self._tiles else torch.cat([flat[start:end] for start, end in self._pooled] or [flat[:0]])
        rows = self.plan.rows - sum(tile.rows for tile in self._tiles)
        tail = pad(pooled, (0, rows * self.plan.chunk - pooled.numel())).view(rows, self.plan.chunk)
        return torch.cat([*parts, tail]) if parts else tail

    def flat(self, matrix: Tensor) -> Tensor:
        """`(rows, chunk)` back to `(numel,)`, padding dropped."""
        if not self._tiles:
            return matrix.reshape(-1)[: self.numel]
        flat = matrix.new_empty(self.numel)
        row = 0
        for tile in self._tiles:
            tile.paste(matrix[row : row + tile.rows], flat)
            row += tile.rows
        pooled = matrix[row:].reshape(-1)
        taken = 0
        for start, end in self._pooled:
            flat[start:end] = pooled[taken : taken + end - start]
            taken += end - start
        return flat

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of `(numel,)` in the shapes of the tensors."""
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def split_matrix(self, matrix: Tensor) -> list[Tensor]:
        """1-D views of a contiguous `(rows, chunk)` matrix that belong to each tensor and together are all of it.

        Tiles belong to their tensor; pooled coefficients in order, the padding to the last pooled tensor.
        """
        everything, chunk = matrix.view(-1), self.plan.chunk
        views = [everything[:0]] * len(self.sizes)
        tiled = {tile.start: tile for tile in self._tiles}
        taken = 0
        starts = self._starts()
        for i, start in enumerate(starts):
            if start in tiled and self.sizes[i]:
                size = tiled[start].rows * chunk
                views[i] = everything[taken : taken + size]
                taken += size
        pooled = [i for i, start in enumerate(starts) if self.sizes[i] and start not in tiled]
        for i in pooled:
            end = everything.numel() if i == pooled[-1] else taken + self.sizes[i]
            views[i] = everything[taken:end]
            taken = end
        return views

    def _lay_out(self, codec: Codec) -> None:
        self._tiles, self._pooled = [], []
        chunk = codec.chunk or max(self.numel, 1)
        record = codec.plan(1, chunk).nbytes
        for shape, size, start in zip(self.shapes, self.sizes, self._starts(), strict=True):
            tile = _Tiled(start, shape[0], size // shape[0], codec.side) if codec.side and len(shape) > 1 and size else None
            if tile and tile.rows * chunk <= 2 * size and tile.rows * record < 4 * size:
                self._tiles.append(tile)
            elif size:
                self._pooled.append((start, start + size))
        pooled = sum(end - start for start, end in self._pooled)
        rows = sum(tile.rows for tile in self._tiles) + -(-pooled // chunk)
        self.plan: Plan = codec.plan(rows, chunk)

    def _starts(self) -> list[int]:
        starts, at = [], 0
        for size in self.sizes:
            starts.append(at)
            at += size
        return starts


def gather_flat(tensors: Sequence[Tensor]) -> Tensor:
    """A new `(numel,)` float32 vector of the tensors end to end (their local shards)."""
    if not tensors:
        return torch.zeros(0)
    return torch.cat([local(tensor).detach().reshape(-1).to(torch.float32) for tensor in tensors])
