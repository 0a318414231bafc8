"""Residual, basis, selection, quantisation and packing of whole chains in one Triton kernel: one pass over the device's memory.

A kernel program takes `Shape.lines` rows and holds them in registers. The new residual is written before anything is selected; the few
coefficients that are sent are read back, quantised, and written again as what is left of them.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.native import Encoded
from thinwire.kernels.program import Program, Select
from thinwire.kernels.triton_dct import cosines, forward_2d
from thinwire.kernels.triton_launch import Sheets, check_size, launch, pool_of, sheets_of
from thinwire.kernels.triton_quantise import LARGEST_BITS, SMALLEST, VOTE, decode_values, encode_values, flush, magnitude_bits
from thinwire.kernels.triton_record import BITMAP, silent_rows, write_planes, write_scale, write_upper, write_values, write_words
from thinwire.kernels.triton_select import select
from thinwire.kernels.triton_shape import Shape, shape_of
from thinwire.kernels.triton_sheets import DTYPES, addresses, load_stretch, load_tiles

INFINITE = tl.constexpr(float("inf"))
PAYBACK = tl.constexpr(2.0**-100)  # what a vote on nothing leaves behind, with the other sign


@triton.jit
def left_of(whole, sent, S: tl.constexpr):
    """What is kept of coefficients that were sent; a vote counts as all of its coefficient."""
    if S.coded == VOTE:
        left = tl.where(sent == 0, whole, tl.where(whole == 0, sent * -PAYBACK, 0.0))
    else:
        left = whole - sent
    return left


@triton.jit
def clean(x):
    """x without what the wire cannot carry, how many numbers were NaN, Inf or above 2^100, and the sum of squares of the others.

    A bad number makes the sum of squares infinite or NaN: only then is each one looked at, and by other operations than `flush` uses, or
    the compiler would carry comparisons from there to here.
    """
    squares = tl.sum(x * x)
    wild = (squares < INFINITE) == 0
    bad = 0
    if wild:
        bad = -tl.sum((0 - magnitude_bits(x) + LARGEST_BITS) >> 31)
        x = flush(x)
        squares = tl.sum(x * x)
    else:
        x = tl.where(tl.abs(x) >= SMALLEST, x, 0.0)
    return x, bad, squares


@triton.jit
def send_some(row, valid, payload, kept, places, words, S: tl.constexpr):
    """Write the records of the coefficients at `places`, and what is left of them into `kept`; the sum of squares of that."""
    at = payload + row[:, None] * S.record
    spots = places + row[:, None] * S.k
    i = tl.arange(0, S.lanes)[None, :]
    mine = valid & (i < S.k)
    place = tl.load(spots + i, mask=mine, other=0).to(tl.int32)
    home = kept + row[:, None] * S.chunk + place
    whole = tl.load(home, mask=mine, other=0.0)
    tl.debug_barrier()  # several threads may hold one coefficient: all have read it before one writes
    value = flush(whole)
    scale = write_scale(value, at, valid, S)
    code = encode_values(value, i, row, scale, S)
    left = left_of(whole, decode_values(code, scale, silent_rows(code, place, i, scale, S), S), S)
    tl.store(home, left, mask=mine)
    if S.index == BITMAP:
        write_words(words, at, S.upper_at, S.upper_words, valid)
    write_upper(place, at, valid, S)
    write_planes(spots, at, valid, S)
    write_values(code, at, tl.where(valid, S.k, 0), S)
    return tl.sum(tl.where(mine, left * left, 0.0))


@triton.jit
def send_all(whole, value, row, room, payload, S: tl.constexpr):
    """Write the records of rows of which everything is sent, `room (rows, 1)` numbers of each; what is left of them. `value`: flushed."""
    at = payload + row[:, None] * S.record
    column = tl.arange(0, S.width)[None, :]
    scale = write_scale(value, at, room > 0, S)
    code = encode_values(value, column, row, scale, S)
    write_values(code, at, room, S)
    return left_of(whole, decode_values(code, scale, silent_rows(code, column, column, scale, S), S), S)


@triton.jit(do_not_specialize=["total", "numel", "decay", "gain"])
def encode_kernel(
    sheets, starts, first, tiles, widths, table, anchor, held, payload, kept, places, sets, stats, total, numel, decay, gain,
    S: tl.constexpr, dtype: tl.constexpr, even: tl.constexpr, code: tl.constexpr,
):  # fmt: skip
    """whole = held * decay + basis(source) * gain; payload = code(whole); kept = whole - what was sent.

    stats of a kernel program: numbers of the source that are NaN, Inf or above 2^100, sum of source^2, sum of kept^2.
    """
    pid = tl.program_id(0)
    base = pid.to(tl.int64) * (S.lines * S.chunk)
    line = tl.arange(0, S.lines)
    row = pid.to(tl.int64) * S.lines + line
    count = tl.minimum(total - base, S.lines * S.chunk).to(tl.int32)
    if S.flat and even:
        count = tl.multiple_of(count, 4)
    here = line * S.chunk < count
    valid = here[:, None]
    column = tl.arange(0, S.width)[None, :]
    at = line[:, None] * S.chunk + column
    inside = column < count if S.flat else valid & (column < S.chunk)
    if S.side:
        near = load_tiles(sheets, tiles, widths, anchor, row, here, False, S.side, dtype, even)
        far = load_tiles(sheets, tiles, widths, anchor, row, here, True, S.side, dtype, even)
        near, bad, squares = clean(near)
        far, more, others = clean(far)
        bad += more
        squares += others
        x = forward_2d(near, far, table, S.side)
    else:
        some = tl.minimum(numel - base, S.lines * S.chunk).to(tl.int32)
        s = tl.load(first + pid).to(tl.int64)
        x = load_stretch(sheets, starts, s, anchor, base, at, some, column < S.chunk, dtype, even)
        x, bad, squares = clean(x)
    whole = x if gain is None else x * gain
    if held is not None:
        whole = flush(tl.load(held + base + at, mask=inside, other=0.0)) * decay + whole
    # A source is clean, what was multiplied or added to may not be.
    value = whole if S.side == 0 and gain is None and held is None else flush(whole)
    if code and not S.sparse:
        whole = send_all(whole, value, row, tl.where(valid, count, 0) if S.flat else tl.where(valid, S.k, 0), payload, S)
    if kept is not None:
        tl.store(kept + base + at, whole, mask=inside)
    if code and S.sparse:
        mine = sets + pid.to(tl.int64) * (S.lines * S.width // 16)
        words, rest = select(magnitude_bits(value), places + row[:, None] * S.k, mine, valid, S)
        tl.debug_barrier()
        rest += send_some(row, valid, payload, kept, places, words, S)
    elif kept is not None:
        rest = tl.sum(tl.where(inside, whole * whole, 0.0))
    tl.store(stats + pid * 3, bad.to(tl.float64))
    tl.store(stats + pid * 3 + 1, squares.to(tl.float64))
    if kept is not None:
        tl.store(stats + pid * 3 + 2, rest.to(tl.float64))


def encode(
    program: Program,
    sources: Sequence[Tensor],
    *,
    anchor: Tensor | None = None,
    held: Tensor | None = None,
    decay: float = 1.0,
    gain: float = 1.0,
    state: bool = True,
    code: bool = True,
    kept: Tensor | None = None,
) -> Encoded:
    """`thinwire.kernels.native.encode` for tensors on a GPU, the same bits; `sources` are of one dtype or widened first.

    `kept` is memory for the new residual. Raises `ValueError` for a program or a layout that the kernels do not know.
    """
    shape = shape_of(program)
    device = next((part.device for part in (*sources, anchor, held) if part is not None), torch.device("cuda"))
    if len({source.dtype for source in sources}) > 1:
        sources = [source.to(torch.float32) for source in sources]
    found = sheets_of(program, shape, [source.contiguous() for source in sources], device)
    check_size("anchor", anchor, found.layout.numel, device)
    check_size("held", held, program.rows * program.chunk, device)
    held = None if decay == 0 else held
    payload = torch.empty(program.nbytes if code else 0, dtype=torch.uint8, device=device)
    check_size("kept", kept, program.rows * program.chunk, device)
    if not state:
        kept = None
    if kept is None and (state or shape.sparse or not code):
        kept = torch.empty((program.rows, program.chunk), dtype=torch.float32, device=device)
    places = torch.empty(program.rows * program.k if shape.sparse and code else 0, dtype=torch.int16, device=device)
    programs = -(-program.rows * program.chunk // (shape.lines * shape.chunk))
    words = programs * shape.lines * shape.width // 16 if program.select == Select.TOP_K and code else 0
    sets = torch.empty(words, dtype=torch.int32, device=device)
    stats = torch.zeros((programs, 3), dtype=torch.float64, device=device)
    where, anchors, pools = _where(found, shape, program, anchor, device)
    table, dtype = found.layout, DTYPES[found.tensors[0].dtype] if found.tensors else 0
    matrix = (payload.view(torch.int32), kept, places, sets, stats, program.rows * program.chunk, table.numel)
    launch(
        encode_kernel, programs, where, table.starts, table.first, table.tiles, table.widths, cosines(device), anchors, held, *matrix,
        decay, None if gain == 1.0 else gain, S=shape, dtype=dtype, even=found.even, code=code, warps=shape.warps,
        registers=_registers(shape, anchors),
    )  # fmt: skip
    del pools  # the launch has their addresses only
    return Encoded(payload, kept if state else None, stats.sum(0))


def _registers(shape: Shape, anchors: Tensor | None) -> int | None:
    """A thread's at most: large tiles do with 80, which triton 3.6 does not find by itself; with an anchor they would spill."""
    if shape.side != 64:
        return None
    return 80 if anchors is None else 96


def _where(
    found: Sheets, shape: Shape, program: Program, anchor: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Addresses of the sheets, with tiles also of the pool and of each one's part of the anchor (without, the anchor itself); the pools."""
    parts, table = found.tensors, found.layout
    if not shape.side or not parts:
        return addresses(parts, device), anchor, []
    room = -(-table.pooled // program.chunk) * program.chunk
    pools = [pool_of(parts, table, room, parts[0].dtype, device)]
    where = addresses([*pools, *parts], device)
    if anchor is None:
        return where, None, pools
    own = anchor.view(-1).split([tensor.numel() for tensor in parts])
    pools.append(pool_of(own, table, room, torch.float32, device))
    return where, addresses([pools[1], *own], device), pools
