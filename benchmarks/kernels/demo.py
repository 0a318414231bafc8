"""DeMo's encode and decode (arXiv:2411.19870): its authors' classes where a checkout is on PYTHONPATH, else the algorithm written here.

github.com/bloc97/DeMo has one file, `demo.py`, which needs einops: `PYTHONPATH=path/to/DeMo python -m benchmarks.kernels`.
"""

import importlib
from importlib.util import find_spec
from math import cos, pi, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

DECAY, LR, TOP_K, SIDE = 0.999, 1e-3, 32, 64


class Sent(NamedTuple):
    """What one worker sends: 64-bit places and float32 values, 96 bits a coefficient."""

    places: Tensor
    values: Tensor
    shape: Any  # of the coefficients
    total: int  # coefficients a tile


def authors() -> Any | None:
    """The authors' module, or None."""
    found = importlib.import_module("demo") if find_spec("demo") and find_spec("einops") else None
    return found if hasattr(found, "TransformDCT") else None


def label() -> str:
    """Whose code runs."""
    return "its authors' code (demo.py of github.com/bloc97/DeMo)" if authors() else "written here (no demo.py and einops on PYTHONPATH)"


class DeMo:
    """Encode and decode of one matrix, as in the authors' `step`: what it does before its all-gathers, and after them.

    `code` is `authors()`, or None for what is written below.
    """

    def __init__(self, like: Tensor, code: Any | None, *, lr: float = LR) -> None:
        self._lr = lr
        if code is None:
            self._transform: Any = Tiles(like)
            self._compress: Any = Largest()
        else:
            self._transform = code.TransformDCT([{"params": [torch.nn.Parameter(like)]}], SIDE)
            self._compress = code.CompressDCT()

    @torch.no_grad()
    def transform(self, x: Tensor) -> Tensor:
        """The 64 x 64 DCT alone."""
        made: Tensor = self._transform.encode(x)
        return made

    @torch.no_grad()
    def encode(self, delta: Tensor, gradient: Tensor) -> Sent:
        """Momentum, DCT, top-k, and what was sent taken off the momentum (in place)."""
        delta.mul_(DECAY)
        delta.add_(gradient, alpha=self._lr)
        sent = Sent(*self._compress.compress(self._transform.encode(delta), TOP_K))
        delta.sub_(self._transform.decode(self._compress.decompress(delta, sent.places, sent.values, sent.shape, sent.total)))
        return sent

    @torch.no_grad()
    def decode(self, weight: Tensor, sent: list[Sent]) -> None:
        """The mean over those that sent a coefficient, the inverse DCT, and a step by its sign (in place)."""
        places, values = [one.places for one in sent], [one.values for one in sent]
        mean = self._compress.batch_decompress(weight, places, values, sent[0].shape, sent[0].total)
        weight.add_(self._transform.decode(mean).sign_(), alpha=-self._lr)


def cosines(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix: row k, column i."""
    rows = [[sqrt((2 if k else 1) / n) * cos(pi * (2 * i + 1) * k / (2 * n)) for i in range(n)] for k in range(n)]
    return torch.tensor(rows)


class Tiles:
    """The 2-D DCT of 64 x 64 tiles by matrix products; a side that 64 does not divide is cut by its largest divisor below."""

    def __init__(self, like: Tensor) -> None:
        self._shape = like.shape
        self._height, self._width = (max(d for d in range(1, SIDE + 1) if side % d == 0) for side in like.shape)
        self._down, self._along = cosines(self._height).to(like.device), cosines(self._width).to(like.device)

    def encode(self, x: Tensor) -> Tensor:
        height, width = x.shape
        tiles = x.view(height // self._height, self._height, width // self._width, self._width).transpose(1, 2)
        return self._down @ tiles @ self._along.T

    def decode(self, coefficients: Tensor) -> Tensor:
        tiles = self._down.T @ coefficients @ self._along
        return tiles.transpose(1, 2).reshape(self._shape)


class Largest:
    """The k largest of a tile; in decoding the mean over the workers that sent a coefficient."""

    def compress(self, coefficients: Tensor, k: int) -> tuple[Tensor, Tensor, torch.Size, int]:
        flat = coefficients.flatten(2)
        index = flat.abs().topk(min(k, flat.shape[2]), sorted=False).indices
        return index, flat.gather(2, index), coefficients.shape, flat.shape[2]

    def decompress(self, like: Tensor, index: Tensor, value: Tensor, shape: torch.Size, total: int) -> Tensor:
        dense = like.new_zeros(*shape[:2], total)
        return dense.scatter_reduce_(2, index, value, "mean", include_self=False).view(shape)

    def batch_decompress(self, like: Tensor, index: list[Tensor], value: list[Tensor], shape: torch.Size, total: int) -> Tensor:
        return self.decompress(like, torch.cat(index, 2), torch.cat(value, 2), shape, total)
