"""What the tests of overlapped exchanges share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.optim.problem import adamw
from thinwire import DiLoCo

EVERY, OVERLAP = 4, 2
CODECS = ["none", "int8", "blockmax", "topk"]


def make(net: nn.Module, group: Any, codec: str = "blockmax", *, overlap: int = OVERLAP, **options: Any) -> DiLoCo:
    return DiLoCo(adamw(net), sync_every=EVERY, overlap=overlap, codec=codec, group=group, **options)


def anchor(opt: DiLoCo) -> Tensor:
    return torch.cat([replica.anchor for replica in opt._replicas])


def ours(opt: DiLoCo) -> list[Tensor]:
    """Copies of all that a failed round must not touch beside the weights: anchor, momentum, residual."""
    replica = opt._replicas[0]
    return [tensor.clone() for tensor in (replica.anchor, replica.momentum, replica.residual) if tensor is not None]


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
