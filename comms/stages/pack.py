"""The record of a row: scale, indices, values, each padded to 4 bytes and of fixed size (docs/wire-format.md)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.comms.codec import Coded, Spec, Stage
from thinwire.kernels import vector
from thinwire.kernels.program import Index, Program


@dataclass(frozen=True, repr=False)
class Pack(Stage):
    """Coded coefficients to bytes. Sorted indices go as the smallest of Elias-Fano, plain planes and a bitmap, chosen by the plan."""

    kind: ClassVar[str] = "pack"

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, record=_scale_nbytes(spec) + _index_nbytes(spec) + vector.packed_nbytes(spec.k, spec.bits))

    def encode(self, x: Coded, spec: Spec) -> Tensor:
        fields = []
        if spec.scale == "row":
            assert x.scale is not None
            fields.append(x.scale[:, None].contiguous().view(torch.uint8))
        if spec.index != "all":
            assert x.index is not None
            fields.append(_pack_index(x.index, spec))
        fields.append(_pack_values(x.codes, spec))
        return torch.cat(fields, 1)

    def decode(self, y: Tensor, spec: Spec) -> Coded:
        scale_end = _scale_nbytes(spec)
        index_end = scale_end + _index_nbytes(spec)
        codes, sound = _unpack_values(y[:, index_end:], spec)
        scale = None
        if spec.scale == "row":
            scale = y[:, :scale_end].contiguous().view(torch.float32)[:, 0]
        index = None
        if spec.index != "all":
            index, ordered = _unpack_index(y[:, scale_end:index_end], spec)
            sound = sound & ordered
        return Coded(codes, scale, index, sound)

    def fuse(self, program: Program, spec: Spec) -> Program:
        return program._replace(index=_index_coding(spec))


def _scale_nbytes(spec: Spec) -> int:
    return 0 if spec.scale == "none" else 4


def _index_coding(spec: Spec) -> Index:
    """How indices are coded: sorted ones in the fewest bytes; of equals the first of these."""
    if spec.index == "sorted":
        return min((Index.BITMAP, Index.ELIAS_FANO, Index.PLANES), key=lambda coding: _nbytes_of(coding, spec))
    return Index.OFFSETS if spec.index == "block" else Index.NONE


def _index_nbytes(spec: Spec) -> int:
    return _nbytes_of(_index_coding(spec), spec)


def _nbytes_of(coding: Index, spec: Spec) -> int:
    if coding in (Index.PLANES, Index.OFFSETS):
        return vector.packed_nbytes(spec.k * _planes(coding, spec), 1)
    if coding == Index.ELIAS_FANO:
        return vector.elias_fano_nbytes(spec.k, spec.chunk)
    return vector.packed_nbytes(spec.chunk, 1) if coding == Index.BITMAP else 0


def _planes(coding: Index, spec: Spec) -> int:
    """Bits of an index below the chunk, or of an offset below the block."""
    return ((spec.block if coding == Index.OFFSETS else spec.chunk) - 1).bit_length()


def _pack_index(index: Tensor, spec: Spec) -> Tensor:
    coding = _index_coding(spec)
    if coding == Index.OFFSETS:
        return vector.pack_planes(index & (spec.block - 1), _planes(coding, spec))
    if coding == Index.ELIAS_FANO:
        return vector.elias_fano(index, spec.chunk)
    return vector.pack_planes(index, _planes(coding, spec)) if coding == Index.PLANES else vector.bitmap(index, spec.chunk)


def _unpack_index(packed: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    coding = _index_coding(spec)
    if coding == Index.OFFSETS:
        offset, sound = vector.unpack_planes(packed, _planes(coding, spec), spec.k)
        return offset + torch.arange(0, spec.chunk, spec.block, device=packed.device), sound
    if coding == Index.ELIAS_FANO:
        return vector.unpack_elias_fano(packed, spec.k, spec.chunk)
    if coding == Index.PLANES:
        index, sound = vector.unpack_planes(packed, _planes(coding, spec), spec.k)
        return index, sound & (index[:, 1:] > index[:, :-1]).all(1) & (index < spec.chunk).all(1)
    bits, padded = vector.unpack_bits(packed, 1, spec.chunk)
    index, sound = vector.set_positions(bits, spec.k)
    return index, sound & padded


def _pack_values(codes: Tensor, spec: Spec) -> Tensor:
    if spec.bits <= 8:
        return vector.pack_bits(codes, spec.bits)
    raw = (
        codes.contiguous().view(torch.uint8).view(codes.shape[0], -1)
        if codes.numel()
        else codes.new_empty(codes.shape[0], 0, dtype=torch.uint8)
    )
    return torch.nn.functional.pad(raw, (0, -raw.shape[1] % 4))


def _unpack_values(packed: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    if spec.bits <= 8:
        return vector.unpack_bits(packed, spec.bits, spec.k)
    nbytes = spec.k * spec.bits // 8
    raw, padding = packed[:, :nbytes].contiguous(), packed[:, nbytes:]
    return raw.view(torch.int16 if spec.bits == 16 else torch.int32), (padding == 0).all(1)
