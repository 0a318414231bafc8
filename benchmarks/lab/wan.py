"""The WAN lab: open it, start programs in its regions, change its links, cut them, read its counters.

with open_lab(Topology.read("home")) as lab:
    lab.verify()                                            # or `Void`: the link is not what was asked
    process = lab.start(0, ["python", "train.py"], log=Path("region0.log"))
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from msgspec.structs import replace

from benchmarks.lab import namespaces, probe, regions
from benchmarks.lab.control import Control
from benchmarks.lab.namespaces import INTERFACE, PREFIX, RUN, LabError
from benchmarks.lab.topology import Topology
from benchmarks.suite.record import ROOT, Asked, Link

START_S = 60.0
TRIES = 3  # of a measurement: another program may have had the machine for a moment


class Void(RuntimeError):
    """The link was measured and is not what was asked; the message says which, by how much, and the remedy."""


@dataclass(frozen=True)
class Place:
    """Where a region's programs run: `prefix` are the words in front of a command."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Traffic:
    """Of one region, counted by the relay as IP packets of at most 1500 bytes: what it sent, what reached it."""

    sent: int
    received: int
    packets: int
    tcp_payload: int
    acks: int  # packets without payload
    ack_nbytes: int
    dropped: int  # for want of room in a queue
    lost: int


@dataclass
class Lab:
    """Regions that are up. `kind` is "namespaces" or "loopback"; one counter of `interface` sees the traffic of `share` workers."""

    kind: str
    topology: Topology
    places: tuple[Place, ...]
    interface: str
    share: int
    control: Control | None = None
    spaces: tuple[str, ...] = ()
    relay: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _found: tuple[Topology, float, Link] | None = field(default=None, repr=False)  # by the last measurement
    _ports: Iterator[int] = field(default_factory=lambda: iter(range(29500, 65000)), repr=False)

    @property
    def counted_by(self) -> str:
        """Says it in the table."""
        if self.share == 1:
            return f"{self.interface} in each worker's network namespace"
        return f"{self.interface} of this machine / {self.share} workers"

    @property
    def address(self) -> str:
        """Of region 0, where the others look for it."""
        return self.places[0].address

    def port(self) -> int:
        """One that no run of this lab has used, and nobody has taken in region 0."""
        if self.kind != "namespaces":
            return _free_port()
        with namespaces.inside(self.spaces[0]):
            return next(port for port in self._ports if _is_free(port))

    def start(
        self, i: int, words: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None, cwd: Path | None = None,
        **options: Any,
    ) -> "subprocess.Popen[bytes]":  # fmt: skip
        """Run a command in region `i` with its own hostname and hosts file; output to `log`, or this process's own."""
        own = {"GLOO_SOCKET_IFNAME": self.interface} | ({"THINWIRE_LAB": str(self.control.path)} if self.control else {})
        with log.open("ab") if log else contextlib.nullcontext() as output:
            given: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT} if output else {}
            return subprocess.Popen(
                [*self.places[i].prefix, *words], env={**os.environ, **own, **(env or {})}, cwd=cwd, **(given | options)
            )

    def check(self) -> None:
        """Raises `LabError` when the relay has ended: then no packet moves, and programs wait for each other until their patience ends."""
        if self.relay and self.relay.poll() is not None:
            how = signal.Signals(-self.relay.returncode).name if self.relay.returncode < 0 else self.relay.returncode
            raise LabError(f"the relay between the regions ended with {how}; run this again with --keep, and end what kills it")

    def link(self) -> Link:
        """What is asked of the links, for a record."""
        asked = Asked(**self.topology.asked()) if self.kind == "namespaces" else Asked("loopback")
        return Link(self.kind, asked)

    def verify(self, *, fresh_s: float = 0.0) -> Link:
        """Measure round trips and rates; raises `Void` when one is off by more than 5 % (round trips: and 2 ms).

        What was found of the same links less than `fresh_s` ago counts.
        """
        self.check()
        if self.kind != "namespaces":
            return self.link()
        if self._found and self._found[0] == self.topology and time.monotonic() - self._found[1] < fresh_s:
            return self._found[2]
        self._found = None
        for _ in range(TRIES):
            found = probe.measure(self)
            if not found.off:
                break
        else:
            more = f" ({len(found.off) - 1} more)" if len(found.off) > 1 else ""
            raise Void(f"{found.off[0]}{more}; the links are not what was asked: end what else runs on this machine, or ask for less")
        self._found = self.topology, time.monotonic(), replace(self.link(), measured=found.measured)
        return self._found[2]

    def traffic(self) -> list[Traffic]:
        """Of each region so far; empty where no relay counts."""
        totals = self.control.ask("counts") if self.control else []
        named = [each.name for each in fields(Traffic) if each.name != "sent"]
        return [Traffic(sent=total["nbytes"], **{name: total[name] for name in named}) for total in totals]

    def health(self) -> dict[str, Any]:
        """The relay since the last call: share of a core, the greatest lateness of a packet in ms, whether it had priority."""
        found: dict[str, Any] = self.control.ask("health") if self.control else {}
        return found

    def change(self, topology: Topology) -> None:
        """Other rates, ways and TCP for the same regions; packets under way keep their times, connections their congestion control."""
        names = [region.name for region in topology.regions]
        if names != [place.name for place in self.places] or [r.nat for r in topology.regions] != [r.nat for r in self.topology.regions]:
            raise LabError(
                f"the lab has regions {', '.join(p.name for p in self.places)}; it cannot become {', '.join(names)}: open another"
            )
        if self.control:
            self.control.ask("shape", links=links(topology))
        self.topology = topology

    def cut(self, *which: int, others: Sequence[int] | None = None, mend: bool = False) -> None:
        """Let packets between regions `which` and `others` (None: everybody else) vanish, each way; `mend` lets them pass again."""
        if self.control is None:
            raise LabError("the loopback cannot be cut; open the lab as root")
        self.control.ask("cut", regions=list(which), others=None if others is None else list(others), cut=not mend)

    def kill(self, i: int) -> None:
        """SIGKILL to every process of region `i`."""
        if not self.spaces:
            raise LabError("the loopback has no regions to kill; open the lab as root")
        namespaces.kill_all(self.spaces[i])


