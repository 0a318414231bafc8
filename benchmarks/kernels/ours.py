"""Every call into thinwire, in one place: what an operation of the table is for the C++ library."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.kernels.operation import Contestant
from benchmarks.kernels.pool import Slice
from thinwire.comms.codec import Codec, Plan, chain
from thinwire.comms.recipes import codec as named
from thinwire.comms.stages.pack import Pack
from thinwire.comms.stages.quantise import Int8
from thinwire.comms.stages.select import All
from thinwire.kernels import native
from thinwire.kernels.finish import Out, Step
from thinwire.kernels.native import Encoded
from thinwire.kernels.program import Program
from thinwire.kernels.rice import rice_parameter

STOCHASTIC = chain(All(), Int8(stochastic=1), Pack())


def available() -> bool:
    """Whether the library was built."""
    return native.available()


def plan(codec: str | Codec, elements: int) -> Plan:
    """Of `elements` numbers in whole rows."""
    codec = named(codec)
    return codec.plan(elements // (codec.chunk or elements))


def payloads(codec: str, sources: Sequence[Tensor]) -> Tensor:
    """`(members, nbytes)`: what members send that hold `sources`."""
    made = []
    for source in sources:
        of = plan(codec, source.numel())
        made.append(of.encode(of.forward(source.view(of.rows, of.chunk))))
    return torch.stack(made)


def encode(codec: str | Codec, elements: int) -> Contestant:
    """A payload from numbers laid end to end, nothing held, into the memory of `y`."""
    program = _program(codec, elements)
    return lambda s: native.encode(program, [s.x], state=False, payload=s.y.view(torch.uint8)[: program.nbytes], threads=1)


def residual(numel: int) -> Tensor:
    """`(numel,)` float32 as the optimizers keep a state: in large pages, where the system has them."""
    return native.residual(1, numel).view(-1)


def step(codec: str, shape: tuple[int, int], *, decay: float, gain: float, threads: int = 1) -> Contestant:
    """A sender's step: `held` is the state it reads, the new one goes to `spare` (a round may fail, so never to the same place)."""
    program = _program(codec, shape[0] * shape[1])

    def run(s: Slice) -> Encoded:
        held, kept = (s.cargo[name].view(program.rows, program.chunk) for name in ("held", "spare"))
        return native.encode(program, [s.x.view(shape)], held=held, kept=kept, decay=decay, gain=gain, threads=threads)

    return run


def decode(codec: str, elements: int) -> Contestant:
    """The mean of members' payloads as flat float32 in `y`."""
    program = _program(codec, elements)
    return lambda s: native.decode(program, s.cargo["ours"], [s.y], Out(s.y), threads=1)


def receive(codec: str, shape: tuple[int, int], *, lr: float, keep: float, check: bool, threads: int = 1) -> Contestant:
    """A receiver's step: `y` are the weights, moved by the sign of the mean."""
    program, finish = _program(codec, shape[0] * shape[1]), Step(lr, keep, sign=True)

    def run(s: Slice) -> None:
        if check:
            for payload in s.cargo["ours"]:
                assert native.check(program, payload, threads=threads) == -1
        native.decode(program, s.cargo["ours"], [s.y.view(shape)], finish, threads=threads)

    return run


def dct_rows(s: Slice) -> Tensor:
    """64-point DCT of rows, into `y`."""
    return native.dct_rows(s.x.view(-1, 64), out=s.y.view(-1, 64), threads=1)


def dct_tiles(s: Slice) -> Tensor:
    """64 x 64 DCT of tiles that lie end to end, into `y`."""
    return native.dct_tiles(s.x.view(-1, 4096), 64, out=s.y.view(-1, 4096), threads=1)


def pack_index(coding: str, index: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """`(rows, k)` ascending places to bytes and the size of each row."""
    return native.pack_index(index, chunk, coding, rice=_rice(coding, index.shape[1], chunk))


def unpack_index(coding: str, packed: tuple[Tensor, Tensor], k: int, chunk: int) -> tuple[Tensor, int]:
    """Bytes back to places, checked."""
    return native.unpack_index(*packed, k, chunk, coding, rice=_rice(coding, k, chunk))


def _rice(coding: str, k: int, chunk: int) -> int:
    return rice_parameter(k, chunk) if coding == "rice" else 0


def _program(codec: str | Codec, elements: int) -> Program:
    program = plan(codec, elements).program
    assert program is not None, "the table has only codecs that are fused"
    return program
