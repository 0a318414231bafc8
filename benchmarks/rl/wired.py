"""Records of runs of processes: a learner that is killed and comes back, and what staleness costs and saves over slow links."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from msgspec.structs import replace
from rich.table import Table

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.wan import Lab, Void, open_lab
from benchmarks.rl.processes import WIRED, Heard, Killing, Wired, heard, running
from benchmarks.suite.record import ABSENT, FAILED, OK, VOID, Bytes, Point, Record
from benchmarks.suite.runs import RunError

NEAR = 0.2  # of the predicted idle share to the measured one, relative
PULL = "link-pull"


def measured(row: Wired, template: Record) -> Record:
    """Run a row; absent or void where its links cannot be had. Raises `RunError` when a process ends before its time."""
    with ExitStack() as stack:
        lab: Lab | None = None
        if row.apart:
            try:
                lab = stack.enter_context(open_lab(row.topology()))
                template = replace(template, link=lab.verify())
            except LabError as error:
                return replace(template, status=ABSENT, reason=str(error))
            except Void as error:
                return replace(template, status=VOID, reason=str(error))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-bench-rl-")))
        launch = row.launch(folder, seed=template.seed or 0, updates=template.steps)
        run = stack.enter_context(running(launch, lab))
        told = heard(run, Killing() if row.killed else None)
        if lab is not None:
            lab.check()
        rounds = [rounds_of(folder / name / "rounds.jsonl") for name in run.trainers]
        return killed_record(template, told, rounds) if row.killed else link_record(template, told)


def rounds_of(path: Path) -> list[dict[str, Any]]:
    """What a learner's ledger holds of rounds that it averaged in, all its incarnations; a line that a kill cut short is none."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [each for each in found if each["error"] is None]


def curve(told: Heard, name: str) -> list[Point]:
    """Accuracy of one process over updates; seconds since it began, bytes that it had sent by then."""
    points, sent = [], 0.0
    for event in told.events[name]:
        sent = event.get("sent", sent)
        if event["event"] == "accuracy":
            points.append(Point(event["update"], 1 - event["accuracy"], event["at_s"], sent))
    return points


def killed_record(template: Record, told: Heard, rounds: Sequence[Sequence[dict[str, Any]]]) -> Record:
    """Of two learners of which the second was away. `final` is the worse one's accuracy."""
    killing = told.killing
    assert killing is not None
    stayed, came = "trainer0", killing.who
    joined = [each["update"] for each in told.of(came, "joined")]
    finals = {name: float(told.last(name, "end")["accuracy"]) for name in (stayed, came)}
    theirs, mine = ({each["round"]: each for each in ledger} for ledger in rounds)
    common = sorted(round_ for round_ in mine.keys() & theirs.keys() if mine[round_]["state_hash"] and len(mine[round_]["members"]) > 1)
    back_at = told.last(came, "resumed")["update"] if told.of(came, "resumed") else 0
    after = [round_ for round_ in common if theirs[round_]["round"] * template.sync_every > (killing.killed_at or 0)]
    same = bool(common) and all(mine[round_]["state_hash"] == theirs[round_]["state_hash"] for round_ in common)
    checks = {"replicas hold the same bits": same, "it averaged again": killing.back and bool(after)}
    failed = [name for name, held in checks.items() if not held]
    return replace(
        template,
        status=FAILED if failed else OK,
        reason=f"not so: {', '.join(failed)}" if failed else None,
        bytes=Bytes(ledger_sent=sum(each["wire_sent"] for ledger in rounds for each in ledger) / 2, counted_by="ledger"),
        numbers={
            "final": min(finals.values()),
            "final_stayed": finals[stayed],
            "final_killed": finals[came],
            "killed_at": killing.killed_at,
            "away_s": killing.away_s,
            "checkpoint": back_at,
            "joined_at": joined[-1] if joined else None,
            "common_rounds": len(common),
            "common_rounds_after": len(after),
            "ended_alike": float(told.last(stayed, "end")["sha256"] == told.last(came, "end")["sha256"]),
        },
        checks=checks,
        curve=curve(told, stayed),
    )


