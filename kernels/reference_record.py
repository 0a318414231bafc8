"""The specification of the record of a row, in numpy: selected coefficients to `scale | places | values`, and back."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thinwire.kernels import reference, reference_read
from thinwire.kernels.program import Index, Program, Value
from thinwire.kernels.reference import E2M1, E4M3, Bytes, Row
from thinwire.kernels.reference_read import Unsound, packed_nbytes, require

BITS = {
    Value.FLOAT32: 32,
    Value.BFLOAT16: 16,
    Value.FLOAT16: 16,
    Value.INT8: 8,
    Value.INT4: 4,
    Value.INT2: 2,
    Value.SIGN: 1,
    Value.VOTE: 1,
    Value.FP8: 8,
    Value.FP4: 4,
}
TINY = {Value.FP8: E4M3, Value.FP4: E2M1}
SILENT = 0x9E3779B97F4A7C15  # bit j % 64 is the sign of coefficient j in a row that does not vote


class Sent(NamedTuple):
    """The coefficients of a row that a record carries: `places` ascending, and their `values`."""

    places: reference.Index
    values: Row


class Coded(NamedTuple):
    """What the fields of a record are made of."""

    scale: np.float32
    codes: NDArray[Any]  # unsigned integers of BITS[value] bits


def pack_row(program: Program, sent: Sent, row: int) -> Bytes:
    """The record of row number `row`: three fields, each padded to 4 bytes."""
    coded = quantise(program, sent.values, row)
    scale = np.array([coded.scale][: program.scale], np.float32).view(np.uint8)
    return np.concatenate([scale, pack_places(program, sent.places), pack_values(program, coded.codes)])


def quantise(program: Program, values: Row, row: int) -> Coded:
    """Selected values to codes, and the row's scale where there is one."""
    kind, none = Value(program.value), np.float32(0)
    if kind == Value.FLOAT32:
        return Coded(none, values.view(np.uint32))
    if kind in (Value.BFLOAT16, Value.FLOAT16):
        return Coded(none, reference.to_bf16(values) if kind == Value.BFLOAT16 else reference.to_fp16(values))
    if kind == Value.SIGN:
        scale = reference.mean_scale(values)
        return Coded(scale, ((values < 0) & (scale != 0)).astype(np.uint8))
    if kind == Value.VOTE:
        silent = not values.any()
        signs = silent_signs(program) if silent and not program.scale else (values < 0).astype(np.uint8)
        return Coded(np.float32(not silent), signs)
    if kind in TINY:
        scale = reference.absmax_scale(values, TINY[kind].qmax)
        return Coded(scale, reference.to_tiny(values, scale, TINY[kind]))
    qmax = (1 << (BITS[kind] - 1)) - 1
    scale = reference.absmax_scale(values, qmax)
    if program.seed:
        codes = reference.quantise_stochastic(values, scale, qmax, program.seed, row)
    else:
        codes = reference.quantise(values, scale, qmax)
    return Coded(scale, codes.view(np.uint8) & ((1 << BITS[kind]) - 1))


def pack_places(program: Program, places: reference.Index) -> Bytes:
    """The index field of a record."""
    kind = Index(program.index)
    if kind == Index.ELIAS_FANO:
        return reference.elias_fano(places, program.chunk)
    if kind == Index.PLANES:
        return reference.pack_planes(places, _planes(program))
    if kind == Index.OFFSETS:
        return reference.pack_planes(places % program.block, _planes(program))
    return reference.bitmap(places, program.chunk) if kind == Index.BITMAP else np.zeros(0, np.uint8)


def pack_values(program: Program, codes: NDArray[Any]) -> Bytes:
    """The value field of a record."""
    bits = BITS[Value(program.value)]
    if bits <= 8:
        return reference.pack_bits(codes, bits)
    raw = codes.view(np.uint8)
    return np.pad(raw, (0, -raw.size % 4))


def sound_row(program: Program, record: Bytes) -> bool:
    """Whether an encoder can have made this record, whatever its bytes."""
    try:
        read_row(program, record)
    except Unsound:
        return False
    return True


def read_row(program: Program, record: Bytes) -> Sent:
    """The coefficients of a record; raises `Unsound` for one that no encoder can have made."""
    require(record.size == program.record, "the record has another length")
    index_start = 4 * program.scale
    values_start = record.size - packed_nbytes(program.k, BITS[Value(program.value)])
    scale = record[:index_start].copy().view(np.float32)[0] if program.scale else np.float32(0)
    places = unpack_places(program, record[index_start:values_start])
    with np.errstate(all="ignore"):
        codes = unpack_values(program, record[values_start:])
        return Sent(places, dequantise(program, scale, codes, places))


