"""The table: every method on one task, bytes counted by the operating system.

    python -m benchmarks.training.table                     all rows, three seeds
    python -m benchmarks.training.table --rows ddp diloco --seeds 0 1 2 3 4
    python -m benchmarks.training.table --show              print what the results file holds

Each run appends one line to `benchmarks/results/table.jsonl`; `--keep` skips runs that the file already holds.
"""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.training.lab import Lab, LabError, lab
from benchmarks.training.launch import WorkerError, launch
from benchmarks.training.record import RESULTS, append, middle, read, same_run
from benchmarks.training.rows import ROWS, Row
from benchmarks.training.setting import Run

MB = 1e6


@dataclass(frozen=True)
class Options:
    """Measure the table."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Which rows; demo-reference needs a checkout of github.com/bloc97/DeMo on PYTHONPATH, and einops."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the order of the data; one run each."""
    workers: int = 4
    steps: int = 200
    warm_steps: int = 400
    """Steps of one lone worker before everybody starts from its weights."""
    warm_seed: int = 0
    """Which lone worker: other initial weights, other text."""
    results: Path = RESULTS / "table.jsonl"
    keep: tyro.conf.FlagCreatePairsOff[bool] = False
    """Skip runs that the results file already holds."""
    show: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print what the results file holds."""

    def __post_init__(self) -> None:
        unknown = set(self.rows) - set(ROWS)
        if unknown:
            raise ValueError(f"unknown rows {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")

    def run(self, row: Row, seed: int) -> Run:
        return Run(row.setting, seed, self.workers, self.steps, self.warm_seed, self.warm_steps)


def measure(options: Options, here: Lab, console: Console) -> None:
    """Run what is asked for, one run at a time: all cores belong to its workers."""
    held = read(options.results) if options.keep else []
    absent = [name for name in options.rows if ROWS[name].needs and not find_spec(ROWS[name].needs)]
    for name in absent:
        console.print(f"{name} is left out: no module {ROWS[name].needs!r} on PYTHONPATH")
    runs = [options.run(ROWS[name], seed) for seed in options.seeds for name in options.rows if name not in absent]
    due = [run for run in runs if not any(same_run(record, run) for record in held)]
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(due))
        for run in due:
            progress.update(task, description=f"{run.setting.label}, seed {run.seed}")
            try:
                record = append(options.results, run, launch(run, here))
            except WorkerError as error:
                progress.console.print(f"[red]{run.setting.label}, seed {run.seed}: {error}", markup=True, highlight=False)
            else:
                told = f"loss {record['loss']:.4f}, {record['sent'] / MB:.2f} MB, {record['wall_s']:.0f} s"
                progress.console.print(f"{run.setting.label}, seed {run.seed}: {told}", highlight=False)
            progress.advance(task)


def table(options: Options, records: list[dict[str, Any]]) -> Table:
    """The rows with the newest record of every seed."""
    made = Table(title=f"{options.workers} workers, {options.steps} steps after a warm start of {options.warm_steps}", title_justify="left")
    for heading in ("method", "val loss", "range", "MB sent/worker", "payload MB", "x DDP", "cpu s", "replicas equal", "seeds", "target"):
        made.add_column(heading, justify="left" if heading in ("method", "target") else "right")
    dense = _of(options, ROWS["ddp"], records)
    dense_sent = middle(record["sent"] for record in dense)[0] if dense else None
    for name in options.rows:
        row, found = ROWS[name], _of(options, ROWS[name], records)
        if found:
            made.add_row(*_cells(row, found, dense_sent, _wanted(options, row, records)))
    return made


def _of(options: Options, row: Row, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    newest = ([record for record in records if same_run(record, options.run(row, seed))][-1:] for seed in options.seeds)
    return [record for last in newest for record in last]


def _wanted(options: Options, row: Row, records: list[dict[str, Any]]) -> float | None:
    """The loss that a row must reach, which may be that of another row."""
    if isinstance(row.loss, str):
        other = _of(options, ROWS[row.loss], records)
        return middle(record["loss"] for record in other)[0] if other else None
    return row.loss


def _cells(row: Row, found: list[dict[str, Any]], dense_sent: float | None, wanted: float | None) -> list[str]:
    loss, least, most = middle(record["loss"] for record in found)
    sent = middle(record["sent"] for record in found)[0]
    payload = [record["payload_sent"] for record in found if "payload_sent" in record]
    return [
        row.setting.label,
        f"{loss:.3f}",
        f"{least:.3f} .. {most:.3f}",
        f"{sent / MB:.2f}",
        f"{middle(payload)[0] / MB:.2f}" if payload else "",
        f"{dense_sent / sent:.0f}" if dense_sent and sent > MB / 10 else "",
        f"{middle(record['cpu_s'] for record in found)[0]:.1f}",
        "yes" if all(record["replicas_equal"] for record in found) else "NO",
        str(len(found)),
        _target(row, wanted, loss, sent),
    ]


def _target(row: Row, wanted: float | None, loss: float, sent: float) -> str:
    told, missed = [], False
    if wanted is not None:
        told.append(f"<= {wanted:.3f} ({row.loss})" if isinstance(row.loss, str) else f"<= {wanted}")
        missed |= loss > wanted
    if row.megabytes is not None:
        told.append(f"<= {row.megabytes:g} MB")
        missed |= sent > row.megabytes * MB
    return f"{', '.join(told)}: {'missed' if missed else 'met'}" if told else (f"known: {row.known}" if row.known else "")


def main() -> None:
    console = Console(width=None if sys.stdout.isatty() else 180)
    try:
        options = tyro.cli(Options, description=__doc__)
        if not options.show:
            with lab(options.workers) as here:
                console.print(f"bytes: {here.counted_by}")
                measure(options, here, console)
    except (LabError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: finished runs are in the results file, --keep goes on from there") from None
    console.print(table(options, read(options.results)))


if __name__ == "__main__":
    main()
