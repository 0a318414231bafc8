"""Which rows of a payload an encoder can have made, in Triton: the rules of `thinwire.kernels.reference_record`, all rows at once."""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.program import Program
from thinwire.kernels.triton_launch import launch, payload_words
from thinwire.kernels.triton_quantise import FLOAT16, LARGEST, SIGN, SMALLEST, VOTE, ZERO_BLOCK, decode_values
from thinwire.kernels.triton_record import ELIAS_FANO, PLANES, read_bits, read_codes, read_place, read_scale, read_upper
from thinwire.kernels.triton_shape import shape_of

COEFFICIENTS = 512  # that a program reads, where a row has not more
NONE = tl.constexpr(1 << 30)


@triton.jit
def _padding(at, first: tl.constexpr, bits, valid):
    """`(rows, 1)` whether a bit is set behind the `bits` of the field that starts at word `first`."""
    some = valid & ((bits & 31) > 0)
    word = tl.load(at + first + (bits >> 5), mask=some, other=0).to(tl.uint32, bitcast=True)
    return (word >> (bits & 31).to(tl.uint32)) != 0


@triton.jit
def _wrong_places(places, at, valid, S: tl.constexpr):
    """`(rows,)` whether the places do not ascend below `chunk`, are too few or too many, or have padding that is set."""
    rows: tl.constexpr = at.shape[0]
    wrong = tl.zeros((rows,), tl.int32) > 0
    nothing = tl.zeros((rows, 1), tl.int32)
    if S.upper:
        wrong = (read_upper(places, at, valid, S) != S.k) | tl.reshape(_padding(at, S.upper_at, nothing + S.upper, valid), (rows,))
        tl.debug_barrier()
    if S.low:
        wrong = wrong | tl.reshape(_padding(at, S.low_at, nothing + S.k * S.low, valid), (rows,))
    if S.index == ELIAS_FANO or S.index == PLANES:
        i = tl.arange(0, S.many)[None, :]
        place = read_place(i, places, at, valid, S)
        before = tl.where(i > 0, read_place(i - 1, places, at, valid, S), -1)
        odd = (i < S.k) & ((place <= before) | (place >= S.chunk))
        wrong = wrong | (tl.max(odd.to(tl.int32), 1) > 0)
    return wrong


@triton.jit
def _wrong_scale(scale, most: tl.constexpr):
    """Whether a scale is neither 0 nor one of a row of numbers: at most 16 significant bits, in the range that absmax / most can take."""
    bits = scale.to(tl.int32, bitcast=True)
    fits = ((bits & 0xFF) == 0) & (scale * most >= ZERO_BLOCK) & (scale * most <= 2.0 * LARGEST)
    return (bits != 0) & (fits == 0)


@triton.jit
def _wrong_floats(code, scale, S: tl.constexpr):
    """Which codes are NaN, Inf, beyond 2^100, denormal in float32, or -0."""
    value = decode_values(code, scale, scale != scale, S)
    size = tl.abs(value)
    fits = (value.to(tl.int32, bitcast=True) == 0) | ((size >= SMALLEST) & (size <= LARGEST))
    if S.coded == FLOAT16:
        fits = fits & ((code & 0x7C00) != 0x7C00)
    return fits == 0


@triton.jit
def _wrong_values(code, scale, i, inside, places, at, valid, S: tl.constexpr):
    """`(rows,)` whether the codes are not those of a row with this scale. Codes are 0 where there are none."""
    number = code.to(tl.int32, bitcast=True)
    if S.coded == VOTE:
        if S.scale:
            some = inside & (number != 0)
            if S.sparse:
                some = some | (inside & (read_place(i, places, at, valid, S) != i * (S.block if S.block else 1)))
            silent = (scale.to(tl.int32, bitcast=True) == 0) & (tl.max(some.to(tl.int32), 1) == 0)
            wrong = (scale != 1.0) & (silent == 0)
        else:
            wrong = scale != 0.0
    elif S.coded == SIGN:
        wrong = _wrong_scale(scale, 1) | ((scale == 0.0) & (tl.max(number, 1) > 0))
    elif S.scale:
        top: tl.constexpr = 1 << (S.bits - 1)
        most: tl.constexpr = S.qmax if S.integer else top - 1 - (S.bits == 8)
        if S.integer:
            size = tl.abs((number << (32 - S.bits)) >> (32 - S.bits))
        else:
            size = tl.where(number == top, 2 * top, number & (top - 1))  # -0 is nobody's
        largest = tl.max(size, 1)
        least = tl.where(scale == 0.0, 0, most - (1 if S.seed else 0))
        wrong = _wrong_scale(scale, S.qmax) | (largest < least) | (largest > tl.where(scale == 0.0, 0, most))
    else:
        wrong = tl.max(_wrong_floats(code, scale, S).to(tl.int32), 1) > 0
    return wrong


@triton.jit(do_not_specialize=["total"])
def check_kernel(payload, places, found, total, S: tl.constexpr):
    """found[program] = the first number of the matrix that is in a row no encoder can have made, or one beyond all."""
    pid = tl.program_id(0).to(tl.int64)
    base = pid * (S.lines * S.chunk)
    line = tl.arange(0, S.lines)
    row = pid * S.lines + line
    count = tl.minimum(total - base, S.lines * S.chunk).to(tl.int32)
    here = line * S.chunk < count
    valid = here[:, None]
    room = tl.where(valid, count, 0) if S.flat else tl.where(valid, S.k, 0)
    at = payload + row[:, None] * S.record
    spots = places + row[:, None] * S.many
    i = tl.arange(0, S.many)[None, :]
    scale = read_scale(at, valid, S)
    wrong = tl.reshape(_padding(at, S.value_at, room * S.bits, valid), (S.lines,))
    if S.sparse:
        wrong = wrong | _wrong_places(spots, at, valid, S)
        code = read_bits(at, S.value_at, i, S.bits, i < room)
    else:
        code = read_codes(at, room, S)
    first = tl.min(tl.where(here & wrong, line * S.chunk, NONE), 0)
    if S.flat:
        numbers = tl.min(tl.where(_wrong_floats(code, scale, S), i, NONE), 1)
        first = tl.minimum(tl.where(first < NONE, count - 1, NONE), tl.min(numbers, 0))
    else:
        wrong = _wrong_values(code, scale, i, i < room, spots, at, valid, S)
        first = tl.minimum(first, tl.min(tl.where(here & wrong, line * S.chunk, NONE), 0))
    tl.store(found + pid, tl.where(first < NONE, base + first, 1 << 62))


def check(program: Program, payload: Tensor) -> int:
    """The first row of a payload that no encoder of this program can have made, or -1; waits for the device."""
    shape, words = shape_of(program), payload_words(program, payload)
    if not program.rows * program.chunk:
        return -1
    warps = shape.warps
    if shape.sparse:
        shape, warps = replace(shape, lines=max(COEFFICIENTS // shape.many, 1)), 4
    programs = -(-program.rows * program.chunk // (shape.lines * shape.chunk))
    places = torch.empty(programs * shape.lines * shape.many if shape.upper else 0, dtype=torch.int16, device=words.device)
    found = torch.empty(programs, dtype=torch.int64, device=words.device)
    launch(check_kernel, programs, words, places, found, program.rows * program.chunk, S=shape, warps=warps)
    number = int(found.min())
    return -1 if number == 1 << 62 else number // program.chunk
