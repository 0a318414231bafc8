"""Where the numbers of a matrix lie in a fragment's tensors: tables made once a layout, and the address arithmetic of the kernels.

Without tiles the matrix is the tensors end to end: a kernel program goes over the tensors that its stretch meets, mostly one. With tiles of
side s every row is one s x s square of one sheet, read and written in place; what lies in no tile (the pool) is copied to and from a
buffer of its own by two small kernels, and is then a sheet like the others. Addresses and the distances of a tile's lines are int64.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.native import sheet
from thinwire.kernels.triton_dct import place

POOL = 512  # pooled numbers a kernel program takes
BFLOAT16 = tl.constexpr(1)
FLOAT16 = tl.constexpr(2)
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Run(NamedTuple):
    """A rectangle of a sheet in the pool: numbers `start ..` of it are `width` of every `stride`, from `offset` on in the sheet."""

    start: int
    sheet: int
    offset: int
    width: int
    stride: int
    flat: int  # the sheet's first number in the flat vector


class Layout(NamedTuple):
    """The tables of a layout on its device; `numel` numbers in all, `pooled` of them in no tile."""

    numel: int
    pooled: int
    starts: Tensor  # (sheets + 2,) int64: first number of each sheet in the flat vector; the end; beyond everything
    first: Tensor  # (programs,) int32: the sheet in which the stretch of a program starts; for tiles, the run of a program of the pool
    tiles: Tensor  # (rows, 2) int64: sheet and offset in it of every row; sheet 0 is the pool, then the tensors
    widths: Tensor  # (1 + sheets, 2) int64: numbers of a sheet's row, and its first number in the flat vector
    runs: Tensor  # (runs + 1, 6) int64: see Run


def layout(shapes: Sequence[torch.Size], side: int, stretch: int, device: torch.device) -> Layout:
    """Of tensors with numbers in them; `stretch` is how many numbers a program without tiles takes. Kept for the last layouts asked for."""
    return _layout(tuple(tuple(shape) for shape in shapes), side, stretch, str(device))


@lru_cache(maxsize=64)
def _layout(shapes: tuple[tuple[int, ...], ...], side: int, stretch: int, device: str) -> Layout:
    sheets = [sheet(shape) for shape in shapes]
    sides = [side if len(shape) > 1 else 0 for shape in shapes]
    numel = sum(height * width for height, width in sheets)
    starts = np.cumsum([0, *(height * width for height, width in sheets), 2**62])
    tiles: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    edges = []
    for i, ((height, width), own) in enumerate(zip(sheets, sides, strict=True)):
        down, across = (height // own, width // own) if own else (0, 0)
        if down * across:
            at = (np.arange(down)[:, None] * own * width + np.arange(across) * own).reshape(-1)
            tiles.append(np.stack([np.full_like(at, i + 1), at], 1))
        else:
            down = across = 0
        whole = (down * own, width - across * own), (height - down * own, width)
        corners = across * own, down * own * width
        edges += [(i, *size, corner, width) for size, corner in zip(whole, corners, strict=True) if size[0] * size[1]]
    runs, pooled = [], 0
    for i, height, width, corner, stride in edges if side else []:
        runs.append(Run(pooled, i, corner, width, stride, int(starts[i])))
        pooled += height * width
    rows = np.concatenate(tiles)
    if pooled:
        extra = np.arange(-(-pooled // side**2)) * side**2
        rows = np.concatenate([rows, np.stack([np.zeros_like(extra), extra], 1)])
    runs.append(Run(2**62, 0, 0, 1, 1, 0))
    if side:
        first = np.searchsorted([run.start for run in runs], np.arange(0, pooled, POOL), "right") - 1
    else:
        first = np.searchsorted(starts[:-1], np.arange(0, numel, stretch), "right") - 1
    widths = [(side, 0), *((width, start) for (_, width), start in zip(sheets, starts.tolist(), strict=False))]
    tables = (starts, first.astype(np.int32), rows, np.array(widths), np.array(runs))
    return Layout(numel, pooled, *(torch.from_numpy(np.ascontiguousarray(table)).to(device) for table in tables))


def addresses(tensors: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """The tensors' addresses as int64 on the device, 0 for None; the last sets are kept, as the same tensors come every round."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _addresses(tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors), str(device), stream)


