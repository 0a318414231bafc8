"""Payloads of several members to an update in one Triton kernel: decode, sum in member order, divide, undo the basis, finish.

Where everything is sent, a program sums its rows in registers. Where some coefficients are, they are added one member after another in a
row of zeros that the program keeps in the device's cache, so that a program must take many rows, one after the other, and leave it zero.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.finish import Finish, Out, Sgd
from thinwire.kernels.program import Program
from thinwire.kernels.triton_dct import cosines, inverse_2d, lines_of
from thinwire.kernels.triton_finish import OUT, SGD, STEP, finish_pool_kernel, finish_stretch, finish_tiles
from thinwire.kernels.triton_launch import Residents, Sheets, check_size, launch, payload_words, sheets_of
from thinwire.kernels.triton_quantise import decode_values
from thinwire.kernels.triton_record import read_bits, read_codes, read_place, read_scale, read_upper, silent_rows
from thinwire.kernels.triton_shape import Shape, shape_of
from thinwire.kernels.triton_sheets import DTYPES, POOL, addresses

if not hasattr(tl.condition, "__bool__"):  # triton 3.6: its interpreter would loop for ever
    tl.condition.__bool__ = lambda self: bool(self.condition)


@triton.jit
def record_of(payloads, m, row, valid, S: tl.constexpr, together: tl.constexpr):
    """Pointers `(rows, 1)` to the first word of the records of these rows and members."""
    record = tl.load(payloads + m, mask=valid, other=0).to(tl.pointer_type(tl.int32))
    if together:
        record = tl.multiple_of(record, 16)
    return (record + row * S.record)[:, None]


@triton.jit
def sum_all(payloads, row, valid, room, S: tl.constexpr, members: tl.constexpr, together: tl.constexpr):
    """`(rows, width)` mean over members of records that carry every coefficient."""
    total = _read_all(payloads, 0, row, valid, room, S, together)
    for m in range(1, members):
        total += _read_all(payloads, m, row, valid, room, S, together)
    return mean_of(total, members)


@triton.jit
def mean_of(total, members: tl.constexpr):
    if members & (members - 1):
        total = tl.div_rn(total, tl.full(total.shape, members, tl.float32))
    elif members > 1:
        total = total * (1.0 / members)  # the same bits
    return total


@triton.jit
def _read_all(payloads, m, row, valid, room, S: tl.constexpr, together: tl.constexpr):
    column = tl.arange(0, S.width)[None, :]
    at = record_of(payloads, m, row, True, S, together)
    code, scale = read_codes(at, room, S), read_scale(at, valid, S)
    return decode_values(code, scale, silent_rows(code, column, column, scale, S), S)


# Below, records are read of a few members at a time: tensors are `(S.group * S.lines, S.many)`, member after member. `spots` holds which
# cells the members sent; `notes`, where each coefficient is divided by those who sent it, how many have, times 2^16, and the last that did.
# Several threads may hold one coefficient, so that a barrier stands between a read and the write that changes what was read.


@triton.jit
def members_of(first, here, spots, S: tl.constexpr, members: tl.constexpr):
    """Members from `first` on: the number of each row's, which coefficients there are, and where their cells are noted."""
    line = tl.arange(0, S.group * S.lines)
    i = tl.arange(0, S.many)[None, :]
    m = first + line // S.lines
    return m, (here & (m < members))[:, None] & (i < S.k), spots + (first * S.lines + line)[:, None] * S.many + i


