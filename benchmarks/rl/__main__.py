"""Reinforcement learning of one small policy: stale rollouts, averaged learners and shared rollouts, each against what it replaces.

    thinwire bench rl                       21 rows, 3 seeds: about half an hour of one core
    thinwire bench rl --quick               3 rows, one seed: a minute
    thinwire bench rl --rows average-int4 --seeds 0 1 2 3
    thinwire bench rl --rows killed-int4 --updates 320                       processes, one is killed: 3 seeds, 8 minutes of two cores
    thinwire bench rl --rows link-pull link-s1 link-s2 link-push_pull        processes over slow links (root): 3 seeds, 40 minutes
    thinwire bench rl --show

The task: sort five digits. The policy starts from demonstrations of which 30 % are right, samples correctly 10 % of the time, and has 80
updates. Accuracy is of one sample for each of 512 fixed prompts (one standard error: .02), the mean over learners. Every learner makes
rollouts of its own; nothing but what the row says is shared, inside one process. Rows of processes take their time from the clock: give
them a machine that does nothing else. Records go to `benchmarks/results/rl.jsonl`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch
import tyro
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.rl import wired
from benchmarks.rl.processes import WIRED, Wired
from benchmarks.rl.proposed import all_levels
from benchmarks.rl.rows import QUICK, ROWS, Row, checks
from benchmarks.rl.run import EVERY, Seen, run
from benchmarks.rl.start import warm_start
from benchmarks.suite.command import command
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import FAILED, OK, RESULTS, Bytes, Made, Percentiles, Point, Record, key_of
from benchmarks.suite.runs import Due, run_all
from examples.rl.tasks import Sort
from examples.rl.tiny import Tiny

SHOWN = (0, 20, 40, 60, 80)
SOUGHT = range(20, 30)  # updates in which the proposer has to have found its level
KILLED_LEAST = 320  # updates: the other one is not to be at its end before it has come back


@dataclass(frozen=True)
class Options(FileOptions):
    """Measure rows."""

    rows: tuple[str, ...] = tuple(ROWS)
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 80
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Three rows, one seed."""
    results: Path = RESULTS / "rl.jsonl"

    def __post_init__(self) -> None:
        unknown = [name for name in self.rows if name not in ROWS and name not in WIRED]
        if unknown:
            raise ValueError(f"no row is called {unknown[0]!r}; choose of {', '.join([*ROWS, *WIRED])}")
        least = max([EVERY, *(KILLED_LEAST for name in self.rows if name in WIRED and WIRED[name].killed)])
        if self.updates < least or not self.seeds:
            raise ValueError(f"--updates {self.updates}: at least {least}, and one seed")

    def chosen(self) -> list[tuple[Row | Wired, int]]:
        rows, seeds = (QUICK, self.seeds[:1]) if self.quick else (self.rows, self.seeds)
        return [(ROWS.get(name) or WIRED[name], seed) for seed in seeds for name in rows]


def due(options: Options) -> Iterator[Due]:
    """One run a row and seed."""
    numel = sum(p.numel() for p in Tiny().module.parameters())
    for row, seed in options.chosen():
        template = Record(
            suite="rl",
            key=key_of(row.name, f"seed {seed}", updates=options.updates),
            status=FAILED,
            made=Made.now(),
            method=row.name,
            label=row.label,
            numel=numel,
            steps=options.updates,
            seed=seed,
        )
        if isinstance(row, Wired):
            settings = {**asdict(row), "changes": " ".join(row.changes)}
            template = replace(template, members=1 + row.killed, sync_every=10 if row.killed else 1, settings=settings)
            yield Due(template, partial(wired.measured, row, template))
        else:
            template = replace(template, members=row.learners, sync_every=row.sync_every if row.codec else 1, settings=asdict(row))
            yield Due(template, partial(measured, row, template))


def measured(row: Row, template: Record) -> Record:
    """Run a row."""
    seed = template.seed or 0
    one = Sort()
    environment, start = (one, warm_start(one, seed=seed)) if row.proposed == "nobody" else all_levels(row.family, seed)
    return record_of(template, run(row, environment, start, seed=seed, updates=template.steps))


