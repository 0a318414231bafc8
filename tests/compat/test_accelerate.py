"""accelerate: prepare, accumulate, clip, save_state and load_state, in two regions that it does not know of."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compat.loops import network
from tests.compat.regions import alone, check, member, run_regions, weights

pytest.importorskip("accelerate")
STEPS, STOP, PARTS = 11, 7, 2


def trained(wrap: Any, rank: int, *, save: Path | None = None, load: Path | None = None, close: bool = False) -> str:
    """The weights after `STEPS` optimizer steps of `PARTS` batches each."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()  # of the run before, in this process
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=PARTS)
    assert accelerator.num_processes == 1
    inner = wrap(torch.optim.AdamW((net := network()).parameters(), lr=1e-2))
    net, opt, schedule = accelerator.prepare(net, inner, torch.optim.lr_scheduler.LambdaLR(inner, lambda step: 1 / (1 + step)))
    assert type(net).__name__ == "Sequential"  # and no DistributedDataParallel
    first = 0
    if load is not None:
        accelerator.load_state(str(load))
        first = STOP * PARTS
    for batch in range(first, STEPS * PARTS):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1000 * rank + batch))
        with accelerator.accumulate(net):
            accelerator.backward((net(x) - x[:, :2]).square().mean())
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            schedule.step()
            opt.zero_grad()
        if save is not None and batch + 1 == STOP * PARTS:
            accelerator.save_state(str(save))
    if close:
        inner.close()
    return weights(net)


def everything(rank: int, folder: Path) -> dict[str, str]:
    return {
        "plain": trained(lambda inner: inner, rank),
        "alone": trained(alone, rank),
        "members": trained(member, rank, close=True),
        "whole": trained(member, rank, save=folder / str(rank)),
        "resumed": trained(member, rank, load=folder / str(rank)),
    }


def test_accelerate(tmp_path: Path) -> None:
    check(*run_regions(everything, tmp_path))
