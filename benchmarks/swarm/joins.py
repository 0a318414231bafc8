"""What a newcomer costs those that train: 200 join one after the other, over real links, and every one is compared bit for bit.

    thinwire bench joins                 3 members and a newcomer, 200 Mbit/s and 20 ms: half an hour or more (root)
    thinwire bench joins --joins 20 --link 20:80
    thinwire bench joins --show

Members sleep 20 ms a step, which stands for their computing, so that few processors carry all of them; what `opt.step()` takes beside is
compared between the steps while somebody comes in (from its first word on, up to the round that counts it) and those while nobody does. A
round in which the newcomer counts is one of more members: what that adds is told apart, and so is what the newcomer's process takes of the
processors that it shares with the members here: after each join it starts once more in a run of its own, of which they know nothing. Each
run appends one record to `benchmarks/results/joins.jsonl`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.suite.command import command
from benchmarks.suite.fleet import Enough
from benchmarks.suite.kept import Kept, Opened
from benchmarks.suite.link import LinkOptions
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import FAILED, OK, RESULTS, Asked, Link, Made, Percentiles, Record
from benchmarks.suite.runs import Due, RunError, run_all
from benchmarks.swarm.meeting import arranged
from thinwire.comms.recipes import codec

BYTES_GOAL = 1.05
MS = 1e3


@dataclass(frozen=True)
class Options(LinkOptions, FileOptions):
    """Measure joins."""

    link: str = "200:20"
    members: int = 4
    """With the newcomer."""
    joins: int = 200
    codec: str = "dct-topk"
    step_ms: float = 20.0
    """What a step computes."""
    sync_every: int = 20
    """Steps of a round."""
    results: Path = RESULTS / "joins.jsonl"

    def __post_init__(self) -> None:
        codec(self.codec)
        if self.members < 3:
            raise ValueError(f"members is {self.members}; give at least 3: two that train, and who joins them")
        for name, least in (("joins", 1), ("sync_every", 1), ("step_ms", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}")
        self.regions(self.members)


class Bench(Kept):
    """Measures one setting; close it with `with`."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.regions(options.members), "benchmarks.swarm.join_worker")
        self._options = options

    def due(self) -> Iterator[Due]:
        """One run."""
        options, link = self._options, Link("namespaces", Asked(**self.topology.asked()))
        key = f"{options.codec}, {options.members} members, {options.joins} joins, H={options.sync_every}, {link.asked.topology}"
        template = Record(suite="joins", key=key, status=FAILED, made=Made.now(), method=options.codec, members=options.members, link=link)
        yield Due(template, partial(self.in_regions, template, partial(self._measure, template)))

    def _measure(self, template: Record, opened: Opened) -> Record:
        options = self._options
        asked = {
            "codec": options.codec,
            "members": options.members,
            "step_s": options.step_ms / MS,
            "sync_every": options.sync_every,
            **arranged(opened.lab),
        }
        seen = opened.fleet.ask(asked, Enough(options.joins, 1e6))
        *members, newcomer = seen.seen
        joins = newcomer["joins"]
        steps = [step for member in members for step in member["steps"]]
        found = added(steps, [each["times"] for each in joins], [each["start"] for each in joins], len(members))
        differ = [i for i, each in enumerate(joins) if not same_bits(each["hashes"], [member["hashes"] for member in members])]
        state = joins[0]["state"]
        by_transport = Percentiles.of(each["received"] / state for each in joins)
        return replace(
            template,
            status=FAILED if differ else OK,
            reason=f"joins {differ[:8]} held other bits than the members" if differ else None,
            steps=sum(len(member["steps"]) for member in members),
            link=opened.link,
            seconds={
                "join": Percentiles.of(each["times"]["counted"] - each["times"]["began"] for each in joins),
                "state": Percentiles.of(each["times"]["entered"] - each["times"]["began"] for each in joins),
            },
            numbers={
                "joins": len(joins),
                **{name: MS * seconds for name, seconds in found.items()},
                "state_nbytes": state,
                "state_ratio": by_transport.p99,
                "state_ratio_p50": by_transport.p50,
                "interface_ratio": seen.counts[-1].received / len(joins) / state,
            },
            checks={
                "the same bits from the first round on": not differ,
                f"at most {BYTES_GOAL} x the state": by_transport.p99 <= BYTES_GOAL,
            },
        )


Step = tuple[float, float, int]
Times = dict[str, float]


