"""Measure rows: in the lab's regions or as threads of one process, with workers that are started once."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from benchmarks.collectives import account
from benchmarks.collectives.account import bandwidths, between, seconds, where_bytes_went
from benchmarks.collectives.rows import THREADS, Row
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab
from benchmarks.suite.fleet import Enough, Fleet, Seen, start_here
from benchmarks.suite.kept import Kept, Opened
from benchmarks.suite.record import ABSENT, FAILED, OK, Asked, Bytes, Link, Made, Record
from benchmarks.suite.runs import Due

MOST_MEMORY = 0.6  # of what is available
SIMULATED_LINK: dict[str, Any] = {"mbit": 100.0, "rtt_ms": 20.0}  # where none is asked for: threads without a network are the row "local"
WORKER = "benchmarks.collectives.worker"


@dataclass(frozen=True)
class Ask:
    """What is the same for all rows: the links, how long to measure, and from which time of a round on a row is left out."""

    topology: Topology
    enough: Enough = field(default_factory=Enough)
    most_s: float = 10.0

    def of(self, row: Row) -> Topology:
        """The links of this row."""
        simulated = row.group == "simulated" and not self.topology.shaped
        return Topology.uniform(len(self.topology.regions), **SIMULATED_LINK) if simulated else self.topology

    def asked(self, row: Row) -> Link:
        """What its record says before anything is measured."""
        if row.group == "local":
            return Link("threads", Asked("memory of one process"))
        return Link("simulated" if row.group == "simulated" else "namespaces", Asked(**self.of(row).asked()))


class Bench(Kept):
    """Measures rows; close it with `with`."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask.topology, WORKER)
        self._ask = ask
        self._threads: Fleet | None = None
        self._world: tuple[str, int] | None = None
        self._port = self._attempt = 0

    def due(self, rows: list[Row]) -> Iterator[Due]:
        """One run a row."""
        for row in rows:
            link = self._ask.asked(row)
            template = Record(
                suite="collectives",
                key=row.key(link.asked.topology),
                status=FAILED,
                made=Made.now(),
                method=row.group,
                label=row.label,
                members=row.members,
                numel=row.numel,
                link=link,
                settings={"codec": row.codec, "sends": repr(row.fragment.plan.codec), "nbytes": row.nbytes, "collective": row.collective},
            )
            yield Due(template, partial(self.measure, row, template))

    def measure(self, row: Row, template: Record) -> Record:
        """One row; raises `RunError` when a worker failed."""
        reason = self._cannot(row)
        if reason:
            return replace(template, status=ABSENT, reason=reason)
        if row.group not in THREADS:
            return self.in_regions(template, partial(self._in_lab, row, template))
        with self.renewed_after_failure():
            return made_of(row, template, self._threads_fleet().ask(self._asked(row, None), self._ask.enough, list), None)

    def _in_lab(self, row: Row, template: Record, opened: Opened) -> Record:
        lab = opened.lab
        asked = self._asked(row, lab) | {"address": lab.address, "port": self._port}
        return made_of(row, replace(template, link=opened.link), opened.fleet.ask(asked, self._ask.enough, lab.traffic), lab)

    def _asked(self, row: Row, lab: Lab | None) -> dict[str, Any]:
        """What workers are told; rows of the same group and size in a row share a world of members."""
        if (row.group, row.members) != self._world:
            self._world, self._attempt = (row.group, row.members), self._attempt + 1
            self._port = lab.port() if lab else 0
        return {"row": asdict(row), "topology": asdict(self._ask.of(row)), "attempt": self._attempt}

    def _cannot(self, row: Row) -> str | None:
        """Why a row is left out."""
        topology = self._ask.of(row)
        if row.group == "simulated" and topology.congestion != "cubic":
            return f"a simulated link knows no {topology.congestion}"
        needed, free = row.memory_nbytes(), available_nbytes()
        if needed > MOST_MEMORY * free:
            return f"needs about {needed / 1e9:.1f} GB of memory on all members, {free / 1e9:.1f} GB are available here"
        least_s = 0.0 if row.group == "local" else row.least_s(topology)
        if least_s > self._ask.most_s:
            return f"one round would take {least_s:.0f} s on this link, above --most-s {self._ask.most_s:g}"
        return None

    def _threads_fleet(self) -> Fleet:
        if self._threads is None:
            self._threads = self._stack.enter_context(Fleet(WORKER, 1, start_here))
        return self._threads

    def forget(self) -> None:
        super().forget()
        self._threads = self._world = None


def made_of(row: Row, template: Record, seen: Seen, lab: Lab | None) -> Record:
    """The record of a row from what its workers saw."""
    threads = row.group in THREADS
    members = seen.seen[0] if threads else seen.seen[: row.members]
    checked = seen.checked[0] if threads else seen.checked[: row.members]
    rounds = seen.rounds
    before, after = seen.traffic
    wire = between(before[: row.members], after[: row.members]) if before and after else None
    counted = _bytes(row, members, seen, lab)
    regions = lab is not None and lab.share == 1
    packets = fmean(counts.packets_sent for counts in seen.counts[: row.members]) / rounds if regions else None
    took = seconds([member["laps"] for member in members])
    committed = min(member["committed"] for member in members)
    same = len({each["hash"] for each in checked}) == 1 and checked[0]["hash"] is not None
    numbers: dict[str, float | None] = {
        "rounds": rounds,
        "success": committed / rounds,
        "payload_nbytes": row.payload_nbytes,
        "moved_nbytes": row.moved_nbytes,
        **bandwidths(row, took),
        **where_bytes_went(row.moved_nbytes, counted, packets, wire),
    }
    if not threads:
        numbers["retransmitted"] = fmean(counts.retransmitted for counts in seen.counts[: row.members]) / rounds
    checks = {"aggregate is right": bool(checked[0]["right"]), "members hold the same bits": same}
    failed = [name for name, held in checks.items() if not held]
    status = FAILED if failed or not committed else OK
    reason = None if status == OK else f"not so: {', '.join(failed)}" if committed else "no round committed"
    return replace(template, status=status, reason=reason, bytes=counted, seconds=took, numbers=numbers, checks=checks)


def _bytes(row: Row, members: list[dict[str, Any]], seen: Seen, lab: Lab | None) -> Bytes:
    """Of one round, mean over members."""
    rounds = seen.rounds
    ledger = fmean(member["ledger"] for member in members) / rounds or None
    if row.group == "simulated":
        sent, received = (fmean(member["wire"][way] for member in members) / rounds for way in (0, 1))
        by = "simulated: packets of 1500 bytes, counted by no kernel"
        return Bytes(payload_sent=row.moved_nbytes, ledger_sent=ledger, wire_sent=sent, wire_received=received, counted_by=by)
    if lab is None or row.group == "local":
        return Bytes(payload_sent=row.moved_nbytes, ledger_sent=ledger)
    return account.counted(seen, lab, row.members, payload=row.moved_nbytes, ledger=ledger)


def available_nbytes() -> int:
    """Memory that programs can still get, as Linux says; no limit elsewhere."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62
