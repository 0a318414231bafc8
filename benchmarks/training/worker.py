"""One worker of one run, in its own process: `python -m benchmarks.training.worker RUN INTERFACE RESULT`, in torchrun's environment.

Trains, counts the bytes that left the interface around the training loop, writes what it saw as JSON to RESULT.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.methods import Method, build
from benchmarks.training.setting import Run
from benchmarks.training.task import CpuClock, batches, evaluate, warm_start
from examples.multiregion.counters import sent_nbytes
from examples.multiregion.data import Batches, load, validation_batches
from examples.multiregion.model import sha256


def train(run: Run, method: Method, mine: Batches) -> None:
    """The loop that is measured: the same lines for every method."""
    for _ in range(run.steps):
        method.zero_grad()
        method.loss(mine.draw()).backward()
        method.step()
    method.close()


def measure(run: Run, rank: int, interface: str) -> dict[str, Any]:
    """Run one worker; bytes are those of the whole interface."""
    text = load()
    gpt = warm_start(run, text)
    method = build(run.setting, gpt)
    mine = batches(text, run, rank)
    before, clock = sent_nbytes(interface), CpuClock()
    train(run, method, mine)
    sent, cpu_s, wall_s = sent_nbytes(interface) - before, clock.cpu_s(), clock.wall_s()
    return {
        "loss": evaluate(gpt, validation_batches(text)),
        "sent": sent,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "sha256": sha256(gpt),
    } | method.ledger()


def main() -> None:
    torch.set_num_threads(1)
    run, interface, result = Run.parse(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    result.write_text(json.dumps(measure(run, int(os.environ["RANK"]), interface)))


if __name__ == "__main__":
    main()
