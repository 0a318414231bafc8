"""How a value becomes a small integer. Scales have at most 16 significant bits, so code * scale is exact in float32."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.comms.codec import Coded, Fuse, Read, Spec, Stage, Values
from thinwire.kernels import vector
from thinwire.kernels.program import Value
from thinwire.kernels.reference import E2M1, E4M3, Tiny


def _as(value: Value) -> Fuse:
    return lambda stage, program, spec: program._replace(value=value, seed=getattr(stage, "stochastic", 0))


def _checked(coded: Coded) -> Tensor:
    assert coded.sound is not None, "unpacking sets sound"
    return coded.sound


@dataclass(frozen=True, repr=False)
class _Cast(Stage):
    """A value as a shorter (or the same) float; `bits` of IEEE pattern, no scale."""

    kind: ClassVar[str] = "quantise"
    bits: ClassVar[int]
    dtype: ClassVar[torch.dtype]

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, bits=self.bits, scale="none")

    def decode(self, y: Coded, spec: Spec) -> Read:
        values = y.codes.view(self.dtype).to(torch.float32)
        magnitude = values.abs()
        # What encoding never makes: NaN, Inf, beyond 2^100, denormal float32, and -0.
        sendable = (magnitude >= vector.SMALLEST) & (magnitude <= vector.LARGEST)
        sound = (sendable | (y.codes == 0)).all(1)
        return Read(Values(values, y.index), _checked(y) & sound)


@dataclass(frozen=True, repr=False)
class Float32(_Cast):
    """The value itself."""

    bits: ClassVar[int] = 32
    dtype: ClassVar[torch.dtype] = torch.float32
    summable: ClassVar[bool] = True
    fuse: ClassVar[Fuse | None] = _as(Value.FLOAT32)

    def encode(self, x: Values, spec: Spec) -> Coded:
        return Coded(x.values.contiguous().view(torch.int32), None, x.index)


@dataclass(frozen=True, repr=False)
class BFloat16(_Cast):
    """Rounded half to even to 8 significant bits."""

    bits: ClassVar[int] = 16
    dtype: ClassVar[torch.dtype] = torch.bfloat16
    fuse: ClassVar[Fuse | None] = _as(Value.BFLOAT16)

    def encode(self, x: Values, spec: Spec) -> Coded:
        return Coded(vector.to_bf16(x.values), None, x.index)


@dataclass(frozen=True, repr=False)
class Float16(_Cast):
    """Rounded half to even to 11 significant bits, clamped to +-65504."""

    bits: ClassVar[int] = 16
    dtype: ClassVar[torch.dtype] = torch.float16
    fuse: ClassVar[Fuse | None] = _as(Value.FLOAT16)

    def encode(self, x: Values, spec: Spec) -> Coded:
        return Coded(vector.to_fp16(x.values), None, x.index)


@dataclass(frozen=True, repr=False)
class _AbsMax(Stage):
    """round(value / scale) in two's complement, scale = the row's largest magnitude / qmax.

    `stochastic`: a seed, from 1 on, of rounding up or down at random so that the mean is right; 0 rounds to nearest. The random numbers
    follow from seed, scale, row and place, so every implementation has the same; what is kept is then exact to an ulp of the scale only.
    """

    kind: ClassVar[str] = "quantise"
    bits: ClassVar[int]
    stochastic: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.stochastic, int) or not 0 <= self.stochastic < 1 << 32:
            raise ValueError(f"{type(self).__name__} got stochastic={self.stochastic}; choose a seed from 1 to 2^32 - 1, or 0 for none")

    @property
    def qmax(self) -> int:
        return int((1 << (self.bits - 1)) - 1)

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, bits=self.bits, scale="row")

    def encode(self, x: Values, spec: Spec) -> Coded:
        scale = vector.absmax_scale(x.values, self.qmax)
        if self.stochastic:
            codes = vector.quantise_stochastic(x.values, scale, self.qmax, self.stochastic)
        else:
            codes = vector.quantise(x.values, scale, self.qmax)
        return Coded(codes.view(torch.uint8) & ((1 << self.bits) - 1), scale, x.index)

    def decode(self, y: Coded, spec: Spec) -> Read:
        assert y.scale is not None
        shift = 8 - self.bits
        codes = (y.codes << shift).view(torch.int8) >> shift
        # To nearest, the largest value of a row gets the largest code; at random, perhaps the one below. Others were not made by us.
        largest = _largest(codes.abs())
        most_negative = (codes == -self.qmax - 1).any(1)
        expected = torch.where(y.scale == 0, 0, self.qmax)
        as_made = (largest == expected) | ((largest == self.qmax - 1) & (y.scale != 0) & (self.stochastic > 0))
        sound = vector.sound_scale(y.scale, self.qmax) & as_made & ~most_negative
        return Read(Values(codes.to(torch.float32) * y.scale[:, None], y.index), _checked(y) & sound)

    def __repr__(self) -> str:
        return super().__repr__() if self.stochastic else f"{type(self).__name__}()"


def _largest(codes: Tensor) -> Tensor:
    return codes.amax(1) if codes.shape[1] else codes.new_zeros(codes.shape[0])


@dataclass(frozen=True, repr=False)
class Int8(_AbsMax):
    """-127..127."""

    bits: ClassVar[int] = 8
    fuse: ClassVar[Fuse | None] = _as(Value.INT8)


@dataclass(frozen=True, repr=False)
class Int4(_AbsMax):
    """-7..7, two to a byte."""

    bits: ClassVar[int] = 4
    fuse: ClassVar[Fuse | None] = _as(Value.INT4)


@dataclass(frozen=True, repr=False)
class Int2(_AbsMax):
    """-1, 0, 1, four to a byte."""

    bits: ClassVar[int] = 2
    fuse: ClassVar[Fuse | None] = _as(Value.INT2)


@dataclass(frozen=True, repr=False)
class _Tiny(Stage):
    """The nearest float of a few bits to value / scale, scale = the row's largest magnitude / the largest such float."""

    kind: ClassVar[str] = "quantise"
    bits: ClassVar[int]
    tiny: ClassVar[Tiny]

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, bits=self.bits, scale="row")

    def encode(self, x: Values, spec: Spec) -> Coded:
        scale = vector.absmax_scale(x.values, self.tiny.qmax)
        return Coded(vector.to_tiny(x.values, scale, self.tiny), scale, x.index)

    def decode(self, y: Coded, spec: Spec) -> Read:
        assert y.scale is not None
        # The largest value of a row gets the largest code; NaN would be above it, and -0 is never made.
        largest = _largest(y.codes & (self.tiny.sign - 1))
        expected = torch.where(y.scale == 0, 0, self.tiny.largest)
        sound = vector.sound_scale(y.scale, self.tiny.qmax) & (largest == expected) & (y.codes != self.tiny.sign).all(1)
        return Read(Values(vector.from_tiny(y.codes, self.tiny) * y.scale[:, None], y.index), _checked(y) & sound)


