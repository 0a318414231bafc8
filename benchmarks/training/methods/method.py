"""What a method is: `loss(batch)` to differentiate, `step()`, `close()`."""

from abc import ABC, abstractmethod

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.training.task import adamw
from examples.multiregion.model import GPT


class Method(ABC):
    """A way to train one replica among others; members are known from the torchrun environment."""

    opt: Optimizer

    def __init__(self, gpt: GPT) -> None:
        self.gpt = gpt

    def loss(self, batch: Tensor) -> Tensor:
        return self.gpt.loss(batch)

    def zero_grad(self) -> None:
        self.opt.zero_grad()

    def step(self) -> None:
        """Update after `backward()`."""
        self.opt.step()

    @abstractmethod
    def close(self) -> None:
        """Make the replicas identical, where the method can: what it costs is counted."""

    def leave(self) -> None:  # noqa: B027
        """Give back what is left, when everybody has closed: it is not counted."""

    def ledger(self) -> dict[str, float]:
        """What the method says it did and sent, empty for those that do not say."""
        return {}


class Alone(Method):
    """AdamW, nobody else."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__(gpt)
        self.opt = adamw(gpt)

    def close(self) -> None:
        pass


class InProcessGroup(Method):
    """With torch's default process group, over gloo."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__(gpt)
        dist.init_process_group("gloo")

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()
