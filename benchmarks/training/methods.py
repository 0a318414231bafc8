"""The methods under one interface: `loss(batch)` to differentiate, `step()`, `close()`; torch's and textbook ones beside thinwire's."""

import importlib
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from benchmarks.training.setting import Setting
from benchmarks.training.task import WEIGHT_DECAY, adamw
from examples.multiregion.model import GPT


class Method(ABC):
    """A way to train one replica among others; members are known from the torchrun environment, or from `group`."""

    opt: Optimizer

    def __init__(self, gpt: GPT) -> None:
        self.gpt = gpt

    def loss(self, batch: Tensor) -> Tensor:
        return self.gpt.loss(batch)

    def zero_grad(self) -> None:
        self.opt.zero_grad()

    @abstractmethod
    def step(self) -> None:
        """Update after `backward()`."""

    @abstractmethod
    def close(self) -> None:
        """Make the replicas identical and leave."""

    def ledger(self) -> dict[str, Any]:
        """What the method says it sent, empty for those that do not say."""
        return {}


class Alone(Method):
    """AdamW, nobody else."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__(gpt)
        self.opt = adamw(gpt)

    def step(self) -> None:
        self.opt.step()

    def close(self) -> None:
        pass


class DDP(Method):
    """torch's own DistributedDataParallel over gloo, float32."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__(gpt)
        dist.init_process_group("gloo")
        self._wrapped = DistributedDataParallel(_LossOf(gpt))
        self.opt = adamw(gpt)

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self._wrapped(batch)
        return loss

    def step(self) -> None:
        self.opt.step()

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


class _LossOf(torch.nn.Module):
    """DDP synchronises what its `forward` computes."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, batch: Tensor) -> Tensor:
        return self.gpt.loss(batch)


class Textbook(Method):
    """DiLoCo as printed (arXiv:2311.08105, alg. 1), one flat float32 all-reduce a round: the yardstick, sharing no code with thinwire."""

    def __init__(self, gpt: GPT, *, sync_every: int, outer_lr: float, outer_momentum: float) -> None:
        super().__init__(gpt)
        dist.init_process_group("gloo")
        self.opt = adamw(gpt)
        self._anchor = [p.detach().clone() for p in gpt.parameters()]
        self._outer = torch.optim.SGD(
            [torch.nn.Parameter(a) for a in self._anchor], lr=outer_lr, momentum=outer_momentum, nesterov=outer_momentum > 0
        )
        self._sync_every, self._steps = sync_every, 0

    def step(self) -> None:
        self.opt.step()
        self._steps += 1
        if self._steps % self._sync_every == 0:
            self._round()

    @torch.no_grad()
    def _round(self) -> None:
        local, anchor = list(self.gpt.parameters()), self._outer.param_groups[0]["params"]
        delta = torch.cat([(a - p).flatten() for a, p in zip(anchor, local, strict=True)])
        dist.all_reduce(delta)
        delta /= dist.get_world_size()
        for a, d in zip(anchor, delta.split([a.numel() for a in anchor]), strict=True):
            a.grad = d.view_as(a)
        self._outer.step()
        for a, p in zip(anchor, local, strict=True):
            p.copy_(a)

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


class DeMoReference(Method):
    """The authors' own code, `demo.py` of github.com/bloc97/DeMo, when a checkout of it is on PYTHONPATH (it needs einops)."""

    def __init__(self, gpt: GPT, *, lr: float) -> None:
        super().__init__(gpt)
        dist.init_process_group("gloo")
        self.opt = importlib.import_module("demo").DeMo(gpt.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)

    def step(self) -> None:
        self.opt.step()

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


class Thinwire(Method):
    """`thinwire.DiLoCo` around AdamW, or `thinwire.DeMo`."""

    def __init__(self, gpt: GPT, method: str, options: dict[str, Any], group: Any = None) -> None:
        super().__init__(gpt)
        import thinwire

        self.opt: thinwire.DiLoCo | thinwire.DeMo
        if method == "diloco":
            self.opt = thinwire.DiLoCo(adamw(gpt), group=group, **options)
        else:
            self.opt = thinwire.DeMo(gpt.parameters(), group=group, **({"weight_decay": WEIGHT_DECAY} | options))

    def step(self) -> None:
        self.opt.step()

    def close(self) -> None:
        self.opt.close()

    def ledger(self) -> dict[str, Any]:
        stats = self.opt.stats()
        return {
            "rounds": stats.rounds,
            "nothing_averaged": stats.nothing_averaged,
            "payload_sent": stats.payload_sent,
            "wire_sent": stats.wire_sent,
            "sync_s": {phase: round(seconds, 2) for phase, seconds in stats.seconds.items()},
        }


def build(setting: Setting, gpt: GPT, group: Any = None) -> Method:
    """The method of a setting around a model; unknown options are TypeErrors."""
    if setting.method == "alone":
        return Alone(gpt, **setting.options)
    if setting.method == "ddp":
        return DDP(gpt, **setting.options)
    if setting.method == "textbook":
        return Textbook(gpt, **setting.options)
    if setting.method == "demo-reference":
        return DeMoReference(gpt, **setting.options)
    return Thinwire(gpt, setting.method, setting.options, group)