def record_of(template: Record, seen: Sequence[Seen]) -> Record:
    """The record of what learners have seen. A point's `loss` is the share of wrong answers."""
    points = sorted(seen[0].accuracy)
    accuracy = {at: fmean(one.accuracy[at] for one in seen) for at in points}
    sent = fmean(one.sent for one in seen)
    dense = 4.0 * template.numel * template.steps if template.members > 1 else 0.0  # what two members' ring all-reduce sends each
    last = seen[0].numbers[-EVERY:]
    numbers: dict[str, float | None] = {f"accuracy_{at}": value for at, value in accuracy.items()}
    numbers |= {f"worst_{points[-1]}": min(one.accuracy[points[-1]] for one in seen)}
    numbers |= {name: fmean(each[name] for each in last) for name in last[0]}
    numbers |= {"used": sum(one.used for one in seen) / max(1, sum(one.groups for one in seen)), "ddp_sent": dense or None}
    numbers |= {"ddp_over_sent": dense / sent if sent else None}
    if "solve_rate" in last[0] and len(seen[0].numbers) >= SOUGHT.stop:
        numbers["solve_rate_sought"] = fmean(each["solve_rate"] for each in seen[0].numbers[SOUGHT.start : SOUGHT.stop])
    averaged = template.sync_every > 1
    same = len({one.sha256 for one in seen}) == 1
    return replace(
        template,
        status=FAILED if averaged and not same else OK,
        reason="replicas hold different bits" if averaged and not same else None,
        bytes=Bytes(ledger_sent=sent, counted_by="ledger" if averaged else "msgpack of the groups") if sent else None,
        seconds={"cpu": Percentiles.of(one.cpu_s for one in seen)},
        numbers=numbers,
        checks={"replicas hold the same bits": same} if averaged else {},
        curve=[Point(at, 1 - accuracy[at], seen[0].cpu_at[at], seen[0].sent_at[at]) for at in points],
    )


def table(records: Sequence[Record]) -> Table:
    """A row a method: medians over seeds."""
    made = Table(title="sampled accuracy, of five digits or all levels: median of seeds (least - greatest)", title_justify="left")
    for heading in (
        "row",
        *(f"after {at}" for at in SHOWN),
        "at the end",
        "seeds",
        "solved, 21 to 30",
        "used",
        "mismatch KL",
        "entropy",
        "kB sent",
        "DDP / sent",
        "CPU s",
    ):
        made.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=True)
    for label, group in grouped([each for each in records if each.method not in WIRED], "label").items():
        ends = [1 - each.curve[-1].loss for each in group]
        made.add_row(
            label,
            *(_median(group, f"accuracy_{at}", "{:.3f}") for at in SHOWN),
            f"{median(ends):.3f} ({min(ends):.3f} - {max(ends):.3f})",
            str(len(group)),
            _median(group, "solve_rate_sought", "{:.2f}"),
            _median(group, "used", "{:.0%}"),
            _median(group, "mismatch_kl", "{:.4f}"),
            _median(group, "entropy", "{:.3f}"),
            f"{median((each.bytes.ledger_sent or 0.0) / 1e3 for each in group if each.bytes):,.0f}" if all(e.bytes for e in group) else "",
            _median(group, "ddp_over_sent", "{:.0f}"),
            f"{median(each.seconds['cpu'].p50 for each in group):.0f}",
        )
    return made


def verdicts(records: Sequence[Record]) -> list[str]:
    """What had to hold, one line each."""
    groups = grouped([each for each in records if each.method not in WIRED], "method")
    medians = {
        method: {
            int(name.removeprefix("accuracy_")): median(each.numbers[name] or 0.0 for each in group if name in each.numbers)
            for name in group[0].numbers
            if name.startswith("accuracy_")
        }
        for method, group in groups.items()
    }
    ratios = [each.numbers["ddp_over_sent"] or 0.0 for each in groups.get("average-int4", [])]
    proposed = {name: group for name, group in groups.items() if name.endswith("-proposer")}
    rates = {name: [each.numbers.get("solve_rate_sought") for each in group] for name, group in proposed.items()}
    found = checks(medians, min(ratios) if ratios else None, rates) | wired.checks(records)
    return [f"{'yes' if held else 'NO '}  {claim}" for claim, held in found.items()]


def grouped(records: Sequence[Record], name: str) -> dict[str, list[Record]]:
    """Those that were measured, by a field."""
    found: dict[str, list[Record]] = {}
    for each in records:
        if each.status == OK:
            found.setdefault(getattr(each, name), []).append(each)
    return found


def _median(group: Sequence[Record], name: str, shape: str) -> str:
    values = [value for each in group if (value := each.numbers.get(name)) is not None]
    return shape.format(median(values)) if values else ""


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for, one at a time."""
    torch.set_num_threads(1)
    return run_all(due(options), options.results, console, keep=options.keep)


def shown(records: Sequence[Record]) -> list[Table | str]:
    """The tables that there are records for, and the verdicts."""
    inside = [table(records)] if any(each.method not in WIRED for each in records) else []
    return [*inside, *wired.tables(records), *verdicts(records)]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("rl", Options, argv, __doc__, measure=measure, show=shown)


if __name__ == "__main__":
    main()