@triton.jit
def add_some(payloads, row, here, sums, notes, spots, places, S: tl.constexpr, members: tl.constexpr, together: tl.constexpr):
    """Add the coefficients of every member to `sums`, in member order, and note them where there are `notes`."""
    line = tl.arange(0, S.group * S.lines)
    i = tl.arange(0, S.many)[None, :]
    positions = places + line[:, None] * S.many
    for first in range(0, members, S.group):
        m, mine, spot = members_of(first, here, spots, S, members)
        valid = here & (m < members)
        at = record_of(payloads, m, row, valid, S, together)
        if S.upper:
            read_upper(positions, at, valid[:, None], S)
            tl.debug_barrier()
        place = read_place(i, positions, at, valid[:, None], S) & (S.chunk - 1)  # in the row, whatever the payload
        code, scale = read_bits(at, S.value_at, i, S.bits, mine), read_scale(at, valid[:, None], S)
        value = decode_values(code, scale, silent_rows(code, place, i, scale, S), S)
        cell = (line % S.lines)[:, None] * S.width + place
        tl.store(spot, cell.to(tl.int16), mask=mine)
        for turn in range(S.group):
            now = mine & (line // S.lines == turn)[:, None]
            before = tl.load(sums + cell, mask=now, other=0.0)
            if notes is not None:
                note = tl.load(notes + cell, mask=now, other=0)
                tl.debug_barrier()
                tl.store(notes + cell, ((note & -65536) + 65536) | m[:, None], mask=now)
            else:
                tl.debug_barrier()
            tl.store(sums + cell, before + value, mask=now)
            tl.debug_barrier()


@triton.jit
def divide_some(here, sums, notes, spots, S: tl.constexpr, members: tl.constexpr):
    """Divide each coefficient in `sums` once by those that sent it: the last to come to it does."""
    for first in range(0, members, S.group):
        m, mine, spot = members_of(first, here, spots, S, members)
        cell = tl.load(spot, mask=mine, other=0).to(tl.int32)
        note = tl.load(notes + cell, mask=mine, other=0)
        total = tl.load(sums + cell, mask=mine, other=0.0)
        divisor = tl.maximum(note >> 16, 1).to(tl.float32)
        tl.debug_barrier()
        tl.store(sums + cell, tl.div_rn(total, divisor), mask=mine & ((note & 65535) == m[:, None]))


@triton.jit
def clear_some(here, sums, notes, spots, S: tl.constexpr, members: tl.constexpr):
    """Leave `sums` and `notes` zero for the next rows."""
    for first in range(0, members, S.group):
        _, mine, spot = members_of(first, here, spots, S, members)
        cell = tl.load(spot, mask=mine, other=0).to(tl.int32)
        tl.store(sums + cell, tl.zeros(cell.shape, tl.float32), mask=mine)
        if notes is not None:
            tl.store(notes + cell, tl.zeros_like(cell), mask=mine)


@triton.jit(do_not_specialize=["total", "numel", "stretches", "lr", "keep", "mu"])
def decode_kernel(
    payloads, sheets, starts, first, tiles, widths, table, pool, sums, notes, spots, anchor, buffer, total, numel, stretches, lr, keep, mu,
    S: tl.constexpr, members: tl.constexpr, kind: tl.constexpr, turn: tl.constexpr, dtype: tl.constexpr, even: tl.constexpr,
    together: tl.constexpr,
):  # fmt: skip
    """u = basis^-1(sum of the members' payloads / divisor), finished in place; stretch after stretch."""
    pid = tl.program_id(0)
    line = tl.arange(0, S.lines)
    column = tl.arange(0, S.width)[None, :]
    if S.sparse:
        sums += pid.to(tl.int64) * (S.lines * S.width)
        if notes is not None:
            notes += pid.to(tl.int64) * (S.lines * S.width)
        spots += pid.to(tl.int64) * ((members + S.group) * S.lines * S.many)
    parts: tl.constexpr = 2 if S.side == 64 else 1
    stretch = pid
    # What does not change from stretch to stretch is worked out each time: held in registers, it halves the programs that fit.
    while tl.condition(stretch < stretches, disable_licm=True):
        base = stretch.to(tl.int64) * (S.lines * S.chunk)
        row = stretch.to(tl.int64) * S.lines + line
        count = tl.minimum(total - base, S.lines * S.chunk).to(tl.int32)
        here = line * S.chunk < count
        valid = here[:, None]
        if S.sparse:
            own = tl.arange(0, S.group * S.lines) % S.lines
            several = own * S.chunk < count
            add_some(
                payloads, stretch.to(tl.int64) * S.lines + own, several, sums, notes, spots, spots + members * S.lines * S.many, S, members,
                together,
            )  # fmt: skip
            if notes is not None:
                divide_some(several, sums, notes, spots, S, members)
                tl.debug_barrier()
            u = tl.load(sums + line[:, None] * S.width + column)
            tl.debug_barrier()
            clear_some(several, sums, notes, spots, S, members)
            if notes is None:
                u = mean_of(u, members)
        else:
            u = sum_all(payloads, row, valid, tl.where(valid, count, 0) if S.flat else tl.where(valid, S.k, 0), S, members, together)
        if S.side:
            lines = inverse_2d(u, table, S.side)
            some: tl.constexpr = S.side // 2 // parts
            for p in tl.static_range(parts):
                near, far = lines_of(lines, table, p * some, some, S.lines, S.side)
                finish_tiles(
                    near, sheets, tiles, widths, row, here, pool, anchor, buffer, lr, keep, mu, False, p * some, kind, turn, dtype, even
                )  # fmt: skip
                finish_tiles(
                    far, sheets, tiles, widths, row, here, pool, anchor, buffer, lr, keep, mu, True, p * some, kind, turn, dtype, even
                )  # fmt: skip
        else:
            left = tl.minimum(numel - base, S.lines * S.chunk).to(tl.int32)
            s = tl.load(first + stretch).to(tl.int64)
            at = line[:, None] * S.chunk + column
            finish_stretch(
                u, sheets, starts, s, base, at, left, column < S.chunk, anchor, buffer, lr, keep, mu, kind, turn, dtype, even
            )  # fmt: skip
        tl.debug_barrier()
        stretch += tl.num_programs(0)


_RESIDENTS = Residents()


def decode(program: Program, payloads: Sequence[Tensor], targets: Sequence[Tensor], finish: Finish, *, contributors: bool = False) -> None:
    """`thinwire.kernels.native.decode` for tensors on a GPU, the same bits; targets may also be float16, of several dtypes, with strides.

    Raises `ValueError` for a program or a layout that the kernels do not know.
    """
    if not payloads:
        raise ValueError("decode got no payloads; a round in which nothing counts has no update")
    shape, device = shape_of(program), payloads[0].device
    words = [payload_words(program, payload) for payload in payloads]
    if isinstance(finish, Out):
        check_size("out", finish.out, sum(target.numel() for target in targets), device)
        parts = finish.out.view(-1).split([target.numel() for target in targets])
        targets = [part.view(target.shape) for part, target in zip(parts, targets, strict=True)]
    own = [target.contiguous() for target in targets]
    found = sheets_of(program, shape, own, device)
    if isinstance(finish, Sgd):
        check_size("anchor", finish.anchor, found.layout.numel, device)
        check_size("momentum buffer", finish.buffer, found.layout.numel, device)
    for dtype in DTYPES:
        if any(part.dtype == dtype for part in found.tensors):
            _decode(program, shape, words, found, dtype, _Terms.of(finish), contributors)
    for target, part in zip(targets, own, strict=True):
        if target is not part:
            target.copy_(part)


class _Terms(NamedTuple):
    """A finish as kernels take it."""

    kind: Any
    turn: bool
    lr: float = 1.0
    keep: float = 1.0
    mu: float = 0.0
    anchor: Tensor | None = None
    buffer: Tensor | None = None

    @staticmethod
    def of(finish: Finish) -> "_Terms":
        if isinstance(finish, Out):
            return _Terms(OUT.value, False)
        if isinstance(finish, Sgd):
            buffer = finish.buffer if finish.momentum else None
            return _Terms(SGD.value, finish.nesterov, finish.lr, 1.0, finish.momentum, finish.anchor, buffer)
        return _Terms(STEP.value, finish.sign, finish.lr, finish.keep)


def _decode(
    program: Program, shape: Shape, words: Sequence[Tensor], found: Sheets, dtype: torch.dtype, terms: _Terms, contributors: bool
) -> None:
    """One launch for the tensors of one dtype, and one for what of them lies in no tile."""
    device, table = words[0].device, found.layout
    parts = [part if part.dtype == dtype else None for part in found.tensors]
    stretches = -(-program.rows * program.chunk // (shape.lines * shape.chunk))
    constants = {
        "S": shape, "members": len(words), "kind": terms.kind, "turn": terms.turn, "dtype": DTYPES[dtype], "even": found.even,
        "together": all(payload.data_ptr() % 16 == 0 for payload in words),
    }  # fmt: skip
    noted = contributors and shape.sparse and len(words) > 1
    key = (noted, terms.buffer is None, *constants.values())
    programs = min(stretches, _RESIDENTS.on(device, key)) if shape.sparse else stretches
    lines = programs * shape.lines if shape.sparse else 0
    sums = torch.zeros(lines * shape.width, dtype=torch.float32, device=device)
    notes = torch.zeros(lines * shape.width, dtype=torch.int32, device=device) if noted else None
    spots = torch.empty(lines * shape.many * (len(words) + shape.group), dtype=torch.int16, device=device)
    pool = torch.empty(-(-table.pooled // program.chunk) * program.chunk, dtype=torch.float32, device=device)
    where = addresses([pool, *parts] if shape.side else parts, device)
    numbers = (terms.anchor, terms.buffer)
    compiled = launch(
        decode_kernel, programs, addresses(words, device), where, table.starts, table.first, table.tiles, table.widths, cosines(device),
        pool, sums, notes, spots, *numbers, program.rows * program.chunk, table.numel, stretches, terms.lr, terms.keep, terms.mu,
        warps=shape.warps, registers=_registers(shape, terms), **constants,
    )  # fmt: skip
    _RESIDENTS.note(device, key, compiled)
    launch(
        finish_pool_kernel, -(-table.pooled // POOL), pool, addresses(parts, device), table.runs, table.first, table.pooled, *numbers,
        terms.lr, terms.keep, terms.mu, size=POOL, kind=terms.kind, turn=terms.turn, dtype=DTYPES[dtype],
    )  # fmt: skip


def _registers(shape: Shape, terms: _Terms) -> int | None:
    """A thread's at most. Large tiles take up to 128 by themselves, but do with 96 without spilling: then five programs fit, not four."""
    if terms.kind == SGD.value or (shape.sparse and shape.many > 1024):
        return 128  # left alone it spills a few; so does below a dense one
    if shape.sparse:
        return 96 if shape.side == 64 else None
    return 64
