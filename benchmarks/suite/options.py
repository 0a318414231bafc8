"""The command line, alike for every command: options from a dataclass, examples of --help with their line breaks, ends in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tyro

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.wan import Void
from benchmarks.suite import provenance
from benchmarks.suite.record import RESULTS, Record, ResultsError, read
from benchmarks.suite.runs import RunError
from thinwire import output

T = TypeVar("T")
SPOILT = (KeyError, TypeError, ValueError, ZeroDivisionError)
KEPT = "interrupted: finished runs are in the results file, --keep goes on from there"


@dataclass(frozen=True)
class FileOptions(output.Form):
    """What a suite does with its file of results; `results` has a default of each suite's own."""

    results: Path = RESULTS
    keep: tyro.conf.FlagCreatePairsOff[bool] = False
    """Skip what the results file already holds."""
    show: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print what the results file holds."""


def parse(kind: type[T], argv: list[str] | None, doc: str | None) -> T:
    """As of every verb, also for `python -m`."""
    return output.parse(kind, argv, doc, program=provenance.program())


def held(path: Path, suite: str) -> list[Record]:
    """What a results file has of a suite, for --show. Raises `ResultsError` when that is nothing."""
    records = [record for record in read(path) if record.suite == suite]
    if not records:
        raise ResultsError(f"{path} has no results of {suite}; measure some: the same command without --show")
    return records


@contextmanager
def complete(path: Path) -> Iterator[None]:
    """Printing ends in a sentence when a record lacks, or has otherwise, what the table shows."""
    try:
        yield
    except SPOILT as error:
        raise SystemExit(f"error: {edited(str(path), error)}") from None


def edited(where: str, error: Exception) -> str:
    """What is to be said when showing a record of `where`, well-formed as it is, ends in one of `SPOILT`."""
    why = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be shown ({error})"
    return f"a record of {where} {why}: it was edited; delete its line and measure it again with --keep"


@contextmanager
def one_sentence(interrupted: str = KEPT) -> Iterator[None]:
    """What this machine, the options or the results file do not allow ends the command with cause and remedy, Ctrl-C with `interrupted`."""
    try:
        with output.one_sentence(LabError, Void, ResultsError, RunError):
            yield
    except KeyboardInterrupt:
        raise SystemExit(interrupted) from None
