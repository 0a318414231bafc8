"""The command of a suite: measure what is asked for, or read what was measured, and print it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.suite.options import FileOptions, complete, held, one_sentence, parse
from benchmarks.suite.record import Record
from benchmarks.suite.runs import end, not_measured
from thinwire.output import Output

T = TypeVar("T", bound=FileOptions)
Show = Callable[[Sequence[Record]], Iterable[Table | str]]


def command(
    suite: str,
    kind: type[T],
    argv: list[str] | None,
    doc: str | None,
    *,
    measure: Callable[[T, Console], list[Record]],
    show: Show,
    width: int = 200,
) -> None:
    """Do what `argv` says; `show` makes tables and lines of the records, and what was not measured follows. Ends with status 1 for that.

    Progress goes to the console that `measure` gets, which is the standard error.
    """
    with one_sentence():
        options = parse(kind, argv, doc)
        out = options.output(width)
        records = held(options.results, suite) if options.show else measure(options, out.aside)
    put(out, suite, records, options.results, lambda records: [*show(records), *not_measured(records)])
    if not options.show:
        end(records)


def put(out: Output, suite: str, records: Sequence[Record], path: Path, show: Show) -> None:
    """Records of the file `path`: with --json one object that has them all, else what `show` makes of them."""
    if out.as_json:
        out.tell({"suite": suite, "records": records})
    else:
        with complete(path):
            out.say(*show(records))