@dataclass(frozen=True, repr=False)
class FP8(_Tiny):
    """A sign, 4 bits of exponent, 3 of mantissa (e4m3): small values keep 4 significant bits, where `Int8` has none left."""

    bits: ClassVar[int] = 8
    tiny: ClassVar[Tiny] = E4M3
    fuse: ClassVar[Fuse | None] = _as(Value.FP8)


@dataclass(frozen=True, repr=False)
class FP4(_Tiny):
    """0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign (e2m1), two to a byte."""

    bits: ClassVar[int] = 4
    tiny: ClassVar[Tiny] = E2M1
    fuse: ClassVar[Fuse | None] = _as(Value.FP4)


@dataclass(frozen=True, repr=False)
class Sign(Stage):
    """One bit, set for negative values, and the row's mean magnitude as scale."""

    kind: ClassVar[str] = "quantise"
    fuse: ClassVar[Fuse | None] = _as(Value.SIGN)

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, bits=1, scale="row")

    def encode(self, x: Values, spec: Spec) -> Coded:
        scale = vector.mean_scale(x.values)
        return Coded(((x.values < 0) & (scale != 0)[:, None]).to(torch.uint8), scale, x.index)

    def decode(self, y: Coded, spec: Spec) -> Read:
        assert y.scale is not None
        sound = vector.sound_scale(y.scale, 1) & ((y.scale != 0) | (y.codes == 0).all(1))
        values = torch.where(y.codes.bool(), -y.scale[:, None], y.scale[:, None])
        return Read(Values(values, y.index), _checked(y) & sound)


@dataclass(frozen=True, repr=False)
class Vote(Stage):
    """One bit, +1 or -1, no scale: sums are whole numbers, so the sign of a sum is the same on every replica.

    Only for optimizers that move by a sign. A coefficient that has voted leaves the residual whole (as in Psyche's DisTrO). A row of zeros
    is sent as the first places with the signs of `_SILENT`, and such a record reads as no vote; that a row of numbers looks so has a chance
    of 2^-k, and below k = 32 a scale of 0 or 1 says instead whether the row votes.
    """

    kind: ClassVar[str] = "quantise"
    unitless: ClassVar[bool] = True
    fuse: ClassVar[Fuse | None] = _as(Value.VOTE)

    def plan(self, spec: Spec) -> Spec:
        return replace(spec, bits=1, scale="none" if spec.k >= _ENOUGH else "row")

    def encode(self, x: Values, spec: Spec) -> Coded:
        silent = (x.values == 0).all(1)
        codes = (x.values < 0).to(torch.uint8)
        if spec.scale == "row":
            return Coded(codes, (~silent).to(torch.float32), x.index)
        index = x.index
        if index is not None:
            index = torch.where(silent[:, None], _first_places(spec, index), index)
        return Coded(torch.where(silent[:, None], _silent_signs(spec, codes), codes), None, index)

    def decode(self, y: Coded, spec: Spec) -> Read:
        sound = _checked(y)
        if y.scale is not None:
            silent = y.scale == 0
            # Of a silent row only one record is sound, as everywhere.
            canonical = (y.codes == 0).all(1)
            if y.index is not None:
                canonical &= (y.index == _first_places(spec, y.index)).all(1)
            bits = y.scale.view(torch.int32)
            sound = sound & ((bits == _ONE) | ((bits == 0) & canonical))
        else:
            silent = (y.codes == _silent_signs(spec, y.codes)).all(1)
            if y.index is not None:
                silent &= (y.index == _first_places(spec, y.index)).all(1)
        votes = (~silent).to(torch.float32)[:, None]
        values = torch.where(y.codes.bool() & ~silent[:, None], -votes, votes)  # no -0: sums may start from a zero or from the first
        return Read(Values(values, y.index), sound)


_ENOUGH = 32  # signs: that many never look like _SILENT by chance
_SILENT = 0x9E3779B97F4A7C15  # bit j % 64 is the sign of coefficient j in a row that does not vote (the golden ratio: no pattern)
_ONE = 0x3F800000  # the bits of 1.0


def _silent_signs(spec: Spec, like: Tensor) -> Tensor:
    return like.new_tensor([_SILENT >> (j % 64) & 1 for j in range(spec.k)])


def _first_places(spec: Spec, like: Tensor) -> Tensor:
    """What selection gives for a row of zeros."""
    return torch.arange(spec.k, device=like.device) * (spec.block or 1)
