"""The DeMo algorithm as printed: the yardstick for `thinwire.DeMo`, sharing no code with it."""

import torch
import torch.distributed as dist

from benchmarks.kernels import demo
from benchmarks.training.methods.method import InProcessGroup
from benchmarks.training.task import WEIGHT_DECAY
from examples.multiregion.model import GPT


class DeMo(InProcessGroup):
    """arXiv:2411.19870, alg. 1, and its authors' defaults: of each tile of at most 64 x 64 DCT coefficients the largest 32 are all-gathered
    a matrix at a time, as 64-bit places and float32 values; every step moves by the sign of their mean."""

    def __init__(self, gpt: GPT, *, lr: float) -> None:
        super().__init__(gpt)
        self._params = list(gpt.parameters())
        self.opt = torch.optim.SGD(self._params, lr=lr)  # for `zero_grad`, and its learning rate
        self._momenta = [torch.zeros_like(_matrix(p)) for p in self._params]
        self._pieces = [demo.DeMo(_matrix(p), None, lr=lr) for p in self._params]

    @torch.no_grad()
    def step(self) -> None:
        lr = self.opt.param_groups[0]["lr"]
        for p, momentum, pieces in zip(self._params, self._momenta, self._pieces, strict=True):
            assert p.grad is not None
            p.mul_(1 - lr * WEIGHT_DECAY)
            mine = pieces.encode(momentum, _matrix(p.grad))
            places, values = _all_gather(mine.places), _all_gather(mine.values)
            pieces.decode(_matrix(p), [demo.Sent(*sent, mine.shape, mine.total) for sent in zip(places, values, strict=True)])


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A vector is one row: the DCT over a side of 1 does nothing."""
    return tensor.detach().view(-1, tensor.shape[-1])


def _all_gather(mine: torch.Tensor) -> list[torch.Tensor]:
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine.contiguous())
    return gathered
