"""A small learning problem whose every number follows from (step, rank), and what tests compare."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.worlds import run_threads
from thinwire import LocalGroup


def run_members(n: int, work: Callable[[int, LocalGroup], Any]) -> list[Any]:
    """`work(rank, group)` on each of n threads; results in member order."""
    return run_threads(n, lambda group: work(group.rank, group))


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """2-D, 1-D and 0-d parameters, odd sizes, more than one chunk."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 67), nn.Tanh(), nn.Linear(67, 70), nn.Tanh(), nn.Linear(70, 2))
    net.gain = nn.Parameter(torch.ones(()))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return net.to(dtype)


def adamw(net: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(net.parameters(), **{"lr": 1e-2, **options})


def backward(net: nn.Module, step: int, rank: int) -> Tensor:
    """Leave gradients of this step's data in the parameters."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1000 * rank + step)).to(next(net.parameters()).dtype)
    loss = (net(x) * net.gain - x[:, :2]).square().mean()
    loss.backward()
    return loss.detach()


def learn(net: nn.Module, opt: Any, step: int, rank: int = 0) -> float:
    opt.zero_grad()
    loss = backward(net, step, rank)
    opt.step()
    return float(loss)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).float() for p in net.parameters()])
