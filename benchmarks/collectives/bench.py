"""Measure rows: in the lab's regions or as threads of one process, with workers that are started once."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from benchmarks.collectives.account import bandwidths, between, seconds, where_bytes_went
from benchmarks.collectives.rows import THREADS, Row
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.wan import Lab, Traffic, Void, open_lab, open_loopback
from benchmarks.suite.fleet import Enough, Fleet, Seen, start_here
from benchmarks.suite.link import topology_of
from benchmarks.suite.record import ABSENT, FAILED, OK, VOID, Asked, Bytes, Link, Made, Record
from benchmarks.suite.runs import Due, RunError

MOST_MEMORY = 0.6  # of what is available
SIMULATED_LINK = "100:20"  # where none is asked for: threads without a network are the row "local"
WORKER = "benchmarks.collectives.worker"


@dataclass(frozen=True)
class Ask:
    """What is the same for all rows: the link by options, how long to measure, and what counts as too long."""

    members: int
    link: str = ""
    topology: str = ""
    enough: Enough = field(default_factory=Enough)
    most_s: float = 60.0

    def of(self, row: Row) -> dict[str, str]:
        """The link's options for this row."""
        unshaped = not self.link and not self.topology
        return {"link": SIMULATED_LINK if row.group == "simulated" and unshaped else self.link, "topology": self.topology}

    def asked(self, row: Row) -> Link:
        """What a record says before anything is measured."""
        if row.group == "local":
            return Link("threads", Asked("memory of one process"))
        topology = topology_of(self.members, **self.of(row))
        return Link("simulated" if row.group == "simulated" else "namespaces", Asked(**topology.asked()))


