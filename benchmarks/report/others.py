"""The kernels' tables, and suites that have no section of their own: no record is left out."""

from collections.abc import Sequence
from typing import Any

from benchmarks.kernels import report as kernels
from benchmarks.report.page import Row, Section, Table
from benchmarks.report.words import link_words, said, significant, yes
from benchmarks.suite.record import OK, Made, Record, ResultsError


def kernels_section(tables: Sequence[dict[str, Any]]) -> Section:
    """Each table under its machine's name."""
    try:
        blocks = [Table(kernels.HEADINGS, [Row(kernels.cells(row)) for row in table["rows"]], kernels.title(table)) for table in tables]
        legends = " ".join(dict.fromkeys(kernels.legend(table) for table in tables))
        made = [_made(table) for table in tables]
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"a table of kernels lacks or spoils {error}; measure it again with `thinwire bench kernels`") from None
    text = f"Time an element, beside a probe of memory and beside what exists; in brackets the goal. {legends}"
    return Section("kernels", "Kernels", text, blocks, made)


def _made(table: dict[str, Any]) -> Made:
    return Made(
        time=table["time"],
        command=table.get("command", "python -m benchmarks.kernels"),
        commit=table["commit"],
        torch=table["torch"],
        python=table["python"],
        machine=f"{table['machine'].split()[0]} {table['cpu']}",
        cpus=table["cores"],
        load=round(table["load"], 2),
    )


def section(suite: str, records: Sequence[Record]) -> Section:
    """Any other suite: its numbers as they are."""
    numbers = list(dict.fromkeys(name for record in records for name in record.numbers))
    checks = list(dict.fromkeys(name for record in records for name in record.checks))
    headings = ["run", "link", *(name.replace("_", " ") for name in [*numbers, *checks])]
    rows = [
        Row(
            [
                record.label or record.key,
                link_words(record.link),
                *(significant(record.numbers.get(name)) for name in numbers),
                *(yes(record.checks.get(name)) for name in checks),
            ],
            "" if record.status == OK else said(record),
            record.status,
        )
        for record in records
    ]
    return Section(
        suite, suite.capitalize(), "Every number as it was recorded.", [Table(headings, rows, words=2)], [r.made for r in records]
    )
