"""Whether the Triton kernels hold the bits of the C++ library, or of numpy where it was not built: payloads, residuals, decoded bytes.

Every codec is a job of its own, so that several processes compile and compare at a time. Rows of every kind of trouble with a residual
held, then tensors of odd shapes in a shorter float with an anchor; many random rows, as only then kernel programs compete for the device.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels import ours, trouble
from thinwire.comms import CODECS, BlockMax, Codec, Int4, Pack, chain
from thinwire.comms.recipes import codec as named
from thinwire.kernels import native, reference_entries, triton_check, triton_decode, triton_encode
from thinwire.kernels.finish import Finish, Out, Sgd, Step
from thinwire.kernels.native import Encoded
from thinwire.kernels.program import Program

TABLE = [
    *("dct-topk32-int8", "dct-blockmax64-vote", "blockmax64-sign", "topk32-fp32", "blockmax64-fp32"),
    *("int8", "int4", "fp4", "fp8", "sign"),
]
MADE = {"int8-stochastic": ours.STOCHASTIC, "blockmax16-int4-stochastic": chain(BlockMax(16), Int4(stochastic=77), Pack())}
OTHERS = [
    *("topk1-fp32", "topk7-int2", "topk2048-sign", "topk64-bf16", "topk31-vote", "topk4096-fp16", "blockmax256-int4", "blockmax128-vote"),
    *("dct32-topk16", "dct16-topk5-fp8", "dct8-blockmax16-int2", *MADE),
]
_ONE_NAME = {MADE.get(name) or named(name): name for name in [*OTHERS, *CODECS, *TABLE]}  # some codecs have several
NAMES = sorted(_ONE_NAME.values(), key=lambda name: "dct" not in name)  # tiles first: they compile longest
KINDS = ("ties", "specials", "normal", "zeros", "sparse", "denormal", "wide")
ODD = ((), (65, 130), (131,), (0, 4), (8, 3, 5, 5), (64, 64), (127, 3))
SMALL = ((), (17, 34), (31,), (0, 4), (8, 3, 2, 2), (8, 8), (15, 3))
TROUBLE = "rows of trouble"
UNTOLD = -1  # the place of a difference that is not in bytes


class Job(NamedTuple):
    """What one process compares: a codec, on how many kinds of rows, and how many random rows besides."""

    codec: str
    device: str
    kinds: int
    many: int  # 0: none
    corrupt: bool = False


Result = tuple[str, str, Tensor, Tensor]  # of which rows, what, as it must be, as it is


class Difference(NamedTuple):
    """Where two results part."""

    codec: str
    kind: str
    what: str
    place: int  # byte, from 0
    theirs: str
    ours: str

    def __str__(self) -> str:
        at = "" if self.place == UNTOLD else f" from byte {self.place} on"
        return f"{self.codec}, {self.kind}: {self.what} differs{at}: {self.theirs} expected, got {self.ours}"


def oracle() -> Any:
    """Who is right."""
    return native if native.available() else reference_entries


def compare(job: Job) -> tuple[str, int, list[Difference]]:
    """The codec, how many results were compared, and which of them differ; a kernel that fails counts as one."""
    torch.set_num_threads(2)
    differences, compared = [], 0
    try:
        with np.errstate(all="ignore"):
            for kind, what, wanted, got in _results(job):
                got = got.detach().cpu()
                if job.corrupt and not compared:
                    got.view(-1).view(torch.uint8)[got.nbytes // 2] ^= 1
                compared += 1
                differences += list(first_difference(job.codec, kind, what, wanted, got))
    except Exception as error:
        differences.append(Difference(job.codec, "all", "running at all", UNTOLD, "no error", f"{type(error).__name__}: {error}"[:400]))
    return job.codec, compared, differences


def first_difference(codec: str, kind: str, what: str, wanted: Tensor, got: Tensor) -> Iterator[Difference]:
    """None, or the first. Sums of squares are no part of an agreed number: their order is free."""
    if what == "sums":
        if not torch.allclose(got, wanted, rtol=1e-4, equal_nan=True):
            yield Difference(codec, kind, what, UNTOLD, str(wanted.tolist()), str(got.tolist()))
        return
    one, other = (part.contiguous().view(-1).view(torch.uint8) for part in (wanted, got))
    if one.shape != other.shape:
        yield Difference(codec, kind, f"the size of {what}", UNTOLD, str(one.numel()), str(other.numel()))
    elif not torch.equal(one, other):
        at = int((one != other).nonzero()[0])
        yield Difference(codec, kind, what, at, *(" ".join(f"{byte:02x}" for byte in part[at : at + 8].tolist()) for part in (one, other)))


def _results(job: Job) -> Iterator[Result]:
    codec = MADE.get(job.codec) or named(job.codec)
    yield from _troubled(job, codec)
    yield from _odd(job, codec, torch.float16 if len(job.codec) % 2 else torch.bfloat16)
    if job.many and native.available():
        yield from _many(job, codec)


def _troubled(job: Job, codec: Codec) -> Iterator[Result]:
    """A row of every kind."""
    kinds = KINDS[: job.kinds]
    chunk = codec.chunk or 777
    program = _program(codec, len(kinds), chunk)
    x = torch.cat([rows(kind, 1, chunk, 1) for kind in kinds])
    held = rows("wide", len(kinds), chunk, 2)
    held[-1] *= 2.0**-120  # underflows
    sources = list(x.view(len(x), program.side, -1)) if program.side else [x.view(-1)]
    found = yield from _encoded(job, TROUBLE, program, sources, held=held, decay=0.875, gain=0.3)
    sent = [found, *(_payload(program, rows(kind, len(kinds), chunk, seed)) for seed, kind in enumerate(("ties", "zeros")))]
    for contributors in (False, True) if program.select else (False,):
        yield from _decoded(job, TROUBLE, program, sent, sources, Out, contributors)
    yield from _checked(job, program, found)


def _odd(job: Job, codec: Codec, dtype: torch.dtype) -> Iterator[Result]:
    """Tensors that fill no rows, of a shorter float, against an anchor."""
    shapes = SMALL if (codec.chunk or 0) <= 64 else ODD
    program = _program(codec, rows_of(shapes, codec), codec.chunk or sum(map(numel, shapes)))
    kind = f"odd shapes of {str(dtype).removeprefix('torch.')}"
    sources = [_numbers("normal", shape, i).to(dtype) for i, shape in enumerate(shapes)]
    flat = torch.cat([_numbers("normal", shape, i + 50).view(-1) for i, shape in enumerate(shapes)])
    found = yield from _encoded(job, kind, program, sources, anchor=flat)
    targets = [source.to(torch.bfloat16) for source in sources]
    yield from _decoded(job, kind, program, [found], targets, lambda _: Step(0.01, 0.9, sign=True))
    if job.codec in ("int8", "blockmax64-sign", "dct-topk32-int8"):
        yield from _decoded(job, kind, program, [found] * 3, targets, lambda flat: Sgd(flat, 0.7, 0.9, nesterov=True, buffer=flat * 0.5))


def _many(job: Job, codec: Codec) -> Iterator[Result]:
    """Random rows, three times: what races seldom goes wrong, and then differently."""
    chunk = codec.chunk or 4096
    n = job.many // chunk
    program = _program(codec, n, chunk)
    x, held = rows("normal", n, chunk, 3), rows("normal", n, chunk, 4)
    sources = [x.view(-1, program.side) if program.side else x.view(-1)]
    for _ in range(3):
        found = yield from _encoded(job, "many rows", program, sources, held=held, decay=0.9)
        sent = [found, *(_payload(program, rows("normal", n, chunk, seed)) for seed in range(5, 8))]
        yield from _decoded(job, "many rows", program, sent, sources, Out, bool(program.select))


def _encoded(job: Job, kind: str, program: Program, sources: Sequence[Tensor], **options: Any) -> Any:
    """Yields what encoding gives; returns the payload that is right."""
    wanted: Encoded = oracle().encode(program, sources, **options)
    moved = {name: _moved(value, job) for name, value in options.items()}
    got = triton_encode.encode(program, [source.to(job.device) for source in sources], **moved)
    assert wanted.kept is not None
    assert got.kept is not None
    yield kind, "the payload", wanted.payload, got.payload
    yield kind, "the residual", wanted.kept, got.kept
    yield kind, "the count of bad numbers", wanted.stats[:1], got.stats[:1]
    if kind != TROUBLE:  # 2^100 squared is Inf in float32
        yield kind, "sums", wanted.stats[1:], got.stats[1:]
    return wanted.payload


def _decoded(
    job: Job, kind: str, program: Program, sent: Sequence[Tensor], like: Sequence[Tensor], make: Any, contributors: bool = False
) -> Iterator[Result]:
    """Yields what becomes of the targets, and of the flat state of the finish."""
    parts = []
    for device, decode in (("cpu", oracle().decode), (job.device, triton_decode.decode)):
        targets = [tensor.clone().to(device) for tensor in like]
        flat = torch.cat([_numbers("normal", tensor.shape, 9).view(-1) for tensor in like]).to(device)
        finish: Finish = make(flat)
        decode(program, [payload.to(device) for payload in sent], targets, finish, contributors=contributors)
        buffer = finish.buffer if isinstance(finish, Sgd) else None
        parts.append([*targets, flat, *([] if buffer is None else [buffer])])
    for wanted, got in zip(*parts, strict=True):
        yield f"{kind}, {len(sent)} members{', contributors' if contributors else ''}", "what is decoded", wanted, got


def _checked(job: Job, program: Program, payload: Tensor) -> Iterator[Result]:
    """Whether both find the same fault in a good payload and in bad ones."""
    generator = torch.Generator().manual_seed(8)
    for turn in range(4):
        bad = payload.clone()
        if turn:
            bad[int(torch.randint(bad.numel(), (), generator=generator))] ^= 1 << (turn + 3)
        found = (oracle().check(program, bad), triton_check.check(program, bad.to(job.device)))
        yield "a payload", "the first bad row", *(torch.tensor([row]) for row in found)


def rows(kind: str, n: int, chunk: int, seed: int) -> Tensor:
    """`(n, chunk)` of one kind of trouble."""
    return torch.from_numpy(trouble.rows(kind, n, chunk, seed))


def _numbers(kind: str, shape: Sequence[int], seed: int) -> Tensor:
    return rows(kind, 1, numel(shape), seed).view(tuple(shape))


def _payload(program: Program, x: Tensor) -> Tensor:
    payload: Tensor = oracle().encode(program, [x.view(-1, program.side) if program.side else x.view(-1)]).payload
    return payload


def _program(codec: Codec, n: int, chunk: int) -> Program:
    program = codec.plan(n, chunk).program
    assert program is not None, "all codecs here are fused"
    return program


def _moved(value: Any, job: Job) -> Any:
    return value.to(job.device) if isinstance(value, Tensor) else value


def numel(shape: Sequence[int]) -> int:
    return int(np.prod(shape))


def rows_of(shapes: Sequence[Sequence[int]], codec: Codec) -> int:
    """Of a fragment of these shapes: whole tiles, then everything else end to end."""
    side, tiled = codec.side or 0, 0
    for shape in shapes:
        height, width = native.sheet(shape)
        tiled += (height // side) * (width // side) if side and len(shape) > 1 else 0
    left = sum(map(numel, shapes)) - tiled * side**2
    return tiled + -(-left // (codec.chunk or left))
