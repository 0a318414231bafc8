"""Rows where every coefficient is sent: quantise and pack, back to float32, and the mean of several members."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.kernels import ours, peers
from benchmarks.kernels.operation import Lineup, Operation, Sizes
from benchmarks.kernels.peers import compiled
from benchmarks.kernels.pool import Pool, Slice
from thinwire.comms.codec import Codec

MEMBERS = 8


Ready = Callable[[Pool, Sizes], Lineup]


def _pack(codec: str | Codec, function: Callable[..., Any]) -> Ready:
    """Ours against `function` of a flat tensor, eager and compiled. Ours and the compiled one write into memory of `y`."""

    def lineup(pool: Pool, sizes: Sizes) -> Lineup:
        fused, block, blocks = compiled(peers.into(function)), function(torch.randn(peers.BLOCK))[0], sizes.dense // peers.BLOCK

        def compile_(s: Slice) -> Any:
            return fused(s.x, s.y.view(torch.uint8)[: blocks * block.nbytes].view(block.dtype).view(blocks, -1))

        contestants = {"torch.compile": compile_, "torch eager": lambda s: function(s.x)}
        if codec == "sign":
            contestants["np.packbits"] = lambda s: peers.packbits(s.x)
        return Lineup(pool.slices(sizes.dense), sizes.dense, ours.encode(codec, sizes.dense), contestants)

    return lineup


def _unpack(codec: str, pack: Callable[..., Any], eager: Callable[..., None], plain: Callable[..., None]) -> Ready:
    """Ours against `eager`, and against `plain` compiled; `pack` makes what these read."""

    def lineup(pool: Pool, sizes: Sizes) -> Lineup:
        start = torch.randn(sizes.dense)
        theirs, payloads = pack(start), ours.payloads(codec, [start])
        fused = compiled(plain)
        slices = pool.slices(sizes.dense, lambda: {"ours": payloads.clone().unbind(), "theirs": tuple(part.clone() for part in theirs)})
        contestants = {"torch.compile": lambda s: fused(*s.cargo["theirs"], s.y), "torch eager": lambda s: eager(*s.cargo["theirs"], s.y)}
        return Lineup(slices, sizes.dense, ours.decode(codec, sizes.dense), contestants)

    return lineup


def _reduce(pool: Pool, sizes: Sizes) -> Lineup:
    starts = [torch.randn(sizes.dense) for _ in range(MEMBERS)]
    payloads = ours.payloads("int8", starts)
    codes, scale = (torch.stack(parts) for parts in zip(*(peers.int8(start) for start in starts), strict=True))

    def cargo() -> dict[str, Any]:
        return {"ours": payloads.clone().unbind(), "theirs": (codes.clone(), scale.clone())}

    def theirs(function: Callable[..., None]) -> Callable[[Slice], None]:
        return lambda s: function(*s.cargo["theirs"], s.y)

    contestants = {"torch.compile": theirs(compiled(peers.reduce_int8)), "torch eager": theirs(peers.reduce_int8)}
    slices = pool.slices(sizes.dense, cargo, cargo_nbytes=codes.nbytes)
    return Lineup(slices, sizes.dense, ours.decode("int8", sizes.dense), contestants)


# Goals of the issue; those of fp8, stochastic rounding, int4 -> float32 and the mean are the design notes' (section 6).
OPERATIONS = [
    Operation("int8 quantise", _pack("int8", peers.int8), "read-sum", 1.5, {"torch.compile": 1.7, "torch eager": 8.0}, read=4, written=1),
    Operation("int4 pack", _pack("int4", peers.int4), "read-sum", 1.6, {"torch.compile": 6.0, "torch eager": None}, read=4, written=0.5),
    Operation("fp4 pack", _pack("fp4", peers.fp4), "read-sum", 1.6, {"torch.compile": 6.0, "torch eager": None}, read=4, written=0.5),
    Operation("fp8 pack", _pack("fp8", peers.fp8), "read-sum", 1.6, {"torch.compile": 1.7, "torch eager": None}, read=4, written=1),
    Operation(
        "sign pack",
        _pack("sign", peers.sign),
        "read-sum",
        1.3,
        {"np.packbits": 1.4, "torch.compile": None, "torch eager": None},
        read=4,
        written=0.125,
    ),
    Operation(
        "int8 stochastic",
        _pack(ours.STOCHASTIC, peers.int8_stochastic),
        "read-sum",
        1.8,
        {"torch.compile": None, "torch eager": None},
        read=4,
        written=1,
    ),
    Operation(
        "int8 to float32",
        _unpack("int8", peers.int8, peers.from_int8, peers.from_int8_compiled),
        "read-sum",
        1.15,
        {"torch.compile": 2.4, "torch eager": None},
        read=1,
        written=4,
    ),
    Operation(
        "int4 to float32",
        _unpack("int4", peers.int4, peers.from_int4, peers.from_int4),
        "read-sum",
        1.15,
        {"torch.compile": 2.4, "torch eager": None},
        read=0.5,
        written=4,
    ),
    Operation(f"mean of {MEMBERS} int8", _reduce, "lerp_", 1.1, {"torch.compile": 1.4, "torch eager": None}, read=MEMBERS, written=4),
]
