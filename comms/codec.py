"""The idea of the library in one file: a codec is a chain of stages over a `(rows, chunk)` matrix whose rows are independent.

    basis     Dense  -> Dense     a linear orthonormal change of coordinates            DCT
    select    Dense  -> Values    which coefficients of a row are sent                  All, TopK, BlockMax
    quantise  Values -> Coded     how a value becomes a small integer                   Float32 .. Int8 .. Sign, Vote
    pack      Coded  -> bytes     one record of fixed size a row                        Pack

`chain(DCT(), TopK(32), Int8(), Pack())` is a `Codec`; its repr builds it again. `codec.plan(rows)` knows every size before any data is
seen, and the decoder reads nothing from a payload but coefficients: bytes that no encoder of that plan can have made are a `WireError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from thinwire.comms.wire import WireError
from thinwire.kernels import vector
from thinwire.kernels.program import Program

KINDS = ("basis", "select", "quantise", "pack")
MIN_FUSED, MAX_FUSED = 8, 16384  # coefficients in a row that a fused kernel holds at once


@dataclass(frozen=True, eq=False)
class Values:
    """Selected coefficients: `values (rows, k)` float32, and `index (rows, k)` ascending within a row, or None when all are sent."""

    values: Tensor
    index: Tensor | None


class Read(NamedTuple):
    """What a quantise stage decodes: the coefficients, and `sound (rows,)` bool, False for rows that no encoder can have made."""

    coefficients: Values
    sound: Tensor


@dataclass(frozen=True, eq=False)
class Coded:
    """Quantised coefficients: raw `codes (rows, k)`, `scale (rows,)` float32 or None, `index`, `sound (rows,)` bool or None."""

    codes: Tensor
    scale: Tensor | None
    index: Tensor | None
    sound: Tensor | None = None  # set by unpacking


@dataclass(frozen=True)
class Spec:
    """What is known before any data is seen: the matrix, and what the stages so far make of a row."""

    rows: int
    chunk: int
    k: int = 0  # coefficients sent of a row
    index: str = "all"  # how indices are coded: "all" (none are), "sorted", or "block"
    block: int = 0  # coefficients per index when index == "block"
    bits: int = 0  # of one value
    scale: str = "none"  # "none", or "row": one float32 a row
    record: int = 0  # bytes of one row


Fuse = Callable[[Any, Program, Spec], Program | None]


@dataclass(frozen=True)
class Stage:
    """One step of a codec: a frozen dataclass of options with `plan`, `encode` and `decode`.

    `plan(spec)` returns what `encode` will produce and raises `ValueError` when the stage cannot follow; `encode` and `decode` map whole
    `(rows, ...)` tensors, never change their input, and get the spec that `plan` returned. `decode` of a quantise or pack stage sets
    `sound` to False for every row that `encode` can not have made. A select stage has a field `chunk`: coefficients in a row.

    A stage that the fused kernels know defines `fuse(program, spec)`: the program with itself added, or None. It is not inherited.
    """

    kind: ClassVar[str]
    summable: ClassVar[bool] = False  # payloads may be added in flight, in member order, as float32
    unitless: ClassVar[bool] = False  # decoded values say a direction, not how much of the residual was sent
    fuse: ClassVar[Fuse | None] = None

    def plan(self, spec: Spec) -> Spec:
        return spec

    def encode(self, x: Any, spec: Spec) -> Any:
        raise TypeError(f"{type(self).__name__} does not say how it encodes; define encode(self, x, spec)")

    def decode(self, y: Any, spec: Spec) -> Any:
        raise TypeError(f"{type(self).__name__} does not say how it decodes; define decode(self, y, spec)")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, repr=False)
class Codec:
    """A checked chain of stages; build it with `chain`."""

    stages: tuple[Stage, ...]

    @property
    def basis(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.kind == "basis")

    @property
    def select(self) -> Stage:
        return next(stage for stage in self.stages if stage.kind == "select")

    @property
    def side(self) -> int | None:
        """The side of the square tiles that matrices are cut into, or None when tensors are simply laid end to end."""
        return next((stage.side for stage in self.basis if hasattr(stage, "side")), None)

    @property
    def chunk(self) -> int | None:
        """Coefficients in a row, or None when a fragment is one row."""
        return self.side**2 if self.side else getattr(self.select, "chunk", None)

    @property
    def sparse(self) -> bool:
        """Whether only some coefficients are sent."""
        return self.plan(1).specs[-1].index != "all"

    @property
    def summable(self) -> bool:
        """Whether members may add payloads on the way (float32, everything sent, no basis)."""
        return not self.basis and not self.sparse and any(stage.summable for stage in self.stages)

    @property
    def unitless(self) -> bool:
        """Whether what is sent of a coefficient is all of it, whatever value it decodes to (votes)."""
        return any(stage.unitless for stage in self.stages)

    def plan(self, rows: int, chunk: int | None = None) -> Plan:
        """Sizes of everything for a `(rows, chunk)` matrix; raises `ValueError` when a stage cannot follow the one before."""
        return _plan(self, rows, chunk or self.chunk or 1)

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.stages))})"


@dataclass(frozen=True, repr=False)
class Plan:
    """A codec bound to a matrix: encodes and decodes payloads of exactly `nbytes`."""

    codec: Codec
    specs: tuple[Spec, ...]

    @property
    def rows(self) -> int:
        return self.specs[-1].rows

    @property
    def chunk(self) -> int:
        return self.specs[-1].chunk

    @property
    def nbytes(self) -> int:
        return self.rows * self.specs[-1].record

    @cached_property
    def program(self) -> Program | None:
        """The chain as the fused kernels know it, or None: a stage of the user's own, or rows too long or too odd for them."""
        last = self.specs[-1]
        if last.index != "all" and (self.chunk < MIN_FUSED or self.chunk & (self.chunk - 1)):
            return None
        if (last.index != "all" or last.scale != "none") and self.chunk > MAX_FUSED:
            return None
        row = int(last.scale == "row")
        program: Program | None = Program(self.rows, self.chunk, 0, 0, last.k, last.block, 0, 0, row, last.record, 0)
        for stage, spec in zip(self.codec.stages, self.specs, strict=True):
            fuse = vars(type(stage)).get("fuse")  # the class's own: a subclass may compute something else
            program = fuse(stage, program, spec) if fuse and program else None
        return program

    @property
    def coefficients(self) -> int:
        """How many coefficients one payload carries."""
        return self.rows * self.specs[-1].k

    def forward(self, x: Tensor) -> Tensor:
        """`(rows, chunk)` float32, freed of what the wire cannot carry, in the basis of the codec."""
        x = vector.flush(x)
        for stage, spec in self._of("basis"):
            x = stage.encode(x, spec)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`, by the same operations in the same order on every device."""
        for stage, spec in reversed(list(self._of("basis"))):
            x = stage.decode(x, spec)
        return x

    def encode(self, x: Tensor) -> Tensor:
        """`(nbytes,)` uint8 from a `(rows, chunk)` float32 matrix already in the basis; rows are independent, the result deterministic."""
        if x.shape != (self.rows, self.chunk) or x.dtype != torch.float32:
            raise ValueError(f"plan is for ({self.rows}, {self.chunk}) float32, got {tuple(x.shape)} {x.dtype}")
        y: Any = x
        for stage, spec in self._of("select", "quantise", "pack"):
            y = stage.encode(y, spec)
        payload: Tensor = y.reshape(-1)
        return payload

    def read(self, payload: Tensor) -> tuple[Values, Tensor]:
        """The coefficients of a payload of the right length, and for each row whether an encoder can have made it."""
        if payload.shape != (self.nbytes,) or payload.dtype != torch.uint8:
            raise WireError(f"payload is {tuple(payload.shape)} {payload.dtype}, expected ({self.nbytes},) uint8")
        if not payload.is_contiguous() or payload.storage_offset() % 4:  # fields are read as 32-bit words
            payload = payload.clone(memory_format=torch.contiguous_format)
        y: Any = payload.view(self.rows, self.specs[-1].record)
        for stage, spec in reversed(list(self._of("quantise", "pack"))):
            y = stage.decode(y, spec)
        return y.coefficients, y.sound

    def values(self, payload: Tensor) -> Values:
        """The coefficients of a payload. Raises `WireError` for any bytes that no encoder of this plan can have made."""
        values, sound = self.read(payload)
        if not bool(sound.all()):
            row = int((~sound).nonzero()[0])
            raise WireError(f"row {row} of {self.rows} is not one that {self.codec} can have sent")
        return values

    def decode(self, payload: Tensor) -> Tensor:
        """The `(rows, chunk)` float32 matrix, still in the basis. Raises `WireError`."""
        values = self.values(payload)
        return self.scatter(values)

    def scatter(self, values: Values) -> Tensor:
        """Coefficients put in their places in a `(rows, chunk)` matrix of zeros."""
        if values.index is None:
            return values.values
        dense = values.values.new_zeros((self.rows, self.chunk))
        return dense.scatter_(1, values.index, values.values)

    def _of(self, *kinds: str) -> Iterator[tuple[Stage, Spec]]:
        return ((stage, spec) for stage, spec in zip(self.codec.stages, self.specs, strict=True) if stage.kind in kinds)

    def __repr__(self) -> str:
        return f"Plan({self.codec}, rows={self.rows}, chunk={self.chunk}, nbytes={self.nbytes})"


def _plan(codec: Codec, rows: int, chunk: int) -> Plan:
    spec = Spec(rows=rows, chunk=chunk, k=chunk)
    specs = []
    for stage in codec.stages:
        spec = stage.plan(spec)
        specs.append(spec)
    return Plan(codec, tuple(specs))


def chain(*stages: Stage) -> Codec:
    """A codec from stages in the order basis*, select, quantise, pack.

    Raises `ValueError` when the order is wrong or a stage cannot follow the one before.

    >>> from thinwire.comms import BlockMax, Pack, Sign, chain
    >>> chain(BlockMax(64), Sign(), Pack()).plan(rows=100).nbytes
    6000
    """
    kinds = [stage.kind for stage in stages]
    wanted = [*("basis" for kind in kinds if kind == "basis"), *KINDS[1:]]
    if kinds != wanted:
        raise ValueError(f"chain got stages of kind {kinds}; the order is any basis, then one select, one quantise, one pack")
    codec = Codec(stages)
    codec.plan(1)
    return codec


CODECS: dict[str, Codec] = {}


def register(name: str, codec: Codec) -> Codec:
    """Give a codec a name that `DiLoCo(codec=name)`, the laws, the benchmarks and the command line know.

    Raises `ValueError` when the name is taken by another codec.
    """
    if CODECS.setdefault(name, codec) != codec:
        raise ValueError(f"codec name {name!r} is taken by {CODECS[name]}; choose another")
    return codec
