"""One worker of one run, in its own process: `python -m benchmarks.training.worker RUN INTERFACE RESULT`, in torchrun's environment.

Trains, counts what the interface moved around the training loop, then judges its models; writes JSON to the open file of number RESULT.
"""

import os
import sys
from collections.abc import Callable

import msgspec
import torch
from msgspec import Struct

from benchmarks.training.curve import Mark, Marks
from benchmarks.training.gate import Gate
from benchmarks.training.meter import Meter, Moved
from benchmarks.training.methods import build
from benchmarks.training.methods.method import Method
from benchmarks.training.setting import Run
from benchmarks.training.task import batches, evaluate, warm_start
from examples.multiregion.data import Batches, load, validation_batches
from examples.multiregion.model import sha256


class Seen(Struct):
    """Of one worker. `marks` are the learning curve, `ledger` is what the method says of itself."""

    loss: float
    moved: Moved
    cpu_s: float
    wall_s: float
    numel: int
    sha256: str
    marks: list[Mark]
    ledger: dict[str, float]


def train(run: Run, method: Method, mine: Batches, after: Callable[[int], None] = lambda step: None) -> None:
    """The loop that is measured: the same lines for every method."""
    for step in range(1, run.steps + 1):
        method.zero_grad()
        method.loss(mine.draw()).backward()
        method.step()
        after(step)
    method.close()


def measure(run: Run, rank: int, workers: int, interface: str) -> Seen:
    """Run one worker among others; bytes are those of the whole interface."""
    text, gate = load(), Gate()
    gpt = warm_start(run, text)
    method = build(run.setting, gpt)
    mine = batches(text, run, rank)
    gate.cross("start")
    meter = Meter(interface, rank)
    marks = Marks(gpt, meter, rank=rank, workers=workers, steps=run.steps, every=run.curve)
    train(run, method, mine, marks)
    cpu_s, wall_s, moved = meter.cpu_s(), meter.wall_s(), meter.moved()
    digest = sha256(gpt)
    equal = gate.cross("end", digest)
    held_out = validation_batches(text)
    method.leave()
    # Of equal models each worker judges its share: the mean over workers is that of the whole.
    loss = evaluate(gpt, held_out[rank::workers] if equal and len(held_out) % workers == 0 else held_out)
    numel = sum(p.numel() for p in gpt.parameters())
    seen = Seen(loss, moved, cpu_s, wall_s, numel, digest, marks.judge(held_out), method.ledger())
    if rank == 0:
        gate.hold("end")
    return seen


def main() -> None:
    torch.set_num_threads(1)
    run, interface, result = Run.parse(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    seen = measure(run, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), interface)
    with open(result, "wb") as file:
        file.write(msgspec.json.encode(seen))


if __name__ == "__main__":
    main()
