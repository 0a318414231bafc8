"""Run what is due under a progress bar, one at a time; what fails is recorded as failed, and an interrupted suite goes on where it was."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.lab.namespaces import LabError
from benchmarks.suite.record import FAILED, OK, VOID, Made, Record, append, read, refuse_unwritable


class RunError(RuntimeError):
    """A run failed; the first line of the message is the reason that its record keeps."""


@dataclass(frozen=True)
class Due:
    """A run that is due: `template` is its record before anything was measured, `measure` fills it in.

    `measure` returns the record (its status may be "void"), or raises `RunError`, `LabError` or `OSError`: it failed.
    """

    template: Record
    measure: Callable[[], Record]

    @property
    def title(self) -> str:
        """What the progress bar says."""
        return f"{self.template.suite}: {self.template.label or self.template.key}"


def run_all(due: Iterable[Due], results: Path, console: Console, *, keep: bool) -> list[Record]:
    """Measure everything that is due and append each record as soon as it is there; with `keep`, without what `results` holds as "ok".

    Raises `ResultsError` when the file cannot be read or written. Ctrl-C passes through: finished runs are in the file.
    """
    refuse_unwritable(results)
    held = {(r.suite, r.key): r for r in read(results)} if keep else {}
    runs = list(due)
    made: list[Record] = []
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*bar, console=console) as progress:
        task = progress.add_task("", total=len(runs))
        for run in runs:
            progress.update(task, description=run.title)
            before = held.get((run.template.suite, run.template.key))
            if before is not None and before.status == OK:
                made.append(before)
            else:
                try:
                    record = run.measure()
                except (RunError, LabError, OSError) as error:
                    record = replace(run.template, status=FAILED, reason=str(error).strip())
                made.append(append(results, replace(record, made=Made.now())))  # the list of runs may be hours old
                if record.status != OK:
                    first = (record.reason or "").splitlines() or [""]
                    progress.console.print(f"{run.title}: {record.status}: {first[0]}", markup=False, highlight=False)
            progress.advance(task)
    return made


def not_measured(records: Sequence[Record]) -> list[str]:
    """One line a run that failed, is absent or void, with the reason."""
    return [f"{record.label}: {record.status}: {(record.reason or '').partition(chr(10))[0]}" for record in records if record.status != OK]


def end(records: Iterable[Record]) -> None:
    """End the command with exit status 1 when a run failed or its link was not what was asked; one that cannot run here is neither."""
    if any(record.status in (FAILED, VOID) for record in records):
        raise SystemExit(1)