def link_record(template: Record, told: Heard) -> Record:
    """Of a trainer and workers that are apart: its idle share, measured and predicted."""
    name = "trainer0"
    end, updates = told.last(name, "end"), told.of(name, "update")
    capacity = end["capacity"]
    if not capacity:
        raise RunError("the trainer has not measured its capacity: no worker said what a group takes it")
    ages = [int(age) for each in updates for age, count in each["staleness"].items() for _ in range(count)]
    return replace(
        template,
        status=OK,
        numbers={
            "final": float(end["accuracy"]),
            "idle": capacity["idle"],
            "staleness_max": max(ages),
            "staleness_mean": sum(ages) / len(ages),
            "waited_s": sum(each["waited_s"] for each in updates[1:]),
            "wall_s": updates[-1]["at_s"] - updates[0]["at_s"],
            "stale_dropped": float(updates[-1]["refused"].get("stale", 0)),
            "sent": float(end["sent"]),
            **{key: capacity[key] for key in ("train_s", "broadcast_s", "rollout_s")},
            **{f"predicted_{bound}": share for bound, share in capacity["predicted_idle"].items()},
        },
        curve=curve(told, name),
    )


def bound_of(record: Record) -> int:
    """The row's S."""
    return {"link-pull": 0, "link-s1": 1, "link-s2": 2}.get(record.method, 4)


def of(records: Sequence[Record], method: str, name: str) -> float | None:
    """The median over seeds; None for what was not measured."""
    values = [value for each in records if each.method == method and each.status == OK and (value := each.numbers.get(name)) is not None]
    return median(values) if values else None


def predicted(records: Sequence[Record], method: str, *, by: str) -> float | None:
    """The idle share that durations of the row `by` predict for this row, median over seeds."""
    bounds = [bound_of(each) for each in records if each.method == method]
    return of(records, by, f"predicted_{bounds[0]}") if bounds else None


def tables(records: Sequence[Record]) -> list[Table]:
    """One for the learner that was killed, one for links."""
    found = [each for each in records if each.method in WIRED and each.status == OK]
    made = []
    killed = [each for each in found if WIRED[each.method].killed]
    if killed:
        table = Table(title="2 learners in processes, one killed and started again with its folder and key", title_justify="left")
        for heading in ("seed", "killed after", "its checkpoint", "came in at", "final: stayed", "killed", "common rounds", "afterwards"):
            table.add_column(heading, justify="right", no_wrap=True)
        for each in killed:
            n = each.numbers
            counts = [f"{n[name] or 0:.0f}" for name in ("killed_at", "checkpoint", "joined_at")]
            ends = [f"{n[name]:.3f}" for name in ("final_stayed", "final_killed")]
            table.add_row(str(each.seed), *counts, *ends, *(f"{n[name]:.0f}" for name in ("common_rounds", "common_rounds_after")))
        made.append(table)
    apart = [name for name in WIRED if WIRED[name].apart and any(each.method == name for each in found)]
    if apart:
        table = Table(title="a trainer and 2 workers, 20 Mbit/s and 200 ms between any two; medians of seeds", title_justify="left")
        headings = ("row", "final", "age", "train s", "broadcast s", "rollout s", "idle", "predicted", "by pull's", "wall s")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=True)
        for name in apart:
            values = [of(found, name, key) for key in ("final", "staleness_mean", "train_s", "broadcast_s", "rollout_s", "idle")]
            values += [predicted(found, name, by=name), predicted(found, name, by=PULL), of(found, name, "wall_s")]
            table.add_row(WIRED[name].label, *("" if value is None else f"{value:.3f}" for value in values))
        made.append(table)
    return made


def checks(records: Sequence[Record]) -> dict[str, bool]:
    """What had to hold, of the rows that are there."""
    found: dict[str, bool] = {}
    final = of(records, "killed-int4", "final")
    if final is not None:
        found["2 learners in int4, one killed and rejoined: both >= .80"] = final >= 0.80
    ages = [each.numbers["staleness_max"] for each in records if each.method == PULL and each.status == OK]
    if ages:
        found["pull: staleness always 0"] = max(age or 0.0 for age in ages) == 0
    pull, push = (of(records, name, "idle") for name in (PULL, "link-push_pull"))
    if pull is not None and push is not None:
        found["over 200 ms and 20 Mbit/s: push_pull idles less than pull"] = push < pull
        ends = [of(records, name, "final") or 0.0 for name in (PULL, "link-push_pull")]
        found["and both end within .05"] = abs(ends[0] - ends[1]) <= 0.05
    for name in [name for name in WIRED if WIRED[name].apart]:
        idle = of(records, name, "idle")
        for by in dict.fromkeys((name, PULL)):
            said = predicted(records, name, by=by)
            if idle is not None and said is not None:
                whose = "its own" if by == name else "pull's"
                found[f"idle at {WIRED[name].label} as {whose} durations predict, within 20 %"] = abs(said - idle) <= NEAR * idle
    return found
