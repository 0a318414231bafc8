"""The task: warm-start once, train `steps` on this worker's own batches, judge this worker's own model."""

import fcntl
import hashlib
import inspect
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import SGD, AdamW

from benchmarks.training.setting import Run
from examples.multiregion import data, model
from examples.multiregion.data import Batches, Text
from examples.multiregion.model import GPT

LR, BETAS, WEIGHT_DECAY = 1e-3, (0.9, 0.95), 0.1


def adamw(gpt: GPT) -> AdamW:
    """The inner optimizer of every method that has one."""
    return AdamW(gpt.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)


def outer_sgd(params: list[torch.nn.Parameter], lr: float, momentum: float) -> SGD:
    """The outer optimizer of every dense DiLoCo that is not thinwire's; Nesterov where there is momentum."""
    return SGD(params, lr=lr, momentum=momentum, nesterov=momentum > 0)


def batches(text: Text, run: Run, rank: int) -> Batches:
    """What worker `rank` trains on in this run."""
    return Batches(text.train, size=run.batch, seed=1000 * run.seed + rank + 1)


@torch.no_grad()
def evaluate(gpt: GPT, held_out: list[Tensor]) -> float:
    """Mean loss in nats a byte over the fixed validation batches."""
    return sum(float(gpt.loss(batch)) for batch in held_out) / len(held_out)


def warm_start(run: Run, text: Text) -> GPT:
    """The model after one lone worker's `warm_steps`; trained once per `warm_seed` on this machine, then read from the temporary folder.

    Equal numbers need equal sources, text, torch and seed: a hash of them is the file's name.
    """
    torch.manual_seed(run.warm_seed)
    gpt = GPT()
    path = _cache_path(run, text)
    with _alone(path.with_suffix(".lock")):
        if not path.exists():
            _train_alone(gpt, run, text)
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(gpt.state_dict(), part)
            part.replace(path)
    gpt.load_state_dict(torch.load(path, weights_only=True))
    return gpt


def _train_alone(gpt: GPT, run: Run, text: Text) -> None:
    opt, mine = adamw(gpt), Batches(text.train, size=run.warm_batch, seed=1000 * run.warm_seed)
    for _ in range(run.warm_steps):
        opt.zero_grad()
        gpt.loss(mine.draw()).backward()
        opt.step()


def _cache_path(run: Run, text: Text) -> Path:
    digest = hashlib.sha256(f"{run.warm_seed} {run.warm_steps} {run.warm_batch} {torch.__version__} {LR} {BETAS} {WEIGHT_DECAY}".encode())
    digest.update(inspect.getsource(model).encode() + inspect.getsource(data).encode())
    digest.update(text.train.numpy().tobytes())
    folder = Path(tempfile.gettempdir()) / f"thinwire-warm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{digest.hexdigest()[:16]}.pt"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
