"""Two processes that see what `thinwire run --region process` lets a script see."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.worlds import run_ranks
from thinwire import DiLoCo, LocalGroup
from thinwire.comms.region import PROCESS, apart


def run_regions(work: Callable[..., Any], *args: Any, n: int = 2, deadline_s: float = 180.0) -> list[Any]:
    """`work(rank, *args)` in `n` regions of one process each; results in their order."""
    return run_ranks(n, _in_region, work, n, args, deadline_s=deadline_s)


def _in_region(rank: int, work: Callable[..., Any], n: int, args: tuple[Any, ...]) -> Any:
    alike = {"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "ROLE_RANK": str(rank), "ROLE_WORLD_SIZE": str(n), "TORCHELASTIC_RUN_ID": "test"}
    made = apart(os.environ | alike, PROCESS)
    for name in set(os.environ) - set(made):
        del os.environ[name]
    os.environ.update(made)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return work(rank, *args)


def whole(value: Tensor) -> Tensor:
    """All shards of a tensor."""
    full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach()


def weights(net: torch.nn.Module) -> str:
    """A hash of every bit of them."""
    told = hashlib.sha256()
    for p in net.parameters():
        told.update(whole(p).contiguous().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


def alone(inner: torch.optim.Optimizer) -> DiLoCo:
    """The limit in which it is the plain optimizer: a round every step, lossless, and nobody else."""
    return DiLoCo(inner, sync_every=1, codec="none", group=LocalGroup.world(1)[0])


def member(inner: torch.optim.Optimizer) -> DiLoCo:
    """One of the regions."""
    return DiLoCo(inner, sync_every=3)


def check(first: dict[str, str], second: dict[str, str]) -> None:
    """What each cell of the matrix promises, of the runs of two regions."""
    for each in (first, second):
        assert each["alone"] == each["plain"], "alone it is the plain optimizer, bit for bit"
        assert each["resumed"] == each["whole"], "resuming in a window is the same as never having stopped"
    assert first["plain"] != second["plain"], "regions have other data"
    assert first["members"] == second["members"], "members end with the same bits"
