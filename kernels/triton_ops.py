"""Single steps of a chain in Triton, by themselves: the transform and the two selections, for tensors on a GPU."""

from dataclasses import replace

import torch
from torch import Tensor

from thinwire.kernels.program import Index, Program, Select, Value
from thinwire.kernels.triton_dct import SIDES, cosines, dct_kernel
from thinwire.kernels.triton_launch import launch
from thinwire.kernels.triton_select import select_kernel
from thinwire.kernels.triton_shape import LANES, shape_of


def dct_tiles(x: Tensor, side: int) -> Tensor:
    """`thinwire.kernels.dct.dct_tiles`, the same bits."""
    return _transform(x, side, back=False)


def idct_tiles(x: Tensor, side: int) -> Tensor:
    """`thinwire.kernels.dct.idct_tiles`, the same bits."""
    return _transform(x, side, back=True)


def top_k(x: Tensor, k: int) -> Tensor:
    """`(rows, k)` int16: ascending places of the k largest of each row by (|x| descending, place ascending)."""
    return _select(x, Select.TOP_K, k, 0)


def block_max(x: Tensor, block: int) -> Tensor:
    """`(rows, chunk / block)` int16: the place of the largest |x| of every block, the lowest of several."""
    return _select(x, Select.BLOCK_MAX, x.shape[1] // block, block)


def _transform(x: Tensor, side: int, *, back: bool) -> Tensor:
    if side not in SIDES or x.dim() != 2 or x.shape[1] != side * side or x.dtype != torch.float32:
        raise ValueError(
            f"the DCT takes (tiles, side * side) float32 with side one of {SIDES}, got {tuple(x.shape)} {x.dtype}, side {side}"
        )
    x, tiles = x.contiguous(), LANES // side
    out = torch.empty_like(x)
    launch(dct_kernel, -(-len(x) // tiles), x, out, cosines(x.device), len(x), n=side, tiles=tiles, back=back)
    return out


def _select(x: Tensor, select: Select, k: int, block: int) -> Tensor:
    rows, chunk = x.shape
    if x.dtype != torch.float32 or chunk & (chunk - 1) or not 8 <= chunk <= 16384 or not 1 <= k <= chunk:
        raise ValueError(f"selection takes (rows, 8 .. 16384) float32, rows a power of two, got {tuple(x.shape)} {x.dtype} and k={k}")
    shape = shape_of(Program(rows, chunk, 0, select, k, block, Value.FLOAT32, Index.BITMAP, 0, -(-chunk // 32) * 4 + 4 * k, 0))
    shape = replace(shape, index=0)
    places = torch.empty((rows, k), dtype=torch.int16, device=x.device)
    programs = -(-rows // shape.lines)
    sets = torch.empty(0 if block else programs * shape.lines * shape.width // 16, dtype=torch.int32, device=x.device)
    launch(select_kernel, programs, x.contiguous(), places, sets, rows, S=shape, warps=shape.warps)
    return places
