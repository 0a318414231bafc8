"""Time and bytes of one exchange: every codec, group and size, beside torch's own collectives.

    python -m benchmarks.collectives --quick
    python -m benchmarks.collectives --link 100:20        in the lab, 100 Mbit/s each way and 20 ms
    python -m benchmarks.collectives --topology home
    python -m benchmarks.collectives --show

Each row appends one record to `benchmarks/results/collectives.jsonl`; `--keep` goes on where a run was interrupted.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.collectives.bench import Ask, Bench
from benchmarks.collectives.rows import GROUPS, KB, MB, Row, grid
from benchmarks.collectives.show import bytes_moved, ledger_check, speed
from benchmarks.suite.command import command
from benchmarks.suite.fleet import Enough
from benchmarks.suite.link import LinkOptions
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import RESULTS, Record
from benchmarks.suite.runs import run_all
from thinwire.comms import CODECS
from thinwire.comms.recipes import codec

SIZES = (1 * KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, 1 * MB, 4 * MB, 16 * MB, 64 * MB, 256 * MB)
QUICK_SIZES = (1 * KB, 64 * KB, 1 * MB, 4 * MB)
QUICK_CODECS = ("none", "int8", "blockmax", "dct-topk")


@dataclass(frozen=True)
class Options(LinkOptions, FileOptions):
    """Measure collectives."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Few codecs, sizes up to 4 MB, short rows."""
    groups: tuple[str, ...] = GROUPS
    """torch (processes over gloo), gloo (torch alone: the peer), local (threads), simulated (threads, simulated network)."""
    codecs: tuple[str, ...] = ()
    """By name; all registered ones unless given."""
    sizes: tuple[int, ...] = ()
    """Bytes of float32 a member; 1 KB to 256 MB unless given."""
    members: int = 4
    rounds: int = 0
    """At most so many rounds a row; 50, or 20 with --quick, unless given."""
    seconds: float = 0.0
    """Of measuring a row, at least three rounds; 2, or 0.4 with --quick, unless given."""
    most_s: float = 10.0
    """Rows of which one round would take longer on the link are recorded as absent."""
    results: Path = RESULTS / "collectives.jsonl"

    def __post_init__(self) -> None:
        unknown = set(self.groups) - set(GROUPS)
        if unknown:
            raise ValueError(f"unknown groups {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
        for name in self.codecs:
            codec(name)
        self.ask()

    def rows(self) -> list[Row]:
        """All rows that are asked for."""
        codecs = self.codecs or (QUICK_CODECS if self.quick else tuple(CODECS))
        return grid(self.groups, codecs, self.sizes or (QUICK_SIZES if self.quick else SIZES), (self.members,))

    def ask(self) -> Ask:
        """What is the same for all of them."""
        rounds, seconds = (20, 0.4) if self.quick else (50, 2.0)
        return Ask(self.regions(self.members), Enough(self.rounds or rounds, self.seconds or seconds), self.most_s)


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for, one row at a time."""
    with Bench(options.ask()) as bench:
        return run_all(bench.due(options.rows()), options.results, console, keep=options.keep)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("collectives", Options, argv, __doc__, measure=measure, show=lambda r: [speed(r), bytes_moved(r), *ledger_check(r)], width=220)


if __name__ == "__main__":
    main()
