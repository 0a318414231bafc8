"""The fused rows: one step of a sender, one of a receiver; with two threads; with a state of denormal numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels import ours, peers
from benchmarks.kernels.demo import DECAY, LR, SIDE, TOP_K, DeMo, authors
from benchmarks.kernels.operation import PROBES, Lineup, Operation, Sizes
from benchmarks.kernels.peers import compiled
from benchmarks.kernels.pool import Pool, Slice

MEMBERS = 8
BLOCK = 64
KEEP = 1 - 1e-4  # weight decay
CODEC = f"dct-topk{TOP_K}-int8"
DENORMAL = 1e-40


def _send(codec: str, peer: Callable[..., Any]) -> Callable[[Pool, Sizes], Lineup]:
    """Ours against DeMo's encode, and against `peer(gradient, state)` compiled."""

    def lineup(pool: Pool, sizes: Sizes) -> Lineup:
        shape = (sizes.height, sizes.width)
        reference, fused = DeMo(torch.zeros(shape), authors()), compiled(peer)
        contestants = {
            "DeMo": lambda s: reference.encode(s.y.view(shape), s.x.view(shape)),
            "torch.compile": lambda s: fused(s.x.view(shape), s.y.view(-1, SIDE * SIDE)),
        }
        return Lineup(pool.slices(sizes.matrix, _state(sizes)), sizes.matrix, ours.step(codec, shape, decay=DECAY, gain=LR), contestants)

    return lineup


def _keep(pool: Pool, sizes: Sizes) -> Lineup:
    """A dense code with error feedback, ours against torch.compile."""
    fused, blocks = compiled(partial(peers.int8_kept, decay=DECAY)), sizes.matrix // peers.BLOCK

    def compile_(s: Slice) -> Any:
        codes = s.y.view(torch.int8)[: sizes.matrix].view(blocks, -1)
        return fused(s.x, s.cargo["held"], s.cargo["spare"], codes)

    step = ours.step("int8", (sizes.height, sizes.width), decay=DECAY, gain=1.0)
    return Lineup(pool.slices(sizes.matrix, _state(sizes)), sizes.matrix, step, {"torch.compile": compile_})


def _state(sizes: Sizes) -> Callable[[], dict[str, Tensor]]:
    """The state that ours reads and where the new one goes, in the memory that the optimizers give it."""
    numbers = torch.randn(sizes.matrix)

    def made() -> dict[str, Tensor]:
        held, spare = (ours.residual(sizes.matrix) for _ in range(2))
        held.copy_(numbers)
        return {"held": held, "spare": spare}

    return made


def _receive(*, check: bool) -> Callable[[Pool, Sizes], Lineup]:
    def lineup(pool: Pool, sizes: Sizes) -> Lineup:
        shape = (sizes.height, sizes.width)
        starts = [torch.randn(shape) for _ in range(MEMBERS)]
        reference, fused = DeMo(torch.zeros(shape), authors()), compiled(peers.decode_top_k)
        sent = [reference.encode(start.clone(), start) for start in starts]
        codes, index, scale = _stacked([peers.encode_top_k(start, _zeros(shape), DECAY, LR, TOP_K) for start in starts])
        payloads = ours.payloads(CODEC, starts)

        def cargo() -> dict[str, Any]:
            return {
                "ours": payloads.clone().unbind(),
                "DeMo": [one._replace(places=one.places.clone(), values=one.values.clone()) for one in sent],
                "torch.compile": (codes.clone(), index.clone(), scale.clone()),
            }

        contestants = {
            "DeMo": lambda s: reference.decode(s.y.view(shape), s.cargo["DeMo"]),
            "torch.compile": lambda s: fused(*s.cargo["torch.compile"], s.y.view(shape), LR, KEEP),
        }
        slices = pool.slices(sizes.matrix, cargo)
        return Lineup(slices, sizes.matrix, ours.receive(CODEC, shape, lr=LR, keep=KEEP, check=check), contestants)

    return lineup


def _zeros(shape: tuple[int, int]) -> Tensor:
    return torch.zeros(shape).view(-1, SIDE * SIDE)


def _stacked(sent: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(parts) for parts in zip(*sent, strict=True)]


