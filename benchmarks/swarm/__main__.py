"""What a round of a swarm takes over links like yours: members find each other over libp2p, one in each region of the lab.

    thinwire bench swarm                     4 regions, 20 Mbit/s and 80 ms: a minute (root)
    thinwire bench swarm --link 100:40 --members 6 --codecs dct-topk int8
    thinwire bench swarm --show

The floor is what no protocol beats that gives every member every payload: a payload to each of the others over one uplink, and two round
trips to agree on what counts. Each codec appends one record to `benchmarks/results/swarm.jsonl`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.suite.command import command
from benchmarks.suite.fleet import Enough
from benchmarks.suite.kept import Kept, Opened
from benchmarks.suite.link import LinkOptions
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import FAILED, OK, RESULTS, Asked, Link, Made, Percentiles, Record
from benchmarks.suite.runs import Due, run_all
from benchmarks.swarm.meeting import arranged
from thinwire.comms.recipes import codec

GOAL = 3.0  # times the floor


@dataclass(frozen=True)
class Options(LinkOptions, FileOptions):
    """Measure rounds of a swarm."""

    link: str = "20:80"
    members: int = 4
    codecs: tuple[str, ...] = ("dct-topk", "blockmax")
    rounds: int = 20
    """At most, with all members."""
    seconds: float = 10.0
    """Of measuring, at least three rounds."""
    results: Path = RESULTS / "swarm.jsonl"

    def __post_init__(self) -> None:
        for name in self.codecs:
            codec(name)
        if self.members < 2:
            raise ValueError(f"members is {self.members}; give at least two")
        self.regions(self.members)
        self.enough()

    def enough(self) -> Enough:
        """How many rounds."""
        return Enough(self.rounds, self.seconds)


class Bench(Kept):
    """Measures codecs; close it with `with`."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.regions(options.members), "benchmarks.swarm.worker")
        self._options = options

    def due(self) -> Iterator[Due]:
        """One run a codec."""
        link = Link("namespaces", Asked(**self.topology.asked()))
        for name in self._options.codecs:
            key = f"{name}, {self._options.members} members, {link.asked.topology}"
            members = self._options.members
            template = Record(suite="swarm", key=key, status=FAILED, made=Made.now(), method=name, members=members, link=link)
            yield Due(template, partial(self.in_regions, template, partial(self._measure, template)))

    def _measure(self, template: Record, opened: Opened) -> Record:
        asked = {
            "codec": template.method,
            "members": template.members,
            **arranged(opened.lab),
        }
        seen = opened.fleet.ask(asked, self._options.enough())
        took = Percentiles.of(max(each) for each in zip(*(member["seconds"] for member in seen.seen), strict=True))
        payload, links = seen.seen[0]["payload"], self.topology.asked()
        sending_s = (template.members - 1) * payload * 8 / (links["up_mbit"] * 1e6) if links["up_mbit"] else 0.0
        floor_s = sending_s + 2 * links["rtt_ms"] / 1e3
        same = len({each["hash"] for each in seen.checked}) == 1
        return replace(
            template,
            status=OK if same else FAILED,
            reason=None if same else "replicas hold different bits",
            steps=seen.rounds,
            link=opened.link,
            seconds={"round": took},
            numbers={"payload_nbytes": payload, "floor_s": floor_s, "over_floor": took.p50 / floor_s if floor_s else None},
            checks={"replicas hold the same bits": same, f"within {GOAL:.0f} x the floor": took.p50 <= GOAL * floor_s},
        )


def table(records: Sequence[Record]) -> Table:
    """A row a codec and link."""
    made = Table(title="swarm: one round, all members in it", title_justify="left")
    for heading in ("codec", "members", "link", "payload B", "floor s", "round s p50 / p95", "x floor", "same bits"):
        made.add_column(heading, justify="left" if heading in ("codec", "link") else "right", no_wrap=True)
    for record in records:
        if not record.seconds or record.link is None:
            continue
        took, numbers = record.seconds["round"], record.numbers
        made.add_row(
            record.method,
            str(record.members),
            record.link.asked.topology,
            f"{numbers['payload_nbytes']:,.0f}",
            f"{numbers['floor_s']:.3f}",
            f"{took.p50:.3f} / {took.p95:.3f}",
            f"{numbers['over_floor']:.2f}" if numbers["over_floor"] else "",
            "yes" if record.checks["replicas hold the same bits"] else "NO",
        )
    return made


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for."""
    with Bench(options) as bench:
        return run_all(bench.due(), options.results, console, keep=options.keep)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("swarm", Options, argv, __doc__, measure=measure, show=lambda records: [table(records)])


if __name__ == "__main__":
    main()
