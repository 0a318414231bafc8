"""Parameters seen as one flat float32 vector and as one `(rows, chunk)` matrix of whole rows.

    flat    (numel,)        the parameters end to end, in order: anchor, outer momentum and updates live here
    matrix  (rows, chunk)   what a codec works on; zero-padded, the padding is never stored in a parameter

Without tiles a matrix is the flat vector, padded at its end. With tiles of side s every tensor of two or more dimensions (as a matrix:
first dimension x the rest) gives its whole s x s tiles; the edges that fill no tile, and tensors of fewer dimensions, are pooled: laid end
to end in rows of s*s. So nothing is padded but the last row, and no divisor is ever searched: a prime side costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from thinwire.comms.codec import Codec, Plan
from thinwire.comms.recipes import codec as named_codec


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; to import that type would cost every `import thinwire` a quarter of a second."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a (possibly FSDP2-sharded) tensor that lives here."""
    shard: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor
    return shard


@dataclass(frozen=True)
class _Piece:
    """One tensor: `rows` whole tiles of a `(height, width)` sheet, and the edges around them."""

    start: int  # in the flat vector
    height: int
    width: int
    side: int  # of a tile; 0: no tiles, everything is pooled

    @property
    def grid(self) -> tuple[int, int]:
        return (self.height // self.side, self.width // self.side) if self.side else (0, 0)

    @property
    def rows(self) -> int:
        return prod(self.grid)

    @property
    def pooled(self) -> int:
        """Elements outside of tiles."""
        return self.height * self.width - self.rows * self.side**2

    def tiles(self, flat: Tensor) -> Tensor:
        """`(down, side, across, side)` view of the whole tiles."""
        (down, across), s = self.grid, self.side
        whole = self._sheet(flat)[: down * s, : across * s]
        return whole.view(down, s, across, s)  # splitting dimensions keeps a view a view

    def edges(self, flat: Tensor) -> list[Tensor]:
        """Views of what is pooled: right of the tiles, then below them; or the whole tensor."""
        if not self.rows:
            return [flat[self.start : self.start + self.height * self.width]]
        (down, across), sheet = self.grid, self._sheet(flat)
        return [sheet[: down * self.side, across * self.side :], sheet[down * self.side :]]

    def _sheet(self, flat: Tensor) -> Tensor:
        return flat[self.start : self.start + self.height * self.width].view(self.height, self.width)


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
        self._lay_out(codec)
        if not self.plan.codec.summable and self.plan.nbytes >= self.dense_nbytes:
            self._lay_out(named_codec("none"))

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the float32 payload."""
        return 4 * self.numel

    def matrix(self, flat: Tensor) -> Tensor:
        """`(numel,)` float32 to `(rows, chunk)`, outside the basis; may share memory with `flat`."""
        chunk = self.plan.chunk
        tiled = [piece for piece in self._pieces if piece.rows]
        pooled = torch.cat([edge.reshape(-1) for piece in self._pieces for edge in piece.edges(flat)]) if tiled else flat
        rows = self.plan.rows - sum(piece.rows for piece in tiled)
        tail = pad(pooled, (0, rows * chunk - pooled.numel())).view(rows, chunk)
        cut = [piece.tiles(flat).transpose(1, 2).reshape(piece.rows, chunk) for piece in tiled]
        return torch.cat([*cut, tail]) if cut else tail

    def flat(self, matrix: Tensor) -> Tensor:
        """`(rows, chunk)` back to `(numel,)`, padding dropped."""
        if not any(piece.rows for piece in self._pieces):
            return matrix.reshape(-1)[: self.numel]
        flat = matrix.new_empty(self.numel)
        pooled = matrix[sum(piece.rows for piece in self._pieces) :].reshape(-1)
        row = taken = 0
        for piece in self._pieces:
            if piece.rows:
                (down, across), s = piece.grid, piece.side
                piece.tiles(flat).copy_(matrix[row : row + piece.rows].view(down, across, s, s).transpose(1, 2))
                row += piece.rows
            for edge in piece.edges(flat):
                edge.copy_(pooled[taken : taken + edge.numel()].view(edge.shape))
                taken += edge.numel()
        return flat

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of `(numel,)` in the shapes of the tensors."""
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def split_matrix(self, matrix: Tensor) -> list[list[Tensor]]:
        """1-D views of a contiguous `(rows, chunk)` matrix: for each tensor its tiles and its part of the pool, together all of it.

        The padding at the end belongs to the last tensor with a part of the pool.
        """
        everything, chunk = matrix.view(-1), self.plan.chunk
        tile, pool = 0, chunk * sum(piece.rows for piece in self._pieces)
        last = max((i for i, piece in enumerate(self._pieces) if piece.pooled), default=-1)
        views = []
        for i, piece in enumerate(self._pieces):
            end = everything.numel() if i == last else pool + piece.pooled
            views.append([everything[tile : tile + piece.rows * chunk], everything[pool:end]])
            tile, pool = tile + piece.rows * chunk, end
        return views

    def _lay_out(self, codec: Codec) -> None:
        chunk = codec.chunk or max(self.numel, 1)
        self._pieces, start = [], 0
        for shape, size in zip(self.shapes, self.sizes, strict=True):
            sheet = (shape[0], size // shape[0]) if len(shape) > 1 and size else (1, size)
            self._pieces.append(_Piece(start, *sheet, side=codec.side if codec.side and len(shape) > 1 and size else 0))
            start += size
        tiled = sum(piece.rows for piece in self._pieces)
        pooled = sum(piece.pooled for piece in self._pieces)
        self.plan: Plan = codec.plan(tiled + -(-pooled // chunk), chunk)


def gather_flat(tensors: Sequence[Tensor]) -> Tensor:
    """A new `(numel,)` float32 vector of the tensors end to end (their local shards)."""
    if not tensors:
        return torch.zeros(0, dtype=torch.float32)
    return torch.cat([local(tensor).detach().reshape(-1).to(torch.float32) for tensor in tensors])