def _taller(sizes: Sizes) -> Sizes:
    """Waking a thread takes some 50 us: a call of 2 ms would say more of that than of the kernels."""
    return sizes._replace(height=4 * sizes.height)


def _two_threads_send(pool: Pool, sizes: Sizes) -> Lineup:
    sizes = _taller(sizes)
    one, two = (ours.step(CODEC, (sizes.height, sizes.width), decay=DECAY, gain=LR, threads=threads) for threads in (1, 2))
    return Lineup(pool.slices(sizes.matrix, _state(sizes)), sizes.matrix, two, {"one thread": one})


def _two_threads_receive(pool: Pool, sizes: Sizes) -> Lineup:
    sizes = _taller(sizes)
    shape = (sizes.height, sizes.width)
    payloads = ours.payloads(CODEC, [torch.randn(shape) for _ in range(MEMBERS)])
    one, two = (ours.receive(CODEC, shape, lr=LR, keep=KEEP, check=False, threads=threads) for threads in (1, 2))
    return Lineup(pool.slices(sizes.matrix, lambda: {"ours": payloads.clone().unbind()}), sizes.matrix, two, {"one thread": one})


def _denormal(pool: Pool, sizes: Sizes) -> Lineup:
    """A state too small for normal numbers, as one that nothing was added to for long; beside it the step on a normal one, and torch."""
    step = ours.step(CODEC, (sizes.height, sizes.width), decay=DECAY, gain=LR)
    slices = pool.slices(sizes.matrix, _state(sizes))
    half = len(slices) // 2
    for normal, tiny in zip(slices[:half], slices[half:], strict=False):
        tiny.y.fill_(DENORMAL)
        tiny.cargo["held"].fill_(DENORMAL)
        normal.cargo["tiny"] = tiny
    contestants = {"a normal state": step, "mul_ of denormals": lambda s: PROBES["mul_"](s.cargo["tiny"])}
    return Lineup(slices[:half], sizes.matrix, lambda s: step(s.cargo["tiny"]), contestants)


# Bytes an element: a payload of 72 bytes, of 60 and of 56 for 4096, or of a byte an element.
OPERATIONS = [
    Operation(
        "fused encode",
        _send(CODEC, partial(peers.encode_top_k, decay=DECAY, gain=LR, k=TOP_K)),
        "lerp_",
        1.7,
        {"DeMo": 13.0, "torch.compile": 8.0},
        read=8,
        written=4 + 72 / 4096,
    ),
    Operation(
        "fused encode, block-max sign",
        _send(f"blockmax{BLOCK}-sign", partial(peers.encode_block_max, decay=DECAY, block=BLOCK)),
        "lerp_",
        1.4,
        {"DeMo": 15.0, "torch.compile": None},
        read=8,
        written=4 + 60 / 4096,
    ),
    Operation(
        "fused encode, DCT block-max vote",
        _send(f"dct-blockmax{BLOCK}-vote", partial(peers.encode_vote, decay=DECAY, gain=LR, block=BLOCK)),
        "lerp_",
        1.4,
        {"DeMo": 15.0, "torch.compile": None},
        read=8,
        written=4 + 56 / 4096,
    ),
    Operation("fused encode, int8", _keep, "lerp_", beats={"torch.compile": None}, read=8, written=5),
    *(
        Operation(
            f"fused decode, W={MEMBERS}{', checked' if check else ''}",
            _receive(check=check),
            "mul_",
            1.8,
            {"DeMo": 12.0, "torch.compile": 4.8},
            read=4 + MEMBERS * 72 / 4096,
            written=4,
        )
        for check in (False, True)
    ),
    Operation("fused encode, two threads", _two_threads_send, beats={"one thread": 1.8}, wall=True, alone=True),
    Operation("fused decode, two threads", _two_threads_receive, beats={"one thread": 1.8}, wall=True, alone=True),
    # A twentieth is what repetitions differ by.
    Operation(
        "fused encode, denormal state",
        _denormal,
        "lerp_",
        1.7,
        {"a normal state": 0.95, "mul_ of denormals": None},
        read=8,
        written=4,
        alone=True,
    ),
]
