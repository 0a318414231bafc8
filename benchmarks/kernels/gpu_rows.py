"""The rows of the GPU's table: what ours does, the bytes it must move, the goal, and what torch does for the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.kernels import ours, peers
from benchmarks.kernels.demo import DECAY, LR, SIDE, TOP_K, DeMo, authors
from benchmarks.kernels.peers import compiled
from thinwire.kernels import triton_check, triton_decode, triton_encode, triton_ops
from thinwire.kernels.finish import Finish, Out, Step
from thinwire.kernels.program import Program

MEMBERS, BLOCK, CHUNK, KEEP, WIDTH = 8, 64, SIDE * SIDE, 1 - 1e-4, 4096
CODEC = f"dct-topk{TOP_K}-int8"

Call = Callable[[], Any]


class Ready(NamedTuple):
    """A row made ready on a device: ours, and the others by name."""

    ours: Call
    peers: Mapping[str, Call]


@dataclass(frozen=True)
class Row:
    """`moved`: bytes a parameter that must be read or written; `goal`: ours takes at most so many times a copy of as many bytes."""

    name: str
    moved: float
    goal: float | None
    ready: Callable[[str, int], Ready] = field(repr=False)  # of a device and how many parameters


def _matrix(device: str, elements: int, seed: int = 0) -> Tensor:
    """Normal numbers in whole tiles."""
    width = min(WIDTH, elements // SIDE)
    return torch.randn((elements // width, width), device=device, generator=torch.Generator(device).manual_seed(seed))


def _program(codec: str, elements: int) -> Program:
    program = ours.plan(codec, elements).program
    assert program is not None, "all codecs here are fused"
    return program


def _both(function: Callable[..., Any], *args: Any) -> dict[str, Call]:
    """Eager and compiled."""
    return {"torch eager": partial(function, *args), "torch.compile": partial(compiled(function), *args)}


def _pack(codec: str, function: Callable[..., Any]) -> Callable[[str, int], Ready]:
    def ready(device: str, elements: int) -> Ready:
        x, program = _matrix(device, elements).view(-1), _program(codec, elements)
        return Ready(lambda: triton_encode.encode(program, [x], state=False), _both(function, x))

    return ready


def _unpack(device: str, elements: int) -> Ready:
    x, program = _matrix(device, elements).view(-1), _program("int8", elements)
    payload, (codes, scale) = triton_encode.encode(program, [x], state=False).payload, peers.int8(x)
    eager = partial(peers.from_int8, codes, scale, x)
    return Ready(
        lambda: triton_decode.decode(program, [payload], [x], Out(x)),
        {"torch eager": eager, "torch.compile": partial(compiled(peers.from_int8_compiled), codes, scale, x)},
    )


def _mean(device: str, elements: int) -> Ready:
    program, payloads, theirs = _program("int8", elements), [], []
    for member in range(MEMBERS):
        x = _matrix(device, elements, member).view(-1)
        payloads.append(triton_encode.encode(program, [x], state=False).payload)
        theirs.append(peers.int8(x))
    codes, scale = (torch.stack(parts) for parts in zip(*theirs, strict=True))
    return Ready(lambda: triton_decode.decode(program, payloads, [x], Out(x)), _both(peers.reduce_int8, codes, scale, x))


def _transform(device: str, elements: int) -> Ready:
    x = _matrix(device, elements)
    tiles, out, demo = x.view(-1, CHUNK), torch.empty_like(x), DeMo(x, authors())
    return Ready(
        lambda: triton_ops.dct_tiles(tiles, SIDE), {"matmul": lambda: peers.dct_tiles(tiles, out), "DeMo": lambda: demo.transform(x)}
    )


def _top_k(device: str, elements: int) -> Ready:
    x = _matrix(device, elements).view(-1, CHUNK)
    return Ready(lambda: triton_ops.top_k(x, TOP_K), {"torch.topk": partial(peers.top_k, x, TOP_K, CHUNK)})


def _block_max(device: str, elements: int) -> Ready:
    x = _matrix(device, elements).view(-1, CHUNK)
    return Ready(lambda: triton_ops.block_max(x, BLOCK), _both(peers.block_max, x, BLOCK))


def _send(codec: str, peer: Callable[..., Any], gain: float = LR) -> Callable[[str, int], Ready]:
    """A sender's step: DeMo's, and `peer(gradient, state)`."""

    def ready(device: str, elements: int) -> Ready:
        x, program = _matrix(device, elements), _program(codec, elements)
        held, kept = _matrix(device, elements, 1).view(-1, CHUNK), torch.empty((program.rows, CHUNK), device=device)
        state, delta = held.clone(), _matrix(device, elements, 1)
        demo = DeMo(x, authors())
        others = {"DeMo": lambda: demo.encode(delta, x), **_both(peer, x, state)}
        return Ready(lambda: triton_encode.encode(program, [x], held=held, kept=kept, decay=DECAY, gain=gain), others)

    return ready


def _receive(device: str, elements: int) -> Ready:
    weight, program, demo = _matrix(device, elements), _program(CODEC, elements), DeMo(_matrix(device, elements), authors())
    payloads, sent, theirs = [], [], []
    for member in range(MEMBERS):
        x = _matrix(device, elements, member)
        payloads.append(triton_encode.encode(program, [x]).payload)
        sent.append(demo.encode(x.clone(), x))
        theirs.append(peers.encode_top_k(x, torch.zeros_like(x).view(-1, CHUNK), DECAY, LR, TOP_K))
        del x
    codes, index, scale = (torch.stack(parts) for parts in zip(*theirs, strict=True))
    finish: Finish = Step(LR, KEEP, sign=True)
    others = {"DeMo": lambda: demo.decode(weight, sent), **_both(peers.decode_top_k, codes, index, scale, weight, LR, KEEP)}
    return Ready(lambda: triton_decode.decode(program, payloads, [weight], finish), others)


def _check(device: str, elements: int) -> Ready:
    program = _program(CODEC, elements)
    payloads = [triton_encode.encode(program, [_matrix(device, elements, member)]).payload for member in range(MEMBERS)]
    return Ready(lambda: [triton_check.check(program, payload) for payload in payloads], {})


# Bytes and goals are those of the design notes (sections 1 and 6); 2 for encode and decode and 1.25 for quantisers are the too.
ROWS = [
    Row("int8 quantise", 5, 1.25, _pack("int8", peers.int8)),
    Row("int4 pack", 4.5, 1.25, _pack("int4", peers.int4)),
    Row("fp4 pack", 4.5, 1.25, _pack("fp4", peers.fp4)),
    Row("fp8 pack", 5, 1.25, _pack("fp8", peers.fp8)),
    Row("sign pack", 4.125, 1.25, _pack("sign", peers.sign)),
    Row("int8 to float32", 5, 1.2, _unpack),
    Row("DCT 64 x 64", 8, 1.5, _transform),
    Row(f"top-k {TOP_K} of {CHUNK}", 4, 4, _top_k),
    Row(f"block-max {BLOCK}", 4, None, _block_max),
    Row("fused encode", 12, 2, _send(CODEC, partial(peers.encode_top_k, decay=DECAY, gain=LR, k=TOP_K))),
    Row(
        "fused encode, block-max sign",
        12,
        2,
        _send(f"blockmax{BLOCK}-sign", partial(peers.encode_block_max, decay=DECAY, block=BLOCK), 1.0),
    ),
    Row(
        "fused encode, DCT block-max vote",
        12,
        2,
        _send(f"dct-blockmax{BLOCK}-vote", partial(peers.encode_vote, decay=DECAY, gain=LR, block=BLOCK)),
    ),
    Row(f"fused decode, W={MEMBERS}", 8 + MEMBERS * 72 / CHUNK, 2, _receive),
    Row(f"mean of {MEMBERS} int8", MEMBERS + 4, 1.3, _mean),
    Row(f"check of {MEMBERS} payloads", MEMBERS * 72 / CHUNK, None, _check),
]
