"""The same plan of faults in the simulator: simulated time, the production state machine, the same to the bit for the same seed."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.faults import HEARTBEAT_S, Fault
from benchmarks.suite.record import FAILED, OK, Made, Percentiles, Record, key_of
from thinwire.comms.swarm.simulate import Event, Report, simulate
from thinwire.comms.swarm.verdict import Verdict
from thinwire.comms.swarm.verify import check

ROUND_S = 0.3
BACK_S = 0.5  # until a process is there again
STORM, EXTRAS = 3, 6
TRAPS = {
    "start": "have", "propose before": "propose-none", "propose half": "propose-half", "propose after": "propose", "accept heard": "accept",
    "commit before": "decided", "commit half": "decided", "commit after": "decided", "apply": "decided",
}  # fmt: skip
ELSEWHERE = ("bootstrap", "disk full", "hole")  # faults that the simulator has not: it knows no DHT, no disk and no ways around


def events_of(faults: Sequence[Fault], members: int) -> list[Event]:
    """What happens when, in simulated seconds; the last is the end of the run."""
    made: list[Event] = []
    now, newcomer = 5.0, 0
    for fault in faults:
        now += 0.3 if fault.overlaps else 2.5 + fault.rounds * ROUND_S
        victim = int(fault.pick * members)
        others = [i for i in range(members) if i != victim]
        if fault.kind in ("kill", "leave"):
            made += [(now, "crash" if fault.kind == "kill" else "leave", victim), (now + BACK_S + 2 * ROUND_S, "restart", victim)]
        elif fault.kind == "freeze":
            made += [(now, "pause", victim), (now + fault.seconds, "resume", victim)]
        elif fault.kind == "slow":
            made += [(now, "slow", victim, 5.0), (now + fault.seconds, "slow", victim, 1.0)]
        elif fault.kind == "cut":
            side = [victim, others[0]] if members > 3 and fault.pick * 1000 % 1 < 0.5 else [victim]
            made += [(now, "part", *side), (now + fault.seconds, "heal")]
        elif fault.kind == "flap":
            made += [(now + 2 * i * fault.seconds, "flap", victim) for i in range(5)]
        elif fault.kind == "leader":
            made += [(now, "kill_leader", TRAPS[fault.state]), *((now + 3.0, "restart", i) for i in range(members))]
        elif fault.kind == "all but one":
            made += [(now, "crash", i) for i in others] + [(now + BACK_S, "restart", i) for i in others]
        elif fault.kind in ("storm", "join and die"):
            for _ in range(STORM if fault.kind == "storm" else 1):
                newcomer = (newcomer + 1) % EXTRAS
                gone = (2.0, "leave") if fault.kind == "storm" else (0.1 if fault.pick < 0.5 else HEARTBEAT_S, "crash")
                made += [(now, "join", members + newcomer), (now + gone[0], gone[1], members + newcomer)]
        now += fault.seconds
    return [*sorted(made, key=lambda event: event[0]), (now + 30.0, "heal")]


def play(faults: Sequence[Fault], members: int, seed: int, history: Path) -> tuple[Report, Verdict]:
    """Run them; the histories lie in `history`."""
    events = events_of(faults, members)
    report = simulate(seed=seed, members=members, events=events, seconds=events[-1][0] + 20.0, compute_s=ROUND_S)
    report.write(history)
    return report, check(history)


def record(faults: Sequence[Fault], settings: dict[str, str | int | float | bool | None]) -> tuple[Record, list[str]]:
    """Of a run, and what to tell a person."""
    members, seed = int(settings["members"] or 0), int(settings["seed"] or 0)
    with tempfile.TemporaryDirectory(prefix="thinwire-chaos-") as folder:
        report, verdict = play(faults, members, seed, Path(folder))
    hangs = [line for line in report.broken if "has waited" in line]
    checks = {"no divergent hashes": not verdict.broken["same state"], "no hangs": not hangs, "histories verify": verdict.green}
    checks["nothing else broken"] = len(report.broken) == len(hangs)
    struck = Counter(fault.kind for fault in faults if fault.kind not in ELSEWHERE)
    made = Record(
        suite="chaos",
        key=key_of("chaos", **{name: value for name, value in settings.items() if value is not None}),
        status=OK if all(checks.values()) else FAILED,
        reason=None if all(checks.values()) else f"not so: {', '.join(name for name, holds in checks.items() if not holds)}",
        made=Made.now(),
        label=f"{len(faults)} events, {members} members, seed {seed}, simulated",
        members=members,
        seed=seed,
        seconds={"between decisions of a member": Percentiles.of(report.gaps_s)} if report.gaps_s else {},
        numbers={
            "rounds": report.rounds,
            "divergent": verdict.broken["same state"],
            "hangs": len(hangs),
            "violations": sum(verdict.broken.values()),
            "history_events": verdict.events,
            "forks": report.forks,
            "rejoins": report.rejoins,
            "wall_s": report.seconds,
            "joins": None,
            "throughput_kept": None,
        }
        | {f"struck: {kind}": count for kind, count in sorted(struck.items())},
        checks=checks,
        settings=settings,
    )
    lines = [f"{report.seconds:.0f} s simulated; trace {report.trace[:16]}: the same for the same seed", *report.broken[:10]]
    return made, [*lines, *map(str, verdict.violations[:10])]