def unpack_places(program: Program, packed: Bytes) -> reference.Index:
    """The places of a record's index field."""
    kind = Index(program.index)
    if kind == Index.NONE:
        return np.arange(program.chunk)
    if kind == Index.OFFSETS:
        return reference_read.unpack_planes(packed, _planes(program), program.k) + first_places(program)
    if kind == Index.ELIAS_FANO:
        places = reference_read.unpack_elias_fano(packed, program.k, program.chunk)
    elif kind == Index.PLANES:
        places = reference_read.unpack_planes(packed, _planes(program), program.k)
    else:
        places = reference_read.unpack_bitmap(packed, program.k, program.chunk)
    reference_read.require_places(places, program.chunk)
    return places


def unpack_values(program: Program, packed: Bytes) -> NDArray[Any]:
    """The codes of a record's value field."""
    bits = BITS[Value(program.value)]
    if bits <= 8:
        return reference_read.unpack_bits(packed, bits, program.k)
    nbytes = program.k * bits // 8
    require(not packed[nbytes:].any(), "a padding bit is set")
    return packed[:nbytes].copy().view(np.uint16 if bits == 16 else np.uint32)


def dequantise(program: Program, scale: np.float32, codes: NDArray[Any], places: reference.Index) -> Row:
    """The values that codes stand for."""
    kind = Value(program.value)
    if kind in (Value.FLOAT32, Value.BFLOAT16, Value.FLOAT16):
        return _floats(kind, codes)
    if kind == Value.VOTE:
        return _votes(program, scale, codes, places)
    if kind == Value.SIGN:
        reference_read.require_scale(scale, 1)
        require(scale != 0 or not codes.any(), "a row of zeros has signs")
        return np.where(codes, -scale, scale).astype(np.float32)
    if kind in TINY:
        return _tinies(TINY[kind], scale, codes)
    return _integers(program, scale, codes)


def _floats(kind: Value, codes: NDArray[Any]) -> Row:
    if kind == Value.FLOAT16:
        values = codes.view(np.float16).astype(np.float32)
    else:
        values = (codes.astype(np.uint32) << (16 if kind == Value.BFLOAT16 else 0)).astype(np.uint32).view(np.float32)
    reference_read.require_floats(values)
    return values


def _integers(program: Program, scale: np.float32, codes: NDArray[np.uint8]) -> Row:
    bits = BITS[Value(program.value)]
    qmax = (1 << (bits - 1)) - 1
    reference_read.require_scale(scale, qmax)
    signed = codes.astype(np.int64) - np.where(codes >> (bits - 1), 1 << bits, 0)
    require((signed >= -qmax).all(), "a code is the most negative one")
    largest = int(np.abs(signed).max(initial=0))
    # Rounded to nearest the largest value of a row gets the largest code; rounded at random it may get the one below.
    least = 0 if scale == 0 else qmax - 1 if program.seed else qmax
    require(least <= largest <= (qmax if scale != 0 else 0), "the largest code of the row is not one that its scale gives")
    return (signed.astype(np.float32) * scale).astype(np.float32)


def _tinies(tiny: reference.Tiny, scale: np.float32, codes: NDArray[np.uint8]) -> Row:
    reference_read.require_scale(scale, tiny.qmax)
    largest = int((codes & (tiny.sign - 1)).max(initial=0))
    require(largest == (tiny.largest if scale != 0 else 0), "the largest code of the row is not one that its scale gives")
    require(not (codes == tiny.sign).any(), "a code is -0")
    return (reference.from_tiny(codes, tiny) * scale).astype(np.float32)


def _votes(program: Program, scale: np.float32, codes: NDArray[np.uint8], places: reference.Index) -> Row:
    first = (places == first_places(program)).all()
    if program.scale:
        silent = scale == 0
        canonical = bool(first) and not codes.any() and scale.view(np.uint32) == 0
        require(scale == 1 or canonical, "a row is neither of votes nor silent")
    else:
        silent = bool(first) and bool((codes == silent_signs(program)).all())
    return np.where(silent, 0, np.where(codes, -1, 1)).astype(np.float32)


def silent_signs(program: Program) -> NDArray[np.uint8]:
    """The sign bits of a row that does not vote."""
    return np.array([SILENT >> (j % 64) & 1 for j in range(program.k)], np.uint8)


def first_places(program: Program) -> reference.Index:
    """What selection gives for a row of zeros."""
    return np.arange(program.k) * (program.block or 1)


def _planes(program: Program) -> int:
    return ((program.block if program.index == Index.OFFSETS else program.chunk) - 1).bit_length()
