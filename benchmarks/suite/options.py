"""The command line, alike for every command: options from a dataclass, examples of --help with their line breaks, ends in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import tyro

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.wan import Void
from benchmarks.suite import provenance
from benchmarks.suite.record import ResultsError
from benchmarks.suite.runs import RunError

T = TypeVar("T")
KEPT = "interrupted: finished runs are in the results file, --keep goes on from there"


def parse(kind: type[T], argv: list[str] | None, doc: str | None) -> T:
    """Options as `argv` gives them; `doc` is shown by --help: tyro keeps line breaks where lines are indented."""
    return tyro.cli(kind, args=argv, description=doc, prog=provenance.program())


@contextmanager
def one_sentence(interrupted: str = KEPT) -> Iterator[None]:
    """What this machine, the options or the results file do not allow ends the command with cause and remedy, Ctrl-C with `interrupted`."""
    try:
        yield
    except (LabError, Void, ResultsError, RunError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(interrupted) from None