@contextlib.contextmanager
def open_lab(topology: Topology) -> Iterator[Lab]:
    """Build regions and the Internet between them; all of it is gone at the end, also after an error, Ctrl-C, SIGTERM or SIGKILL.

    Raises `LabError` when this machine or user cannot.
    """
    namespaces.refuse_if_impossible(nat=any(region.nat for region in topology.regions))
    namespaces.take_down_leftovers()
    tag = f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
    (RUN / tag).mkdir(parents=True)
    with _sigterm_interrupts(), (RUN / f"{tag}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by this process and the relay: who finds it free cleans up
        relay = _start_relay(lock)
        try:
            control = RUN / tag / "control"
            _tell(relay, {"tag": tag, "control": str(control), "links": links(topology)} | _names(topology))
            spaces = tuple(regions.space(tag, i) for i in range(len(topology.regions)))
            addresses = regions.addresses([region.nat for region in topology.regions])
            places = tuple(map(_place, (region.name for region in topology.regions), spaces, addresses))
            with contextlib.closing(Control(control, RUN / tag)) as client:
                yield Lab("namespaces", topology, places, INTERFACE, 1, client, spaces, relay)
        finally:
            assert relay.stdin is not None
            assert relay.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                relay.stdin.close()  # it takes everything down
            try:
                relay.wait(START_S)
            finally:
                relay.kill()
                relay.stdout.close()
                namespaces.take_down(tag)


@contextlib.contextmanager
def open_loopback(n: int) -> Iterator[Lab]:
    """`n` places that are this machine itself: nothing is shaped, and only all traffic together is counted."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.connect(("127.0.0.1", 9))
    except OSError as error:
        raise LabError(f"nothing can be reached on the loopback ({error.strerror}); bring it up: ip link set lo up") from None
    places = tuple(Place(f"r{i}", "127.0.0.1") for i in range(n))
    yield Lab("loopback", Topology.uniform(n), places, "lo", n)


def links(topology: Topology) -> dict[str, Any]:
    """What the relay needs to know."""
    n = range(len(topology.regions))
    way = [[topology.way_between(i, j) for j in n] for i in n]
    return {
        "up_mbit": [region.up_mbit for region in topology.regions],
        "down_mbit": [region.down_mbit for region in topology.regions],
        "queue_ms": topology.queue_ms,
        "delay_ms": [[way[i][j].rtt_ms / 2 for j in n] for i in n],
        "jitter_ms": [[way[i][j].jitter_ms for j in n] for i in n],
        "loss": [[way[i][j].loss for j in n] for i in n],
        "congestion": topology.congestion,
    }


def _names(topology: Topology) -> dict[str, Any]:
    return {"names": [region.name for region in topology.regions], "nat": [region.nat for region in topology.regions]}


def _place(name: str, space: str, address: str) -> Place:
    enter = ("ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name)
    return Place(name, address, enter)


def _start_relay(lock: IO[str]) -> "subprocess.Popen[bytes]":
    # In a session of its own: Ctrl-C is for us, and it must outlive us to clean up.
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lab.relay"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lock.fileno()], start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip


def _tell(relay: "subprocess.Popen[bytes]", spec: dict[str, Any]) -> None:
    assert relay.stdin is not None
    assert relay.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        relay.stdin.write(json.dumps(spec).encode() + b"\n")
        relay.stdin.flush()
    answer = relay.stdout.readline().decode().strip()
    if answer != "ready":
        raise LabError(answer.removeprefix("error ") or f"the relay ended with {relay.wait()} before it was ready")


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the lab as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # whoever runs there decides
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _is_free(port: int) -> bool:
    with socket.socket() as here, contextlib.suppress(OSError):
        here.bind(("", port))
        return True
    return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
