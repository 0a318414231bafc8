"""Bytes each way and time of one synchronisation with 2, 4, 8 and 16 peers: DiLoCo over the GPT of 1.33 million parameters.

    python -m benchmarks.scaling --quick
    python -m benchmarks.scaling --link 100:20
    python -m benchmarks.scaling --show

An all-gather brings each member (N - 1) payloads, a dense ring 2 (N - 1) / N of the float32 model: the table says from how many peers on
the compressed all-gather is the larger one. Each row appends one record to `benchmarks/results/scaling.jsonl`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.scaling.bench import Bench
from benchmarks.scaling.rows import CODECS, GLOO, PEERS, Row
from benchmarks.suite.command import command
from benchmarks.suite.fleet import Enough
from benchmarks.suite.link import LinkOptions
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import RESULTS, Record
from benchmarks.suite.runs import run_all
from thinwire.comms.recipes import codec

MB, MS = 1e6, 1e3
QUICK_CODECS = ("none", "blockmax")


@dataclass(frozen=True)
class Options(LinkOptions, FileOptions):
    """Measure scaling."""

    COUNT: ClassVar[str] = "--peers"

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Two codecs, up to 8 peers, short rows."""
    codecs: tuple[str, ...] = ()
    """By name; none int8 blockmax dct-topk, or none blockmax with --quick, unless given."""
    peers: tuple[int, ...] = ()
    """How many; 2, 4, 8 and 16 unless given."""
    rounds: int = 0
    """At most so many rounds a row; 20, or 5 with --quick, unless given."""
    seconds: float = 0.0
    """Of measuring a row, at least three rounds; 5, or 1 with --quick, unless given."""
    results: Path = RESULTS / "scaling.jsonl"

    def __post_init__(self) -> None:
        for name in self.codecs:
            codec(name)
        if self.peers and min(self.peers) < 2:
            raise ValueError(f"peers are {self.peers}; give numbers of at least two")
        self.regions(max(self.counts()))
        self.enough()

    def rows(self) -> list[Row]:
        """All rows that are asked for."""
        codecs = self.codecs or (QUICK_CODECS if self.quick else CODECS)
        return [Row(method, n) for n in self.counts() for method in (GLOO, *codecs)]

    def counts(self) -> tuple[int, ...]:
        """Of peers."""
        return self.peers or (PEERS[:-1] if self.quick else PEERS)

    def enough(self) -> Enough:
        """How many rounds."""
        rounds, seconds = (5, 1.0) if self.quick else (20, 5.0)
        return Enough(self.rounds or rounds, self.seconds or seconds)


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for, one row at a time."""
    with Bench(options.regions(max(options.counts())), options.enough()) as bench:  # as many as the largest row has peers
        return run_all(bench.due(options.rows()), options.results, console, keep=options.keep)


def table(records: Sequence[Record]) -> Table:
    """A row a method and number of peers."""
    made = Table(title="scaling: one synchronisation a member", title_justify="left")
    headings = (
        "payload MB",
        "out MB",
        "in MB",
        "x dense ring",
        "passes it at N",
        "sync ms p50 / p95",
        "exchange ms",
        "overhead",
        "same bits",
    )
    for heading in ("method", "peers", *headings):
        made.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for record in records:
        counted, numbers = record.bytes, record.numbers
        if not record.seconds or counted is None or counted.interface_sent is None or counted.interface_received is None:
            continue
        sync, ring, passes, over = record.seconds["sync"], numbers["ring_nbytes"], numbers["crossing_peers"], numbers.get("overhead")
        made.add_row(
            record.method,
            str(record.members),
            f"{(numbers['payload_nbytes'] or 0) / MB:.3f}",
            f"{counted.interface_sent / MB:.3f}",
            f"{counted.interface_received / MB:.3f}",
            f"{counted.interface_received / ring:.3f}" if ring else "",
            f"{passes:.0f}" if passes else "",
            f"{MS * sync.p50:.0f} / {MS * sync.p95:.0f}",
            f"{MS * record.seconds['exchange'].p50:.0f}",
            "" if over is None else f"{over:.1%}",
            "yes" if all(record.checks.values()) else "NO",
        )
    return made


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("scaling", Options, argv, __doc__, measure=measure, show=lambda records: [table(records)])


if __name__ == "__main__":
    main()