def added(steps: Sequence[Step], joins: Sequence[Times], starts: Sequence[Times], stay: int) -> dict[str, float]:
    """Seconds that joins add to a member's steps, by name: `added_ms` and, of a 95th percentile, `added_p95_ms`; `added_due_ms` of steps
    in which a round of those that `stay` lands; `start_ms` and so on, what `starts` add that are no joins; and `larger_ms`, what one more
    member adds to a round.

    `steps`: (when, seconds, how many counted in the round that landed, or 0).

    >>> ordinary = [*((t, 0.001, 0) for t in range(8)), (10.0, 0.003, 0), (12.5, 0.002, 0)]
    >>> rounds = [(8.0, 0.1, 3), (10.5, 0.1, 3), (10.9, 0.2, 4), (12.6, 0.1, 3)]
    >>> join, start = {"began": 9.5, "counted": 11.0, "ended": 12.0}, {"began": 12.1, "counted": 13.0, "ended": 14.0}
    >>> found = added([*ordinary, *rounds], [join], [start], stay=3)
    >>> {name: round(seconds, 6) for name, seconds in found.items() if "p95" not in name}
    {'added_ms': 0.002, 'start_ms': 0.001, 'added_due_ms': 0.0, 'start_due_ms': 0.0, 'larger_ms': 0.1}
    """
    found = dict[str, float]()
    for due, counted in (("", 0), ("_due", stay)):
        some = [step for step in steps if step[2] == counted]
        quiet = [took for when, took, _ in some if not _during(when, [*joins, *starts], "ended")]
        for name, spans in (("added", joins), ("start", starts)):
            inside = [took for when, took, _ in some if _during(when, spans, "counted")]
            if not inside or not quiet:
                raise RunError("no step falls while somebody joins, or none while nobody does; ask for more --joins")
            found[f"{name}{due}_ms"] = mean(inside) - mean(quiet)
            found[f"{name}{due}_p95_ms"] = Percentiles.of(inside).p95 - Percentiles.of(quiet).p95
    larger = [took for _, took, together in steps if together > stay]
    if not larger:
        raise RunError("no newcomer has counted in any round of the others")
    return found | {"larger_ms": mean(larger) - mean(quiet)}


def _during(when: float, spans: Sequence[Times], until: str) -> bool:
    return any(times["began"] <= when <= times[until] for times in spans)


def same_bits(newcomer: dict[str, str], members: Sequence[dict[str, str]]) -> bool:
    """Whether a newcomer's state was that of all members before each round that it took part in, and there was one."""
    common = [(mine, other[round_]) for round_, mine in newcomer.items() for other in members if round_ in other]
    return bool(common) and all(mine == other for mine, other in common)


def table(records: Sequence[Record]) -> Table:
    """A row a run."""
    made = Table(title="swarm: joins", title_justify="left")
    for heading in (
        "codec",
        "joins",
        "link",
        "join s p50 / p99",
        "state s p50",
        "added ms a step (p95)",
        "a round's step (p95)",
        "a start's",
        "one more in it",
        "x state",
        "on the wire",
        "same bits",
    ):
        made.add_column(heading, justify="left" if heading in ("codec", "link") else "right")
    for record in records:
        if not record.seconds or record.link is None:
            continue
        numbers, join, state = record.numbers, record.seconds["join"], record.seconds["state"]
        made.add_row(
            record.method,
            f"{numbers['joins']:.0f}",
            record.link.asked.topology,
            f"{join.p50:.2f} / {join.p99:.2f}",
            f"{state.p50:.2f}",
            f"{numbers['added_ms']:.2f} ({numbers['added_p95_ms']:.2f})",
            f"{numbers['added_due_ms']:.1f} ({numbers['added_due_p95_ms']:.1f})",
            f"{numbers['start_ms']:.2f}, {numbers['start_due_ms']:.1f}" if "start_ms" in numbers else "",
            f"{numbers.get('larger_ms') or 0:.1f}",
            f"{numbers['state_ratio']:.3f}",
            f"{numbers['interface_ratio']:.3f}",
            "yes" if record.checks["the same bits from the first round on"] else "NO",
        )
    return made


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for."""
    with Bench(options) as bench:
        return run_all(bench.due(), options.results, console, keep=options.keep)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("joins", Options, argv, __doc__, measure=measure, show=lambda records: [table(records)])


if __name__ == "__main__":
    main()
