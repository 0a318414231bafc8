"""Learning curves that do not disturb the clock: weights are kept at marks, and judged after training by the workers in turn."""

from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import Tensor

from benchmarks.suite.record import Point, Record
from benchmarks.training.meter import Meter
from benchmarks.training.task import evaluate
from examples.multiregion.model import GPT


class Mark(Struct):
    """What one worker saw before the step after `step`; the loss only where it is this worker's turn."""

    step: int
    wall_s: float
    sent: int
    loss: float | None = None


class Marks:
    """Of one worker while it trains: call it after every step."""

    def __init__(self, gpt: GPT, meter: Meter, *, rank: int, workers: int, steps: int, every: int) -> None:
        self._gpt, self._meter, self._rank, self._workers, self._steps, self._every = gpt, meter, rank, workers, steps, every
        self._marks: list[Mark] = []
        self._kept: dict[int, list[Tensor]] = {}
        self(0)

    def __call__(self, step: int) -> None:
        """Keep the weights when it is time and this worker's turn; the end of training is no mark, its model is judged anyway."""
        if step % self._every or step >= self._steps:
            return
        with self._meter.paused():
            if len(self._marks) % self._workers == self._rank:
                self._kept[len(self._marks)] = [p.detach().clone() for p in self._gpt.parameters()]
            self._marks.append(Mark(step, self._meter.wall_s(), self._meter.sent()))

    @torch.no_grad()
    def judge(self, held_out: list[Tensor]) -> list[Mark]:
        """After training: this worker's losses of its turns. The model then holds other weights."""
        for i, kept in self._kept.items():
            for p, then in zip(self._gpt.parameters(), kept, strict=True):
                p.copy_(then)
            self._marks[i].loss = evaluate(self._gpt, held_out)
        return self._marks


def merge(workers: Sequence[Sequence[Mark]], share: int) -> list[Point]:
    """One curve of all workers' marks: the slowest one's seconds, the mean of their bytes (`share` workers see one counter)."""
    points = []
    for seen in zip(*workers, strict=True):
        [loss] = [mark.loss for mark in seen if mark.loss is not None]
        sent = sum(mark.sent for mark in seen) / len(seen) / share
        points.append(Point(seen[0].step, loss, max(mark.wall_s for mark in seen), sent))
    return points


def wall_to_loss(record: Record, loss: float) -> float | None:
    """Training seconds until the curve first is at `loss` or below, straight between its points; None when it never is."""
    before: Point | None = None
    for point in record.curve:
        if point.loss <= loss:
            if before is None:
                return point.wall_s
            share = (before.loss - loss) / (before.loss - point.loss)
            return before.wall_s + share * (point.wall_s - before.wall_s)
        before = point
    return None
