"""Compute utilisation: which share of the wall time members compute, over links x steps a round x codec x overlap x loss x TCP.

    python -m benchmarks.utilisation                 51 points, 18 minutes
    python -m benchmarks.utilisation --quick         five points, a minute
    python -m benchmarks.utilisation --show

Four regions with one optimizer each; the compute of a step is a declared sleep (20 ms), as four regions share the cores of one machine;
everything else is real. Every link is measured first, again after a minute, and a point is void when it is off by more than 5 %. `step`
is what every step takes beside rounds: the wrapped optimizer, and what is done around it. What all of these do not explain of the wall
time is the residual, at most 2 %. Records are appended to `benchmarks/results/utilisation.jsonl`.
Where this machine or user can have no regions, links are simulated between threads of one process, and labelled so.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.suite.command import command
from benchmarks.suite.fleet import Enough
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import OK, RESULTS, Bytes, Record
from benchmarks.suite.runs import run_all
from benchmarks.utilisation.bench import Bench
from benchmarks.utilisation.points import PACE_MS, Point, full, quick


@dataclass(frozen=True)
class Options(FileOptions):
    """Measure the utilisation."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Five points, short."""
    only: str = ""
    """Only points whose label contains this."""
    pace_ms: float = PACE_MS
    """Of the sleep that stands for a step's compute."""
    rounds: int = 0
    """At most so many a point; 20, or 4 with --quick, unless given."""
    seconds: float = 0.0
    """Of measuring a point, at least three rounds; 4, or 2 with --quick, unless given."""
    results: Path = RESULTS / "utilisation.jsonl"

    def __post_init__(self) -> None:
        if not 0.1 <= self.pace_ms <= 10_000:
            raise ValueError(f"--pace-ms is {self.pace_ms}; give 0.1 to 10000")
        if not self.points():
            raise ValueError(f"no point's label contains {self.only!r}")
        self.enough()

    def points(self) -> list[Point]:
        """Those that are asked for."""
        return [point for point in (quick() if self.quick else full()) if self.only in point.label]

    def enough(self) -> Enough:
        """How many rounds."""
        rounds, seconds = (4, 2.0) if self.quick else (20, 4.0)
        return Enough(self.rounds or rounds, self.seconds or seconds)


def table(records: list[Record]) -> Table:
    """A row a point."""
    made = Table(title="compute utilisation, 4 regions, a step is a sleep of 20 ms, round trip 80 ms", title_justify="left")
    for heading in (
        "codec",
        "link",
        "H",
        "overlap",
        "utilisation",
        "exchange",
        "encode+decode",
        "step",
        "residual",
        "sync p50 s",
        "MB out",
        "payload MB",
    ):
        made.add_column(heading, justify="left" if heading in ("codec", "link") else "right", no_wrap=True)
    for record in records:
        numbers, told = record.numbers, record.settings
        link = record.link.asked.topology + ", simulated" * (record.link.lab == "simulated") if record.link else ""
        head = str(told["codec"]), link, str(record.sync_every), str(told["overlap"] or "")
        if record.status != OK and "utilisation" not in numbers:
            made.add_row(*head, record.status)
            continue
        counted = record.bytes or Bytes()
        made.add_row(
            *head,
            f"{numbers['utilisation']:.1%}",
            f"{numbers['share_exchange']:.1%}",
            f"{sum(numbers[f'share_{phase}'] or 0.0 for phase in ('encode', 'decode', 'apply')):.1%}",
            f"{sum(numbers.get(f'share_{part}') or 0.0 for part in ('inner', 'around')):.1%}",
            f"{numbers['residual']:.2%}{'' if record.status == OK else ' (' + record.status + ')'}",
            f"{record.seconds['sync'].p50:.3f}",
            f"{(counted.interface_sent or counted.wire_sent or 0.0) / 1e6:.3f}",
            f"{(counted.payload_sent or 0.0) / 1e6:.3f}",
        )
    return made


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for, one point at a time."""
    with Bench(options.enough(), options.pace_ms) as bench:
        if bench.simulated:
            console.print(f"links are simulated inside one process: {bench.simulated}", markup=False, highlight=False)
        return run_all(bench.due(options.points()), options.results, console, keep=options.keep)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("utilisation", Options, argv, __doc__, measure=measure, show=lambda records: [table(records)])


if __name__ == "__main__":
    main()
