"""What a run comes to: a record, and a table for a person."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from benchmarks.chaos.run import Chaos
from benchmarks.chaos.swarm import FEW
from benchmarks.suite.record import FAILED, OK, Made, Percentiles, Record, key_of
from thinwire.comms.swarm.verdict import Verdict

KILLS = ("kill", "leader killed", FEW)


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
    durations = {f"recovery, {kind}": values for kind, values in watch.recoveries.items()} | {"join": watch.joins}
    durations |= {f"join, {part}": values for part, values in watch.parts.items()}
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
            "kills": sum(map(len, watch.recoveries.values())),
            "joins": len(watch.joins),
            **kept(chaos),
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


def kept(chaos: Chaos) -> dict[str, float | None]:
    """Training under faults over training in calm: steps a second of a member that is there, and steps of the swarm, with those away."""
    calm, done = chaos.calm.rate, chaos.done
    whole = calm * done.wall_s * chaos.swarm.size
    return {
        "throughput_kept": round(done.rate / calm, 4) if calm else None,
        "work_kept": round(done.steps / whole, 4) if whole else None,
    }


def table(records: Sequence[Record]) -> Table:
    """One row a run; recovery is p50 / p99 of the seconds to the next committed round, and of how many kills."""
    made = Table(title="chaos: faults, and what came of them", title_justify="left")
    kills = (f"after {kind}" for kind in KILLS)
    headings = ("run", "rounds", "divergent", "hangs", *kills, "joins", "throughput kept", "work kept", "verdict")
    for heading in headings:
        made.add_column(heading, justify="left" if heading in ("run", "verdict") else "right")
    for one in records:
        numbers = one.numbers
        made.add_row(
            one.label,
            *(f"{numbers[name] or 0:.0f}" for name in ("rounds", "divergent", "hangs")),
            *(span(one.seconds.get(f"recovery, {kind}")) for kind in KILLS),
            span(one.seconds.get("join")),
            *(percent(numbers.get(name)) for name in ("throughput_kept", "work_kept")),
            "green" if one.status == OK else one.reason,
        )
    return made


def percent(part: float | None) -> str:
    """Of what would have been without faults."""
    return "-" if part is None else f"{part:.1%}"


def span(found: Percentiles | None) -> str:
    """Of durations."""
    return f"{found.p50:.2f} / {found.p99:.2f} s ({found.n})" if found else "-"


def struck(one: Record) -> str:
    """Faults by kind, in a line."""
    counts = Counter({name.removeprefix("struck: "): int(n or 0) for name, n in one.numbers.items() if name.startswith("struck: ")})
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
