"""torch's own: DistributedDataParallel, its PowerSGD hook, and PostLocalSGD."""

import torch
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.parallel import DistributedDataParallel

from benchmarks.training.methods.method import InProcessGroup
from benchmarks.training.task import adamw
from examples.multiregion.model import GPT


class DDP(InProcessGroup):
    """Gradients averaged every step, float32; buckets of `bucket_cap_mb` MiB (None: torch's default)."""

    def __init__(self, gpt: GPT, *, bucket_cap_mb: int | None = None) -> None:
        super().__init__(gpt)
        self._wrapped = DistributedDataParallel(_LossOf(gpt), bucket_cap_mb=bucket_cap_mb)
        self.opt = adamw(gpt)

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self._wrapped(batch)
        return loss


class _LossOf(torch.nn.Module):
    """DDP synchronises what its `forward` computes."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, batch: Tensor) -> Tensor:
        return self.gpt.loss(batch)


class PowerSGD(DDP):
    """Gradients as products of two thin matrices (arXiv:1905.13727), with warm start and error feedback.

    One bucket for the whole model: with more of them gloo aborts ("collective mismatch"), since the hook starts reductions from callbacks.
    Dense for the first `start_iter` steps; 2 is the least that error feedback allows.
    """

    def __init__(self, gpt: GPT, *, rank: int, start_iter: int = 2) -> None:
        whole = sum(p.numel() * p.element_size() for p in gpt.parameters())
        super().__init__(gpt, bucket_cap_mb=whole // 2**20 + 1)
        self._wrapped.register_comm_hook(PowerSGDState(None, rank, start_iter), powerSGD_hook)


class PostLocalSGD(DDP):
    """Local steps, and every `period` steps the mean of all weights (arXiv:1808.07217); no warm-up, no gradient is sent.

    The averager counts from 1, so that it averages after steps `period`, 2 `period`, ... like DiLoCo; as it comes it would average after
    step 1 and leave the last `period` - 1 steps unaveraged.
    """

    def __init__(self, gpt: GPT, *, period: int) -> None:
        from torch.distributed.optim import PostLocalSGDOptimizer  # here: it compiles things, with warnings

        super().__init__(gpt)
        state = PostLocalSGDState(None, None, start_localSGD_iter=0, post_local_gradient_allreduce=False)
        self._wrapped.register_comm_hook(state, post_localSGD_hook)
        averager = PeriodicModelAverager(period, warmup_steps=0)
        averager.step = 1
        self.opt = PostLocalSGDOptimizer(self.opt, averager)
