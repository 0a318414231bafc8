"""DiLoCo as printed: the yardstick, sharing no code with thinwire."""

import torch
import torch.distributed as dist

from benchmarks.training.methods.method import InProcessGroup
from benchmarks.training.task import adamw, outer_sgd
from examples.multiregion.model import GPT


class Textbook(InProcessGroup):
    """arXiv:2311.08105, alg. 1, one flat float32 all-reduce a round."""

    def __init__(self, gpt: GPT, *, sync_every: int, outer_lr: float, outer_momentum: float) -> None:
        super().__init__(gpt)
        self.opt = adamw(gpt)
        self._outer = outer_sgd([torch.nn.Parameter(p.detach().clone()) for p in gpt.parameters()], outer_lr, outer_momentum)
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
