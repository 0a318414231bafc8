"""The outer rule: how the agreed update moves the anchor."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from thinwire.kernels.finish import Sgd

OuterRule = Callable[[Tensor, Tensor, int], Tensor]
"""`outer(anchor, update, round) -> new anchor`: (numel,) float32 each; must be deterministic and the same on every member."""


@dataclass(frozen=True)
class SGD:
    """SGD with optional (Nesterov) momentum, as torch.optim.SGD computes it (DiLoCo, arXiv:2311.08105: lr .7, momentum .9, Nesterov)."""

    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"outer_lr is {self.lr}; choose a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"outer_momentum is {self.momentum}; choose 0 <= momentum < 1")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs outer_momentum > 0; got 0")

    def __call__(self, anchor: Tensor, update: Tensor, buffer: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The new anchor and the new momentum buffer; nothing changes in place."""
        if self.momentum:
            buffer = update if buffer is None else buffer * self.momentum + update
            update = update + buffer * self.momentum if self.nesterov else buffer
        return anchor - (update if self.lr == 1.0 else update * self.lr), buffer

    def finish(self, anchor: Tensor, buffer: Tensor | None) -> Sgd:
        """The same as the last stage of a fused decode, which changes anchor and buffer in place."""
        return Sgd(anchor, self.lr, self.momentum, self.nesterov, buffer)
