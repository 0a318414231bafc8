"""Measure rows in the lab: one namespace a peer, workers that are started once."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from benchmarks.collectives import account
from benchmarks.collectives.account import between, where_bytes_went
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab
from benchmarks.scaling.rows import GLOO, Row, crossing, gathered_nbytes, numel, payload_nbytes, ring_nbytes
from benchmarks.suite.fleet import Enough, Seen
from benchmarks.suite.kept import Kept, Opened
from benchmarks.suite.record import FAILED, OK, Asked, Link, Made, Percentiles, Record
from benchmarks.suite.runs import Due

WORKER = "benchmarks.scaling.worker"


class Bench(Kept):
    """Measures rows; close it with `with`."""

    def __init__(self, topology: Topology, enough: Enough) -> None:
        super().__init__(topology, WORKER)
        self._enough = enough
        self._attempt = 0
        self._numel = numel()

    def due(self, rows: list[Row]) -> Iterator[Due]:
        """One run a row."""
        link = Link("namespaces", Asked(**self.topology.asked()))
        for row in rows:
            template = Record(
                suite="scaling",
                key=row.key(link.asked.topology),
                status=FAILED,
                made=Made.now(),
                method=row.method,
                label=row.label,
                members=row.peers,
                numel=self._numel,
                link=link,
            )
            yield Due(template, partial(self.in_regions, template, partial(self._measure, row, template)))

    def _measure(self, row: Row, template: Record, opened: Opened) -> Record:
        self._attempt += 1
        asked = {"row": asdict(row), "address": opened.lab.address, "port": opened.lab.port(), "attempt": self._attempt}
        seen = opened.fleet.ask(asked, self._enough, opened.lab.traffic)
        return made_of(row, replace(template, link=opened.link), seen, opened.lab)


def made_of(row: Row, template: Record, seen: Seen, lab: Lab) -> Record:
    """The record of a row from what its workers saw."""
    members: list[dict[str, Any]] = seen.seen[: row.peers]
    counts = seen.counts[: row.peers]
    before, after = seen.traffic
    wire = between(before[: row.peers], after[: row.peers]) if before and after else None
    payload, dense = payload_nbytes(row.method), 4 * template.numel
    moved = ring_nbytes(row.peers, dense) if row.method in (GLOO, "none") else gathered_nbytes(row.peers, payload)
    ledger = fmean(member["ledger"] for member in members) / seen.rounds or None
    counted = account.counted(seen, lab, row.peers, payload=moved, ledger=ledger)
    packets = fmean(each.packets_sent for each in counts) / seen.rounds if lab.share == 1 else None
    committed = min(len(member["seconds"]) for member in members)
    same = len({each["hash"] for each in seen.checked[: row.peers]}) == 1
    numbers: dict[str, float | None] = {
        "rounds": seen.rounds,
        "success": committed / seen.rounds,
        "payload_nbytes": payload,
        "ring_nbytes": ring_nbytes(row.peers, dense),
        "crossing_peers": None if row.method in (GLOO, "none") else crossing(payload, dense),
        "retransmitted": fmean(each.retransmitted for each in counts) / seen.rounds,
        **where_bytes_went(moved, counted, packets, wire),
    }
    status = OK if same and committed else FAILED
    reason = None if status == OK else "no round committed" if not committed else "replicas hold different bits"
    took = _seconds([member["seconds"] for member in members]) if committed else {}
    checks = {"replicas hold the same bits": same}
    return replace(template, status=status, reason=reason, bytes=counted, seconds=took, numbers=numbers, checks=checks)


def _seconds(members: list[list[dict[str, float]]]) -> dict[str, Percentiles]:
    """Of each phase and the whole synchronisation; a round takes what its slowest member takes."""
    rounds = list(zip(*members, strict=False))
    phases = rounds[0][0].keys()
    found = {phase: Percentiles.of(max(member[phase] for member in each) for each in rounds) for phase in phases}
    return found | {"sync": Percentiles.of(max(sum(member.values()) for member in each) for each in rounds)}
