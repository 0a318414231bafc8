"""What is done with an update once it is decoded: the last stage of a fused decode, element by element, in unfused float32."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Out:
    """`out = u`: `(numel,)` float32."""

    out: Tensor


@dataclass(frozen=True)
class Step:
    """`w = w * keep; w = w - (sign(u) if sign else u) * lr`: weights in place, each statement rounded to their dtype."""

    lr: float
    keep: float = 1.0  # 1 - lr * weight_decay
    sign: bool = False


@dataclass(frozen=True, eq=False)
class Sgd:
    """`m = m * mu + u; g = u + m * mu if nesterov else m; anchor -= g * lr; w = anchor`: `anchor` and `buffer` are `(numel,)` float32.

    Without momentum g is u, and there is no buffer.
    """

    anchor: Tensor
    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False
    buffer: Tensor | None = None


Finish = Out | Step | Sgd


def apply(finish: Finish, update: Tensor, targets: Sequence[Tensor]) -> None:
    """Finish with a `(numel,)` float32 update by torch's own operations; each one rounds as torch does for the dtype of the target."""
    with torch.no_grad():
        if isinstance(finish, Out):
            finish.out.view(-1).copy_(update)
            return
        sizes = [target.numel() for target in targets]
        if isinstance(finish, Sgd):
            _sgd(finish, update)
            for target, part in zip(targets, finish.anchor.view(-1).split(sizes), strict=True):
                target.copy_(part.view(target.shape))
            return
        step = (update.sign() if finish.sign else update) * finish.lr
        for target, part in zip(targets, step.split(sizes), strict=True):
            if finish.keep != 1:
                target.mul_(finish.keep)
            target.sub_(part.view(target.shape))


def _sgd(finish: Sgd, update: Tensor) -> None:
    if finish.momentum:
        if finish.buffer is None:
            raise ValueError("Sgd with momentum needs a buffer")
        buffer = finish.buffer.view(-1).mul_(finish.momentum).add_(update)
        update = update + buffer * finish.momentum if finish.nesterov else buffer
    finish.anchor.view(-1).sub_(update if finish.lr == 1 else update * finish.lr)
