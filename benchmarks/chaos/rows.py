"""What a run comes to: a record, and a table for a person."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from rich.table import Table

from benchmarks.chaos.run import Chaos
from benchmarks.suite.record import FAILED, OK, Made, Percentiles, Record, key_of
from thinwire.comms.swarm.verdict import Verdict


def failures(chaos: Chaos, verdict: Verdict, left: Sequence[int]) -> dict[str, bool]:
    """What had to hold, and whether it did."""
    return {
        "no divergent hashes": not chaos.watch.divergent,
        "no hangs": not chaos.watch.hangs and not chaos.stuck,
        "histories verify": verdict.green,
        "no processes left": not left,
    }


def record(chaos: Chaos, verdict: Verdict, left: Sequence[int], settings: dict[str, str | int | float | bool | None]) -> Record:
    """Of a run that came to its end."""
    watch, checks = chaos.watch, failures(chaos, verdict, left)
    durations = {"recovery": watch.recoveries, "join": watch.joins}
    broken = [name for name, holds in checks.items() if not holds]
    return Record(
        suite="chaos",
        key=key_of("chaos", **{name: value for name, value in settings.items() if value is not None}),
        status=FAILED if broken else OK,
        reason=f"not so: {', '.join(broken)}" if broken else None,
        made=Made.now(),
        label=f"{settings['events']} events, {settings['members']} members, seed {settings['seed']}",
        members=int(settings["members"] or 0),
        seed=int(settings["seed"] or 0),
        seconds={name: Percentiles.of(values) for name, values in durations.items() if values},
        numbers={
            "rounds": watch.rounds,
            "divergent": len(watch.divergent),
            "hangs": len(watch.hangs) + len(chaos.stuck),
            "kills": len(watch.recoveries),
            "joins": len(watch.joins),
            "throughput_kept": kept(chaos),
            "wall_s": round(chaos.seconds, 1),
            "missed": len(chaos.missed),
            "violations": sum(verdict.broken.values()),
            "history_events": verdict.events,
            "forks": len(verdict.forks),
            "left_behind": len(left),
        }
        | {f"struck: {kind}": count for kind, count in sorted(watch.struck.items())},
        checks=checks,
        settings=settings,
    )


def kept(chaos: Chaos) -> float | None:
    """Training steps a second of a member under faults, over those before the first."""
    return round(chaos.rate / chaos.calm_rate, 4) if chaos.calm_rate else None


def table(records: Sequence[Record]) -> Table:
    """One row a run."""
    made = Table(title="chaos: faults, and what came of them", title_justify="left")
    for heading in (
        "run",
        "rounds",
        "divergent",
        "hangs",
        "recovery s, p50",
        "p99",
        "worst of",
        "joins",
        "s, p50",
        "throughput kept",
        "verdict",
    ):
        made.add_column(heading, justify="left" if heading in ("run", "verdict") else "right")
    for one in records:
        recovery, join, numbers = one.seconds.get("recovery"), one.seconds.get("join"), one.numbers
        made.add_row(
            one.label,
            *(f"{numbers[name] or 0:.0f}" for name in ("rounds", "divergent", "hangs")),
            *((f"{recovery.p50:.2f}", f"{recovery.p99:.2f}", str(recovery.n)) if recovery else ("-", "-", "0")),
            f"{numbers['joins'] or 0:.0f}",
            f"{join.p50:.2f}" if join else "-",
            f"{numbers['throughput_kept'] or 0:.1%}",
            "green" if one.status == OK else one.reason,
        )
    return made


def struck(one: Record) -> str:
    """Faults by kind, in a line."""
    counts = Counter({name.removeprefix("struck: "): int(n or 0) for name, n in one.numbers.items() if name.startswith("struck: ")})
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def spread(values: Sequence[float]) -> str:
    """Median and greatest, for a line of progress."""
    return f"{median(values):.2f} s, at most {max(values):.2f}" if values else "none"
