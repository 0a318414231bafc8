"""Training loops of every kind, each a small object: it trains on what follows from (step, rank), saves, loads, shows its weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from tests.optim.problem import adamw

Wrap = Callable[[Optimizer], Any]


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """2-D and 1-D parameters of odd sizes."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 67), nn.Tanh(), nn.Linear(67, 35), nn.Tanh(), nn.Linear(35, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return net.to(dtype)


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.second.weight = self.first.weight
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return out


class Checkpointed(nn.Module):
    """Activations are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        out: Tensor = checkpoint(self.net, x, use_reentrant=False)
        return out


def adamw_fp16(net: nn.Module) -> Optimizer:
    return adamw(net, eps=1e-4)  # 1e-8 is 0 in float16


def frozen_first(net: nn.Module) -> Optimizer:
    first = next(net.parameters())
    first.requires_grad_(False)
    return torch.optim.AdamW([p for p in net.parameters() if p is not first], lr=1e-2)


def two_groups(net: nn.Module) -> Optimizer:
    biases = [p for p in net.parameters() if p.dim() < 2]
    rest = [p for p in net.parameters() if p.dim() >= 2]
    return torch.optim.AdamW([{"params": rest, "weight_decay": 0.1}, {"params": biases, "lr": 3e-3, "weight_decay": 0.0}], lr=1e-2)


def muon(net: nn.Module) -> Optimizer:
    return torch.optim.Muon([p for p in net.parameters() if p.dim() == 2], lr=1e-2)


@dataclass
class Loop:
    """The loop that people write themselves. `wrap` makes the optimizer; everything else is as it was without it."""

    wrap: Wrap
    rank: int = 0
    model: Callable[[], nn.Module] = network
    inner: Callable[[nn.Module], Optimizer] = adamw
    scheduler: Callable[[Optimizer], Any] | None = None
    plateau: bool = False
    scaler: bool = False
    infinite: tuple[tuple[int, int], ...] = ()
    """(rank, step) of gradients that are infinite."""
    accumulate: int = 1
    closure: bool = False
    clip: float = 0.0
    compiled: bool = False
    later: int = 0
    """The step before which the last layer's parameters are added as a group."""
    steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.net = self.model()
        self.dtype = next(self.net.parameters()).dtype
        inner = self.inner(self.net)
        if self.later:
            *group, added = inner.param_groups[0]["params"][:-1], inner.param_groups[0]["params"][-1]
            self._added, inner.param_groups[0]["params"] = added, list(group[0])
        self.optimizer = self.wrap(inner)
        self.schedule = self.scheduler(self.optimizer) if self.scheduler else None
        self.scaling = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3) if self.scaler else None
        self._step = torch.compile(self.optimizer.step, backend="eager") if self.compiled else self.optimizer.step

    def train(self, until: int) -> None:
        """Until the optimizer has taken so many steps: those that a scaler skipped are not its."""
        while getattr(self.optimizer, "global_step", self.steps) < until:
            if self.later and self.steps == self.later:
                self.add()
            self._one()
            self.steps += 1

    def add(self) -> None:
        """Let the optimizer know the parameter that was kept from it."""
        self.optimizer.add_param_group({"params": [self._added], "lr": 3e-3})

    def _one(self) -> None:
        self.optimizer.zero_grad()
        if self.closure:
            loss = self.optimizer.step(lambda: self._again(0))
            assert math.isfinite(loss)
        else:
            for part in range(self.accumulate):
                loss = self._backward(part)
            self._update()
        if self.schedule is not None:
            self.schedule.step(*([loss] if self.plateau else []))

    def _update(self) -> None:
        if self.scaling is not None:
            self.scaling.unscale_(self.optimizer)
        if self.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        if self.scaling is not None:
            self.scaling.step(self.optimizer)
            self.scaling.update()
        else:
            self._step()

    def _again(self, part: int) -> float:
        self.optimizer.zero_grad()
        return self._backward(part)

    def _backward(self, part: int) -> float:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1000 * self.rank + 10 * self.steps + part)).to(self.dtype)
        loss = (self.net(x) - x[:, :2]).square().mean() / self.accumulate
        (self.scaling.scale(loss) if self.scaling is not None else loss).backward()
        if (self.rank, self.steps) in self.infinite:
            next(p for p in self.net.parameters() if p.grad is not None).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return float(loss.detach())

    # -- the checkpoint: what a script saves ---------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        state = {"model": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "steps": self.steps}
        if self.schedule is not None:
            state["scheduler"] = self.schedule.state_dict()
        if self.scaling is not None:
            state["scaler"] = self.scaling.state_dict()
        torch.save(state, folder / "checkpoint.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        if self.later and state["steps"] > self.later:
            self.add()
        self.net.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        if self.schedule is not None:
            self.schedule.load_state_dict(state["scheduler"])
        if self.scaling is not None:
            self.scaling.load_state_dict(state["scaler"])

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.net.parameters()]


def sequential(opt: Optimizer) -> Any:
    parts = [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(opt, 9)]
    return lr_scheduler.SequentialLR(opt, parts, [3])


def chained(opt: Optimizer) -> Any:
    return lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(opt, 0.5, 4), lr_scheduler.ExponentialLR(opt, 0.95)], opt)


def one_over(step: int) -> float:
    return 1 / (1 + step)


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, one_over),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda _: 0.95),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 3),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 6]),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.9),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 20),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 10),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 1e-3, 1e-2, step_size_up=3, cycle_momentum=False),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=40),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1),
}

INNER: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, nesterov=True),
    "Adam amsgrad": lambda net: torch.optim.Adam(net.parameters(), lr=1e-2, amsgrad=True),
    "AdamW fused": lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True),
    "AdamW foreach": lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2, foreach=True),
    "Adafactor": lambda net: torch.optim.Adafactor(net.parameters(), lr=1e-2),
    "NAdam": lambda net: torch.optim.NAdam(net.parameters(), lr=1e-2),
    "RAdam": lambda net: torch.optim.RAdam(net.parameters(), lr=1e-2),
    "Adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr=1e-2),
    "RMSprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=1e-3, momentum=0.9),
    "Muon": muon,
}


def rows() -> dict[str, dict[str, Any]]:
    """The options of a `Loop`, by the name of the row."""
    made: dict[str, dict[str, Any]] = {"AdamW": {}}
    made |= {f"inner {name}": {"inner": inner} for name, inner in INNER.items()}
    made |= {f"scheduler {name}": {"scheduler": make, "plateau": name == "ReduceLROnPlateau"} for name, make in SCHEDULERS.items()}
    made |= {
        "GradScaler": {"scaler": True, "clip": 1.0},
        "GradScaler, infinite steps of one member": {"scaler": True, "infinite": ((0, 4), (0, 5))},
        "GradScaler, fused": {"scaler": True, "inner": INNER["AdamW fused"], "infinite": ((1, 3),)},
        "gradient accumulation, clipping": {"accumulate": 3, "clip": 0.5},
        "closure": {"closure": True},
        "torch.compile(opt.step)": {"compiled": True},
        "parameter groups of their own lr": {"inner": two_groups, "scheduler": SCHEDULERS["LambdaLR"]},
        "frozen parameters": {"inner": frozen_first},
        "parameters added later": {"later": 4},
        "tied weights": {"model": Tied},
        "activation checkpointing": {"model": Checkpointed},
        "bf16 parameters, fp32 anchor": {"model": lambda: network(torch.bfloat16)},
        "fp16 parameters, fp32 anchor": {"model": lambda: network(torch.float16), "inner": adamw_fp16},
    }
    return made
