"""Rows of the DCT alone and of the selection alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.kernels import ours, peers
from benchmarks.kernels.demo import DeMo, authors
from benchmarks.kernels.operation import Lineup, Operation, Sizes
from benchmarks.kernels.peers import compiled
from benchmarks.kernels.pool import Pool

CHUNK = 4096


def _rows(pool: Pool, sizes: Sizes) -> Lineup:
    return Lineup(pool.slices(sizes.matrix), sizes.matrix, ours.dct_rows, {"matmul": lambda s: peers.dct_rows(s.x, s.y)})


def _tiles(pool: Pool, sizes: Sizes) -> Lineup:
    shape = (sizes.height, sizes.width)
    reference = DeMo(torch.zeros(shape), authors())
    contestants = {"matmul": lambda s: peers.dct_tiles(s.x, s.y), "DeMo": lambda s: reference.transform(s.x.view(shape))}
    return Lineup(pool.slices(sizes.matrix), sizes.matrix, ours.dct_tiles, contestants)


def _top_k(k: int) -> Callable[[Pool, Sizes], Lineup]:
    def lineup(pool: Pool, sizes: Sizes) -> Lineup:
        contestants: dict[str, Any] = {
            "torch.topk": lambda s: peers.top_k(s.x, k, CHUNK),
            "np.argpartition": lambda s: peers.argpartition(s.x, k, CHUNK),
        }
        return Lineup(pool.slices(sizes.matrix), sizes.matrix, ours.encode(f"topk{k}-fp32", sizes.matrix), contestants)

    return lineup


def _block_max(pool: Pool, sizes: Sizes) -> Lineup:
    eager = partial(peers.block_max, block=64)
    fused = compiled(eager)
    contestants = {"torch.compile": lambda s: fused(s.x), "torch eager": lambda s: eager(s.x)}
    return Lineup(pool.slices(sizes.matrix), sizes.matrix, ours.encode("blockmax64-fp32", sizes.matrix), contestants)


def _sent(k: int) -> float:
    """Bytes of float32 values and 9 bits of index, an element."""
    return k * (4 + 9 / 8) / CHUNK


# The issue names no goal for 64 and 128 of 4096: those are the design notes'; none for the block maximum.
OPERATIONS = [
    Operation("DCT 64-point", _rows, "copy", 1.4, {"matmul": 2.4}, read=4, written=4),
    Operation("DCT 64 x 64", _tiles, "copy", 1.7, {"matmul": 3.5, "DeMo": None}, read=4, written=4),
    *(
        Operation(
            f"top-k {k} of {CHUNK}", _top_k(k), "read-sum", goal, {"torch.topk": 5.0, "np.argpartition": None}, read=4, written=_sent(k)
        )
        for k, goal in ((32, 2.0), (64, 4.0), (128, 4.0))
    ),
    Operation("block-max 64", _block_max, "read-sum", None, {"torch.compile": None, "torch eager": None}, read=4, written=_sent(64)),
]
