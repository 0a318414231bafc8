"""Measure points in one lab whose links change under workers that are started once."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from benchmarks.collectives import account
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Void, open_lab
from benchmarks.scaling.rows import numel
from benchmarks.suite.fleet import Enough, Fleet, Seen, start_here
from benchmarks.suite.kept import fleet_in
from benchmarks.suite.record import ABSENT, FAILED, OK, VOID, Asked, Bytes, Link, Made, Percentiles, Record
from benchmarks.suite.runs import Due, RunError
from benchmarks.utilisation.points import MEMBERS, PACE_MS, RTT_MS, Point
from benchmarks.utilisation.worker import PHASES

WORKER = "benchmarks.utilisation.worker"
FRESH_S = 60.0  # points of one link lie next to each other: a measurement serves those of a minute
MOST_RESIDUAL = 0.02  # of the wall time that nobody can account for


class Bench:
    """Keeps the lab and its workers from point to point; close it with `with`.

    Where this machine or user can have no regions, `simulated` says why, and links are simulated between threads of one process.
    """

    def __init__(self, enough: Enough, pace_ms: float = PACE_MS) -> None:
        self._enough, self._pace_ms = enough, pace_ms
        self._stack = ExitStack()
        self._lab: Lab | None = None
        self._fleet: Fleet | None = None
        self._attempt = 0
        self.simulated = ""

    def due(self, points: list[Point]) -> Iterator[Due]:
        """One run a point."""
        where = "simulated" if self.simulated else "namespaces"
        for point in points:
            template = Record(
                suite="utilisation",
                key=f"{point.key} {where}" if self.simulated else point.key,
                status=FAILED,
                made=Made.now(),
                method="diloco",
                label=point.label,
                members=MEMBERS,
                numel=numel(),
                sync_every=point.sync_every,
                link=Link(where, Asked(**point.topology.asked())),
                settings={"codec": point.codec, "overlap": point.overlap, "pace_ms": self._pace_ms, "compute": "a sleep of pace_ms a step"},
            )
            yield Due(template, partial(self.measure, point, template))

    def measure(self, point: Point, template: Record) -> Record:
        """One point; raises `RunError` when a worker failed, `LabError` when the links are gone: the next point gets new ones."""
        if self.simulated and point.congestion != "cubic":
            return replace(template, status=ABSENT, reason=f"a simulated link knows no {point.congestion}: {self.simulated}")
        try:
            return self._measure(point, template)
        except Void as error:
            return replace(template, status=VOID, reason=str(error))
        except (RunError, LabError):
            self._stack.close()
            self._lab = self._fleet = None
            raise

    def _measure(self, point: Point, template: Record) -> Record:
        lab, self._attempt = self._regions(), self._attempt + 1
        asked = {"point": asdict(point), "pace_s": self._pace_ms / 1e3, "simulated": lab is None, "attempt": self._attempt}
        if lab is None:
            return made_of(template, self._workers(lab).ask(asked, self._enough), None)
        lab.change(point.topology)
        template = replace(template, link=lab.verify(fresh_s=FRESH_S))
        where = {"address": lab.address, "port": lab.port()}
        return made_of(template, self._workers(lab).ask(asked | where, self._enough, lab.traffic), lab)

    def _regions(self) -> Lab | None:
        """The lab, whose links are shaped point by point; None where links are simulated."""
        if self._lab is None and not self.simulated:
            self._lab = self._stack.enter_context(open_lab(Topology.uniform(MEMBERS)))
        return self._lab

    def _workers(self, lab: Lab | None) -> Fleet:
        if self._fleet is None:
            fleet = fleet_in(lab, WORKER, rtt_s=RTT_MS / 1e3) if lab else Fleet(WORKER, 1, start_here)
            self._fleet = self._stack.enter_context(fleet)
        return self._fleet

    def __enter__(self) -> "Bench":
        try:
            self._regions()
        except LabError as error:
            self.simulated = str(error)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def made_of(template: Record, seen: Seen, lab: Lab | None) -> Record:
    """The record of a point from what its workers saw: shares of the wall time, mean over members; without a `lab` one worker is all."""
    members: list[dict[str, Any]] = seen.seen if lab else seen.seen[0]
    checked = seen.checked if lab else seen.checked[0]
    share = {name: fmean(member[name] / member["wall"] for member in members) for name in ("compute", "inner", *PHASES, "around")}
    residual = 1 - sum(share.values())
    counted = _bytes(members, seen, lab)
    checks = {
        "replicas hold the same bits": len({each["sha256"] for each in checked}) == 1,
        "every round averaged": all(member["rounds"] == seen.rounds for member in members),
        "residual at most 2 %": abs(residual) <= MOST_RESIDUAL,
        "no phase is counted twice": share["around"] >= -MOST_RESIDUAL,
    }
    return replace(
        template,
        status=OK if all(checks.values()) else FAILED,
        reason=None if all(checks.values()) else "not so: " + ", ".join(name for name, held in checks.items() if not held),
        bytes=counted,
        seconds={"sync": Percentiles.of(max(each) for each in zip(*(member["sync"] for member in members), strict=True))},
        numbers={
            "utilisation": share["compute"],
            "residual": residual,
            "rounds": seen.rounds,
            "wall_s": fmean(member["wall"] for member in members),
            **{f"share_{name}": value for name, value in share.items()},
        },
        checks=checks,
    )


def _bytes(members: list[dict[str, Any]], seen: Seen, lab: Lab | None) -> Bytes:
    """Of one round, mean over members."""
    rounds = seen.rounds
    payload, ledger = (fmean(member[name] for member in members) / rounds for name in ("payload", "ledger"))
    if lab is None:
        sent, received = (fmean(each["wire"][way] for each in seen.checked[0]) / rounds for way in (0, 1))
        by = "simulated: packets of 1500 bytes, counted by no kernel"
        return Bytes(payload_sent=payload, ledger_sent=ledger, wire_sent=sent, wire_received=received, counted_by=by)
    return account.counted(seen, lab, len(members), payload=payload, ledger=ledger)
