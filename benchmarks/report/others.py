"""The kernels' tables, and suites that have no section of their own: no record is left out."""

from collections.abc import Sequence
from typing import Any

from benchmarks.kernels import report as kernels
from benchmarks.report.page import Row, Section, Table
from benchmarks.report.words import link_words, percentiles_ms, said, significant, yes
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
    spans = list(dict.fromkeys(name for record in records for name in record.seconds))
    checks = list(dict.fromkeys(name for record in records for name in record.checks))
    headings = ["run", "link", *(name.replace("_", " ") for name in [*numbers, *(f"{span} ms" for span in spans), *checks])]
    rows = [
        Row(
            [
                record.label or record.key,
                link_words(record.link),
                *(significant(record.numbers.get(name)) for name in numbers),
                *(percentiles_ms(record.seconds.get(name)) for name in spans),
                *(yes(record.checks.get(name)) for name in checks),
            ],
            "" if record.status == OK else said(record),
            record.status,
        )
        for record in records
    ]
    text = "Every number as it was recorded; times are p50 / p95 / p99."
    return Section(suite, suite.capitalize(), text, [Table(headings, rows, words=2)], [record.made for record in records])
