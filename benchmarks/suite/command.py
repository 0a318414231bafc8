"""The command of a suite: measure what is asked for, or read what was measured, and print it."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.suite.options import FileOptions, complete, held, one_sentence, parse
from benchmarks.suite.record import Record
from benchmarks.suite.runs import end, not_measured

T = TypeVar("T", bound=FileOptions)


def command(
    suite: str,
    kind: type[T],
    argv: list[str] | None,
    doc: str | None,
    *,
    measure: Callable[[T, Console], list[Record]],
    show: Callable[[Sequence[Record]], Iterable[Table | str]],
    width: int = 200,
) -> None:
    """Do what `argv` says; `show` makes tables and lines of the records, and what was not measured follows. Ends with status 1 for that."""
    console = Console(width=None if sys.stdout.isatty() else width)
    with one_sentence():
        options = parse(kind, argv, doc)
        records = held(options.results, suite) if options.show else measure(options, console)
    with complete(options.results):
        for shown in [*show(records), *not_measured(records)]:
            if isinstance(shown, str):
                console.print(shown, markup=False, highlight=False)  # the words of an error are not ours to interpret
            else:
                console.print(shown)
    if not options.show:
        end(records)
