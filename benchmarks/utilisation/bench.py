"""Measure points in one lab whose links change under workers that are started once."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from benchmarks.collectives.account import between
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.wan import Lab, Void
from benchmarks.scaling.rows import numel
from benchmarks.suite.fleet import Enough, Seen
from benchmarks.suite.link import Opened, Wanted, open_fleet
from benchmarks.suite.record import ABSENT, FAILED, OK, VOID, Bytes, Made, Percentiles, Record
from benchmarks.suite.runs import Due, RunError
from benchmarks.utilisation.points import MEMBERS, PACE_MS, Point
from benchmarks.utilisation.worker import PHASES

WORKER = "benchmarks.utilisation.worker"
MOST_RESIDUAL = 0.02  # of the wall time that nobody can account for


class Bench:
    """Keeps the lab and its workers from point to point; close it with `with`."""

    def __init__(self, enough: Enough, pace_ms: float = PACE_MS) -> None:
        self._enough, self._pace_ms = enough, pace_ms
        self._stack = ExitStack()
        self._opened: Opened | None = None
        self._attempt = 0

    def due(self, points: list[Point]) -> Iterator[Due]:
        """One run a point."""
        for point in points:
            template = Record(
                suite="utilisation",
                key=point.key,
                status=FAILED,
                made=Made.now(),
                method="diloco",
                label=point.label,
                members=MEMBERS,
                numel=numel(),
                sync_every=point.sync_every,
                link=Wanted(MEMBERS).asked(),
                settings={"codec": point.codec, "overlap": point.overlap, "pace_ms": self._pace_ms, "compute": "a sleep of pace_ms a step"},
            )
            yield Due(template, partial(self.measure, point, template))

    def measure(self, point: Point, template: Record) -> Record:
        """One point; raises `RunError` when a worker failed."""
        template = replace(template, made=Made.now())
        try:
            opened = self._open()
            opened.lab.change(point.topology)
            template = replace(template, link=opened.lab.link())
            link = opened.lab.verify()
        except LabError as error:
            return replace(template, status=ABSENT, reason=str(error))
        except Void as error:
            return replace(template, status=VOID, reason=str(error))
        self._attempt += 1
        where = {"address": opened.lab.address, "port": opened.lab.port(), "attempt": self._attempt}
        asked = {"point": asdict(point), "pace_s": self._pace_ms / 1e3} | where
        try:
            seen = opened.fleet.ask(asked, self._enough, opened.lab.traffic)
        except RunError:
            self._forget()  # the next point gets new workers
            raise
        return made_of(replace(template, link=link), seen, opened.lab)

    def _open(self) -> Opened:
        if self._opened is None:
            # Links are verified point by point.
            self._opened = open_fleet(self._stack, Wanted(MEMBERS), WORKER)
            if self._opened.lab.kind != "namespaces":
                self._forget()
                raise LabError("utilisation needs links that are shaped: run as root, with iproute2 and /dev/net/tun")
        return self._opened

    def _forget(self) -> None:
        self._stack.close()
        self._opened = None

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def made_of(template: Record, seen: Seen, lab: Lab) -> Record:
    """The record of a point from what its workers saw: shares of the wall time, mean over members."""
    members: list[dict[str, Any]] = seen.seen
    share = {name: fmean(member[name] / member["wall"] for member in members) for name in ("compute", "inner", *PHASES)}
    residual = 1 - sum(share.values())
    before, after = seen.traffic
    wire = between(before, after)
    per = seen.rounds * len(members)
    counted = Bytes(
        payload_sent=fmean(member["payload"] for member in members) / seen.rounds,
        ledger_sent=fmean(member["ledger"] for member in members) / seen.rounds,
        interface_sent=fmean(each.sent for each in seen.counts) / seen.rounds,
        interface_received=fmean(each.received for each in seen.counts) / seen.rounds,
        wire_sent=wire.sent / per,
        wire_received=wire.received / per,
        counted_by=lab.counted_by,
    )
    checks = {
        "replicas hold the same bits": len(set(seen.checked)) == 1,
        "every round averaged": all(member["rounds"] == seen.rounds for member in members),
        "residual at most 2 %": abs(residual) <= MOST_RESIDUAL,
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
