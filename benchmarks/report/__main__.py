"""One page of what was measured: tables and pictures, and under each the command that made it.

    thinwire report benchmarks/results -o report.html       every file of a folder
    thinwire report mine.jsonl theirs.jsonl                 some files; of two records of one run the one read last

The page needs nothing but itself: no network, no scripts, no other files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import thinwire
from benchmarks.report import collectives, others, scaling, stages, training, utilisation
from benchmarks.report.gather import Found, gather
from benchmarks.report.page import Section, render
from benchmarks.suite.options import SPOILT, edited, one_sentence, parse
from benchmarks.suite.record import Record, ResultsError
from benchmarks.suite.whole import write_whole
from thinwire.output import Form

SUITES = {
    "training": training.section,
    "utilisation": utilisation.section,
    "collectives": collectives.section,
    "scaling": scaling.section,
}


@dataclass(frozen=True)
class Options(Form):
    """Make a page of results."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Files of records, tables of kernels, or folders of both."""
    page: Annotated[Path, tyro.conf.arg(name="output", aliases=["-o"])] = Path("report.html")
    """Where the page goes."""


def sections(found: Found) -> list[Section]:
    """Of everything that was found; the bytes by stage after the suites that counted them."""
    made: Sequence[Section | None] = [
        *(_shown(suite, section, records) for suite, section in SUITES.items() if (records := found.of(suite))),
        _shown("some suite", stages.section, [record for suite in SUITES for record in found.of(suite)]),
        *(others.section(suite, found.of(suite)) for suite in dict.fromkeys(r.suite for r in found.records) if suite not in SUITES),
        others.kernels_section(found.kernels) if found.kernels else None,
    ]
    return [section for section in made if section]


def _shown(suite: str, section: Callable[[Sequence[Record]], Section | None], records: Sequence[Record]) -> Section | None:
    try:
        return section(records)
    except SPOILT as error:
        raise ResultsError(edited(suite, error)) from None


def write(options: Options) -> None:
    """Read, and write the page. Raises `ResultsError`."""
    out = options.output()
    if not options.results:
        raise ResultsError("no results given; say `thinwire report FILE_OR_FOLDER -o report.html`")
    found = gather(options.results)
    page = render(sections(found), files=found.files, notes=found.notes, version=thinwire.__version__)
    write_whole(options.page, page, option="-o")
    out.say(*found.notes, f"{options.page}: {len(found.records)} records, {len(page) // 1000} kB")
    told = {"page": options.page, "nbytes": len(page.encode()), "records": len(found.records), "files": found.files, "notes": found.notes}
    out.tell(told)


def main(argv: list[str] | None = None) -> None:
    with one_sentence("interrupted"):
        write(parse(Options, argv, __doc__))


if __name__ == "__main__":
    main()