@lru_cache(maxsize=256)
def _addresses(pointers: tuple[int, ...], device: str, stream: int) -> Tensor:
    """For kernels on this stream: the copy only queues there, as one from memory that is not pinned would wait for all before it."""
    made = torch.tensor(pointers, dtype=torch.int64)
    return made.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else made


def aligned(tensors: Sequence[Tensor], side: int) -> bool:
    """Whether all that kernels read and write in place lies at multiples of 16 bytes, so that they may move four words at a time."""
    per = max((16 // tensor.element_size() for tensor in tensors), default=4)
    start = 0
    for tensor in tensors:
        tiled = tensor.dim() > 1 and bool(side)
        strides = sheet(tensor.shape)[1] if tiled else tensor.numel()
        if (tiled or not side) and (tensor.data_ptr() % 16 or start % per or strides % per):
            return False
        start += tensor.numel()
    return True


@triton.jit
def typed(address, dtype: tl.constexpr, even: tl.constexpr):
    """int64 addresses, multiples of 16 if even, as pointers to numbers of a dtype; bfloat16 is read and written as its int16 bits."""
    if dtype == BFLOAT16:
        pointer = address.to(tl.pointer_type(tl.int16))
    elif dtype == FLOAT16:
        pointer = address.to(tl.pointer_type(tl.float16))
    else:
        pointer = address.to(tl.pointer_type(tl.float32))
    return tl.multiple_of(pointer, 16) if even else pointer


@triton.jit
def widened(pointer, mask, dtype: tl.constexpr):
    """The numbers at `pointer` as float32, exactly; 0 where masked."""
    if dtype == BFLOAT16:
        number = (tl.load(pointer, mask=mask, other=0).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif dtype == FLOAT16:
        number = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    else:
        number = tl.load(pointer, mask=mask, other=0.0)
    return number


@triton.jit
def stretch_of(sheets, starts, s, base, count, dtype: tl.constexpr, even: tl.constexpr):
    """Sheet s in the stretch of `count` numbers from `base` on: a pointer to add places of the stretch to, the first and the last of the
    sheet's (none where its address is 0), and where it ends."""
    begin = tl.load(starts + s) - base
    end = tl.load(starts + s + 1) - base
    address = tl.load(sheets + s)
    low = tl.maximum(begin, 0).to(tl.int32)
    high = tl.where(address == 0, 0, tl.minimum(end, count)).to(tl.int32)
    address -= begin * (4 if dtype == 0 else 2)
    if even:
        low = tl.multiple_of(low, 4)
        high = tl.multiple_of(high, 4)
    return typed(address, dtype, even), low, high, end


@triton.jit
def tiles_of(sheets, tiles, widths, row, valid, dtype: tl.constexpr, even: tl.constexpr):
    """For each row `(rows,)`: its sheet, its tile's offset in the sheet, how far apart the sheet's rows are, where the tile begins, and
    whether it is there (not where the sheet's address is 0)."""
    sheet = tl.load(tiles + 2 * row, mask=valid, other=0)
    offset = tl.load(tiles + 2 * row + 1, mask=valid, other=0)
    width = tl.load(widths + 2 * sheet)
    address = tl.load(sheets + sheet)
    there = valid & (address != 0)
    address += offset * (4 if dtype == 0 else 2)
    if even:
        offset = tl.multiple_of(offset, 4)
        width = tl.multiple_of(width, 4)
    return sheet, offset, width, typed(address, dtype, even), there


@triton.jit
def load_stretch(sheets, starts, s, anchor, base, at, count, valid, dtype: tl.constexpr, even: tl.constexpr):
    """x = source, or anchor - source, of the numbers `base + at` of the flat vector, from sheet s on; 0 behind the first `count`."""
    x = tl.zeros(at.shape, tl.float32)
    end = tl.load(starts + s) - base
    while end < count:
        pointer, low, high, end = stretch_of(sheets, starts, s, base, count, dtype, even)
        inside = valid & (at >= low) & (at < high)
        x = tl.where(inside, widened(pointer + at, inside, dtype), x)
        s += 1
    if anchor is not None:
        inside = valid & (at < count)
        x = tl.where(inside, tl.load(anchor + base + at, mask=inside, other=0.0) - x, 0.0)
    return x


@triton.jit
def load_tiles(sheets, tiles, widths, anchors, row, valid, far: tl.constexpr, side: tl.constexpr, dtype: tl.constexpr, even: tl.constexpr):
    """x = source, or anchor - source, of half of each tile, `(rows, side / 2, side)`: the near lines, or the far ones from the last on, the
    places in the order of `triton_dct.place`. `anchors`: addresses of the part of the anchor that belongs to each sheet."""
    sheet, offset, width, pointer, there = tiles_of(sheets, tiles, widths, row, valid, dtype, even)
    at = tile_lines(width, far, 0, side // 2, side)
    inside = there[:, None, None]
    x = widened(pointer[:, None, None] + at, inside, dtype)
    if anchors is not None:
        address = tl.load(anchors + sheet) + offset * 4
        x = tl.load(typed(address, 0, even)[:, None, None] + at, mask=inside, other=0.0) - x
    return x


@triton.jit
def tile_lines(width, far: tl.constexpr, first: tl.constexpr, count: tl.constexpr, side: tl.constexpr):
    """Distances from the first number of a tile, for some lines, in sheets whose rows are `width (rows,)` apart: see `load_tiles`."""
    line = first + tl.arange(0, count)
    if far:
        line = side - 1 - line
    return line[None, :, None].to(tl.int64) * width[:, None, None] + place(side)[None, None, :]


@triton.jit
def run_of(sheets, runs, r, q, pooled, dtype: tl.constexpr):
    """Run r of the pool: its sheet, the places in it of numbers q, which of q lie in the run (none where the sheet's address is 0), the
    sheet's flat start, and where the run ends."""
    start = tl.load(runs + 6 * r)
    width = tl.load(runs + 6 * r + 3)
    at = tl.load(runs + 6 * r + 2) + (q - start) // width * tl.load(runs + 6 * r + 4) + (q - start) % width
    end = tl.minimum(tl.load(runs + 6 * r + 6), pooled)
    address = tl.load(sheets + tl.load(runs + 6 * r + 1))
    inside = (q >= start) & (q < tl.where(address == 0, start, end))
    return typed(address, dtype, False), at, inside, tl.load(runs + 6 * r + 5), end


@triton.jit(do_not_specialize=["pooled", "room"])
def pool_kernel(sheets, runs, first, pool, pooled, room, size: tl.constexpr, dtype: tl.constexpr):
    """pool = the numbers of the sheets that lie in no tile, end to end, then zeros up to `room`; bits are copied."""
    base = tl.program_id(0).to(tl.int64) * size
    q = base + tl.arange(0, size)
    number = tl.zeros((size,), tl.int32).to(pool.dtype.element_ty)
    if base < pooled:
        r = tl.load(first + tl.program_id(0)).to(tl.int64)
        end = base
        while end < tl.minimum(base + size, pooled):
            pointer, at, inside, _, end = run_of(sheets, runs, r, q, pooled, dtype)
            number = tl.where(inside, tl.load(pointer + at, mask=inside, other=0).to(pool.dtype.element_ty), number)
            r += 1
    tl.store(pool + q, number, mask=q < room)
