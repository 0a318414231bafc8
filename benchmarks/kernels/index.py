"""Rows of the index coding alone: millions of places a second, packed and read."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.kernels import ours
from benchmarks.kernels.operation import Lineup, Operation, Sizes
from benchmarks.kernels.pool import Pool

CHUNK = 4096
GOAL = 150.0  # million a second


def places(rows: int, k: int) -> Tensor:
    """`(rows, k)` ascending random places, uint16."""
    few = torch.rand(min(rows, 1024), CHUNK, generator=torch.Generator().manual_seed(0)).topk(k).indices.sort(1).values
    return few.repeat(-(-rows // len(few)), 1)[:rows].to(torch.uint16)


def _lineup(coding: str, k: int, *, unpack: bool) -> Callable[[Pool, Sizes], Lineup]:
    """What is coded is small and fits into a cache, as it does right after selection."""

    def lineup(pool: Pool, sizes: Sizes) -> Lineup:
        index = places(sizes.indices // k, k)
        packed = ours.pack_index(coding, index, CHUNK)
        run = (lambda _: ours.unpack_index(coding, packed, k, CHUNK)) if unpack else (lambda _: ours.pack_index(coding, index, CHUNK))
        return Lineup(pool.slices(sizes.matrix)[:1], index.numel(), run, {})

    return lineup


OPERATIONS = [
    Operation(f"{title} {verb}, {k} of {CHUNK}", _lineup(coding, k, unpack=verb == "unpack"), rate=GOAL, alone=True)
    for coding, title in (("elias-fano", "Elias-Fano"), ("rice", "Rice"))
    for k in (32, 64)
    for verb in ("pack", "unpack")
]