class Bench:
    """Keeps the lab and its workers from row to row; close it with `with`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._stack = ExitStack()
        self._lab: Lab | None = None
        self._link: Link | None = None
        self._fleets: dict[str, Fleet | RunError] = {}
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
        template = replace(template, made=Made.now())
        reason = self._too_much(row)
        if reason:
            return replace(template, status=ABSENT, reason=reason)
        try:
            fleet, link = self._fleet(row)
        except LabError as error:
            return replace(template, status=ABSENT, reason=str(error))
        except Void as error:
            return replace(template, status=VOID, reason=str(error))
        if (row.group, row.members) != self._world:
            self._world, self._attempt = (row.group, row.members), self._attempt + 1
            self._port = self._lab.port() if self._lab and row.group not in THREADS else 0
        asked = {
            "row": asdict(row),
            "link": self._ask.of(row),
            "address": self._lab.address if self._lab else "",
            "port": self._port,
            "attempt": self._attempt,
        }
        traffic = self._lab.traffic if self._lab and row.group not in THREADS else list
        seen = fleet.ask(asked, self._ask.enough, traffic)
        return made_of(row, replace(template, link=link or template.link), seen, self._lab)

    def _too_much(self, row: Row) -> str | None:
        needed, free = row.memory_nbytes(), available_nbytes()
        if needed > MOST_MEMORY * free:
            return f"needs about {needed / 1e9:.1f} GB of memory on all members, {free / 1e9:.1f} GB are available here"
        least_s = 0.0 if row.group == "local" else row.least_s(topology_of(self._ask.members, **self._ask.of(row)))
        if least_s > self._ask.most_s:
            return f"one round would take {least_s:.0f} s on this link, above --most-s {self._ask.most_s:g}"
        return None

    def _fleet(self, row: Row) -> tuple[Fleet, Link | None]:
        kind = "threads" if row.group in THREADS else "processes"
        if kind not in self._fleets:
            try:
                self._fleets[kind] = self._open(kind)
            except RunError as error:
                self._fleets[kind] = error
        fleet = self._fleets[kind]
        if isinstance(fleet, RunError):
            raise fleet
        return fleet, None if kind == "threads" else self._link

    def _open(self, kind: str) -> Fleet:
        if kind == "threads":
            return self._stack.enter_context(Fleet(WORKER, 1, start_here))
        topology = topology_of(self._ask.members, self._ask.link, self._ask.topology)
        if self._lab is None:
            self._lab = self._stack.enter_context(open_here(self._ask))
        lab = self._lab
        if self._link is None:
            self._link = lab.verify() if self._ask.link or self._ask.topology else lab.link()

        def start(rank: int, argv: list[str], env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
            return lab.start(rank, argv, env=env, log=log)

        rtt_s = topology.asked()["rtt_ms"] / 1000
        return self._stack.enter_context(Fleet(WORKER, self._ask.members, start, interface=lab.interface, rtt_s=rtt_s))

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


@contextmanager
def open_here(ask: Ask) -> Iterator[Lab]:
    """The lab as root; for other users the loopback, which is not shaped: who asks for a shaped link without root gets a `LabError`."""
    shaped = bool(ask.link or ask.topology)
    if os.geteuid() != 0 and not shaped:
        with open_loopback(ask.members) as lab:
            yield lab
    else:
        with open_lab(topology_of(ask.members, ask.link, ask.topology)) as lab:
            yield lab


def made_of(row: Row, template: Record, seen: Seen, lab: Lab | None) -> Record:
    """The record of a row from what its workers saw."""
    threads = row.group in THREADS
    members = seen.seen[0] if threads else seen.seen[: row.members]
    checked = seen.checked[0] if threads else seen.checked[: row.members]
    rounds = seen.rounds
    before, after = seen.traffic
    wire = between(before[: row.members], after[: row.members]) if before and after else None
    counted = _bytes(row, members, seen, wire, lab)
    took = seconds([member["laps"] for member in members])
    committed = min(member["committed"] for member in members)
    same = len({each["hash"] for each in checked}) == 1 and checked[0]["hash"] is not None
    numbers: dict[str, float | None] = {
        "rounds": rounds,
        "success": committed / rounds,
        "payload_nbytes": row.payload_nbytes,
        "moved_nbytes": row.moved_nbytes,
        **bandwidths(row, took),
        **where_bytes_went(row.moved_nbytes, counted, wire),
    }
    if not threads:
        numbers["retransmitted"] = fmean(counts.retransmitted for counts in seen.counts[: row.members]) / rounds
    checks = {"aggregate is right": bool(checked[0]["right"]), "members hold the same bits": same}
    failed = [name for name, held in checks.items() if not held]
    status = FAILED if failed or not committed else OK
    reason = None if status == OK else f"not so: {', '.join(failed)}" if committed else "no round committed"
    return replace(template, status=status, reason=reason, bytes=counted, seconds=took, numbers=numbers, checks=checks)


def _bytes(row: Row, members: list[dict[str, Any]], seen: Seen, wire: Traffic | None, lab: Lab | None) -> Bytes:
    """Of one round, mean over members."""
    rounds = seen.rounds
    ledger = fmean(member["ledger"] for member in members) / rounds or None
    if row.group == "simulated":
        sent, received = (fmean(member["wire"][way] for member in members) / rounds for way in (0, 1))
        by = "simulated: packets of 1500 bytes, counted by no kernel"
        return Bytes(payload_sent=row.moved_nbytes, ledger_sent=ledger, wire_sent=sent, wire_received=received, counted_by=by)
    if lab is None or row.group == "local":
        return Bytes(payload_sent=row.moved_nbytes, ledger_sent=ledger)
    counts = seen.counts[: row.members]
    share = row.members if lab.share > 1 else 1
    return Bytes(
        payload_sent=row.moved_nbytes,
        ledger_sent=ledger,
        interface_sent=fmean(each.sent for each in counts) / rounds / share,
        interface_received=fmean(each.received for each in counts) / rounds / share,
        wire_sent=wire.sent / rounds / row.members if wire else None,
        wire_received=wire.received / rounds / row.members if wire else None,
        counted_by=lab.counted_by,
    )


def available_nbytes() -> int:
    """Memory that programs can still get, as Linux says; no limit elsewhere."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62
