"""One region's training run: the loop a user would write, with saving, and what it reports on the way."""

import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW, Optimizer

import thinwire
from examples.multiregion.data import Batches
from examples.multiregion.model import GPT, sha256


@dataclass(frozen=True)
class Progress:
    """What a region tells the others while it trains."""

    method: str
    step: int = 0
    loss: float = 0.0  # of the last batches, smoothed
    sent: int = 0  # bytes
    ratio: float = 1.0  # to what the dense method sends
    sync_s: float = 0.0  # of the last round, without training


@dataclass(frozen=True)
class Ended:
    """What a region reports at the end: its own final model's loss, and the curve `(step, bytes sent, loss)` on its share of batches."""

    loss: float
    sent: int
    sha256: str
    curve: list[tuple[int, int, float]]


def optimizer(model: torch.nn.Module, method: str, options: dict[str, Any]) -> "thinwire.DiLoCo | thinwire.DeMo":
    """What a user changes to train with thinwire."""
    if method == "demo":
        return thinwire.DeMo(model.parameters(), weight_decay=0.1, **options)
    inner = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return thinwire.DiLoCo(inner, **options)


class Dense:
    """The baseline: every gradient averaged in float32 every step, as DDP does (gloo; counted as the ring all-reduce it is)."""

    def __init__(self, gpt: GPT, store: dist.Store, rank: int, world: int) -> None:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
        self._parameters, self._world = list(gpt.parameters()), world
        self.opt = AdamW(gpt.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        self.opt.register_step_pre_hook(self._average)
        self.sent, self.sync_s = 0, 0.0

    def _average(self, *_: Any) -> None:
        start = time.perf_counter()
        flat = torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self._world
        for p, mean in zip(self._parameters, flat.split([p.numel() for p in self._parameters]), strict=True):
            p.grad = mean.view_as(p)
        self.sent += dense_nbytes(flat.numel(), self._world)
        self.sync_s = time.perf_counter() - start

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


class Thin:
    """The same with thinwire."""

    def __init__(self, gpt: GPT, method: str, options: dict[str, Any]) -> None:
        self.opt = optimizer(gpt, method, options)

    @property
    def sent(self) -> int:
        return self.opt.stats().wire_sent

    @property
    def sync_s(self) -> float:
        last = self.opt.stats().last
        return sum(seconds for phase, seconds in last.seconds.items() if phase != "compute") if last else 0.0

    def close(self) -> None:
        self.opt.close()


def dense_nbytes(numel: int, world: int) -> int:
    """Bytes a member sends to all-reduce `numel` float32 numbers on a ring."""
    return 4 * numel * 2 * (world - 1) // world


class Region:
    """A model, its optimizer and its own text; resumable to the bit with `save` and `load`."""

    def __init__(self, gpt: GPT, link: Dense | Thin, batches: Batches, held_out: list[Tensor], progress: Progress, world: int) -> None:
        self.gpt, self.link, self.batches, self._held_out, self._world = gpt, link, batches, held_out, world
        self.progress = progress
        self.curve: list[tuple[int, int, float]] = []
        self._sent_before = 0  # by the runs that this one resumes

    def train(self, steps: int) -> Iterator[Progress]:
        """Train up to step `steps`, and tell after each."""
        opt: Optimizer = self.link.opt
        numel = sum(p.numel() for p in self.gpt.parameters())
        while self.progress.step < steps:
            opt.zero_grad()
            loss = self.gpt.loss(self.batches.draw())
            loss.backward()
            opt.step()
            step, sent, now = self.progress.step + 1, self._sent_before + self.link.sent, float(loss.detach())
            self.progress = replace(
                self.progress,
                step=step,
                loss=now if step == 1 else 0.95 * self.progress.loss + 0.05 * now,
                sent=sent,
                ratio=step * dense_nbytes(numel, self._world) / sent if sent else 1.0,
                sync_s=self.link.sync_s,
            )
            yield self.progress

    @torch.no_grad()
    def evaluate(self, batches: list[Tensor] | None = None) -> float:
        """Mean loss on the held-out batches, or on some of them."""
        losses = [float(self.gpt.loss(batch)) for batch in batches or self._held_out]
        return sum(losses) / len(losses)

    def mark(self, rank: int) -> None:
        """A point of the curve, on this region's share of the batches."""
        share = self._held_out[rank % len(self._held_out) :: self._world]
        self.curve.append((self.progress.step, self.progress.sent, self.evaluate(share)))

    def end(self) -> Ended:
        """Flush, so that all replicas are identical, and report."""
        self.link.close()
        return Ended(self.evaluate(), self._sent_before + self.link.sent, sha256(self.gpt), self.curve)

    def save(self, folder: Path, rank: int, settings: dict[str, Any]) -> None:
        """Write everything that the rest of the run depends on; the save before stays, as other regions may not come to theirs."""
        path = saved(folder, rank, self.progress.step)
        state = {
            "settings": settings,
            "model": self.gpt.state_dict(),
            "optimizer": self.link.opt.state_dict(),
            "batches": self.batches.state_dict(),
            "progress": asdict(self.progress),
            "curve": [list(point) for point in self.curve],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)
        for step in saved_steps(folder, rank)[:-2]:
            saved(folder, rank, step).unlink()

    def load(self, folder: Path, rank: int, step: int, settings: dict[str, Any]) -> None:
        """Continue from `save`; raises `ValueError` when the saved run had other settings."""
        path = saved(folder, rank, step)
        state = torch.load(path, weights_only=True)
        for name, value in settings.items():
            if state["settings"].get(name) != value:
                raise ValueError(f"{path} was saved with {name}={state['settings'].get(name)!r}, now it is {value!r}; give the same")
        self.gpt.load_state_dict(state["model"])
        self.link.opt.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.progress = Progress(**state["progress"])
        self.curve = [(int(step), int(sent), float(loss)) for step, sent, loss in state["curve"]]
        self._sent_before = self.progress.sent


def saved(folder: Path, rank: int, step: int) -> Path:
    """The file of one region at one step."""
    return folder / f"region{rank}-step{step}.pt"


def saved_steps(folder: Path, rank: int) -> list[int]:
    """Steps at which a region has saved, ascending."""
    found = (re.fullmatch(rf"region{rank}-step(\d+)\.pt", path.name) for path in folder.glob("*.pt"))
    return sorted(int(match[1]) for match in found if match)
