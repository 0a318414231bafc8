"""What is asked for on the command line."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import tyro

from benchmarks.suite.link import LinkOptions
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import RESULTS, Record
from benchmarks.training.rows import QUICK, ROWS, Row
from benchmarks.training.setting import Run


@dataclass(frozen=True)
class Options(LinkOptions, FileOptions):
    """Measure the table."""

    COUNT: ClassVar[str] = "--workers"

    rows: tuple[str, ...] = tuple(ROWS)
    """Which rows; those that cannot run here are recorded as absent, with the remedy."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the order of the data; one run each."""
    workers: int = 4
    steps: int = 200
    steps_of: dict[str, int] = field(default_factory=dict)
    """Other steps for some rows, as in `--steps-of ddp 60`: on a thin link a slow method need only go as far as its curve matters."""
    warm_steps: int = 400
    """Steps of one lone worker before everybody starts from its weights."""
    warm_seed: int = 0
    """Which lone worker: other initial weights, other text."""
    curve: int = 10
    """Steps between the points of the learning curve; to judge one takes a worker as long as 20 steps."""
    until_loss: float | None = None
    """Also show the seconds of training until the learning curve is at this validation loss."""
    timeout_s: float = 3600.0
    """Of one run; then it is recorded as failed."""
    results: Path = RESULTS / "training.jsonl"
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """A few rows, one seed, 50 steps after a warm start of 100: two minutes."""

    def __post_init__(self) -> None:
        unknown = (set(self.rows) | set(self.steps_of)) - set(ROWS)
        if unknown:
            raise ValueError(f"unknown rows {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
        for what in ("rows", "seeds"):
            if not getattr(self, what):
                raise ValueError(f"--{what} is empty; give at least one")
        for what, value, least in (
            ("warm_steps", self.warm_steps, 0),
            ("workers", self.workers, 2),
            ("steps", min([self.steps, *self.steps_of.values()]), 1),
            ("curve", self.curve, 1),
        ):
            if value < least:
                raise ValueError(f"{what} is {value}; give at least {least}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s is {self.timeout_s:g}; give seconds above 0")

    def run(self, name: str, seed: int) -> Run:
        """Of one row."""
        steps = self.steps_of.get(name, self.steps)
        return Run(ROWS[name].setting, seed, self.workers, steps, self.warm_seed, self.warm_steps, curve=self.curve)

    def runs(self) -> list[Run]:
        """All of them; every row once before any a second time."""
        return [self.run(name, seed) for seed in self.seeds for name in self.rows]

    def shown(self) -> list[tuple[str, Row]]:
        return [(name, ROWS[name]) for name in self.rows]

    def of(self, name: str, link: str, records: list[Record]) -> list[Record]:
        """The newest record of every seed of a row, over links of this name."""
        keys = {self.run(name, seed).key(link) for seed in self.seeds}
        return [record for record in records if record.key in keys]

    def effective(self) -> "Options":
        """With what `quick` means."""
        return replace(self, rows=QUICK, seeds=(0,), steps=50, warm_steps=100, curve=25, quick=False) if self.quick else self
