"""Measure the links of a lab: round trips by UDP echo, rates by sending more than fits and counting what arrives.

The same file is the program that runs in each region (`python probe.py`, standard library alone): it takes commands on its standard
input and answers a line of JSON each.
"""

import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.lab.wan import Lab
    from benchmarks.suite.record import Measured

PORT = 4009
DATAGRAM = 1472  # fills a packet of 1500 bytes
HEADERS_NBYTES = 28  # IP and UDP
PINGS = 5
LOST_S = 1.5
BLAST_S = 0.6
STREAM_S = 5.0
PATIENCE_S = 120.0  # for one answer: no command takes half as long
ENDED = b'{"error": "its process was ended"}'
EXCESS = 1.1  # of the rate that is sent, so that the link and nothing else limits
TOLERANCE, LEAST_RTT_MS = 0.05, 2.0  # what a link may be off by before a run on it is void
_UDP_SEGMENT, _UDP_GRO, _SO_RCVBUFFORCE = 103, 104, 33


@dataclass(frozen=True)
class Found:
    """What was measured, and a sentence for each link that is not what was asked."""

    measured: "Measured"
    off: list[str]


# -- the side of the lab -----------------------------------------------------------------------------------------------------------


class Probes:
    """A probe in each region, asked all at once."""

    def __init__(self, lab: "Lab") -> None:
        words = [sys.executable, "-S", "-E", str(Path(__file__).resolve())]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}  # Ctrl-C is for us
        self.lab = lab
        self._processes = [lab.start(i, words, **pipes) for i in range(len(lab.places))]
        try:
            self.ask([{"op": "ready"}] * len(lab.places))
        except BaseException:
            self.close()
            raise

    def ask(self, each: "list[dict[str, Any] | None]") -> list[Any]:
        """Give every region its command (None: nothing to do), then wait for the answers. Raises `LabError` when a probe has none."""
        busy = [(i, self._processes[i], command) for i, command in enumerate(each) if command]
        for _, process, command in busy:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # why it ended is what it said last
                process.stdin.write(json.dumps(command).encode() + b"\n")
                process.stdin.flush()
        until = time.monotonic() + PATIENCE_S
        answers: list[Any] = [None] * len(each)
        for i, process, _ in busy:
            assert process.stdout is not None
            heard = select.select([process.stdout], (), (), max(0.0, until - time.monotonic()))[0]
            answers[i] = json.loads(process.stdout.readline() or ENDED) if heard else {"error": f"no answer in {PATIENCE_S:g} s"}
            if isinstance(answers[i], dict) and "error" in answers[i]:
                from benchmarks.lab.namespaces import LabError

                what = f"region {self.lab.places[i].name} cannot be probed: {answers[i]['error']}"
                raise LabError(f"{what}; end what uses UDP port {PORT} or stops processes there, and run this again")
        return answers

    def __enter__(self) -> "Probes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.communicate()


def measure(lab: "Lab") -> Found:
    """Round trips of all pairs; then all uplinks at once, each to the next region, and the downlinks which that cannot fill."""
    from benchmarks.suite.record import Measured

    off: list[str] = []
    errors = [0.0]
    with Probes(lab) as probes:
        trips = _round_trips(probes, off, errors)
        ups, downs = _rates(probes, off, errors)
    return Found(
        Measured(
            up_mbit=round(min(ups), 3) if ups else None,
            down_mbit=round(min(downs), 3) if downs else None,
            rtt_ms=round(max(trips), 3) if trips else None,
            worst_error=round(max(errors), 4),
        ),
        off,
    )


def _round_trips(probes: Probes, off: list[str], errors: list[float]) -> list[float]:
    lab = probes.lab
    addresses = [place.address for place in lab.places]
    answers = probes.ask([{"op": "ping", "to": [a for a in addresses if a != own]} for own in addresses])
    trips = []
    for i, answer in enumerate(answers):
        for j in range(len(addresses)):
            way = lab.topology.way_between(i, j)
            if i >= j:
                continue
            found = answer.get(addresses[j])
            between = f"between {lab.places[i].name} and {lab.places[j].name}"
            if found is None:
                off.append(f"no packet passes {between}")
                continue
            trips.append(found)
            # Jitter adds the mean of the absolute value of a normal variable, each way.
            asked = way.rtt_ms + 2 * 0.8 * way.jitter_ms
            allowed = max(TOLERANCE * asked, LEAST_RTT_MS) + 2 * way.jitter_ms
            errors.append(max(0.0, abs(found - asked) - LEAST_RTT_MS) / max(asked, 1.0))
            if abs(found - asked) > allowed:
                off.append(f"the round trip {between} is {found:.1f} ms, {asked:.1f} ms were asked")
    return trips


def _rates(probes: Probes, off: list[str], errors: list[float]) -> tuple[list[float], list[float]]:
    """Measured Mbit/s of the uplinks and downlinks that have a limit."""
    lab = probes.lab
    regions, n = lab.topology.regions, len(lab.places)
    if n < 2:
        return [], []
    ups, downs = [], []
    ring = [(i, (i + 1) % n) for i in range(n)]
    wanted = {(i, j): _least(regions[i].up_mbit, regions[j].down_mbit) for i, j in ring}
    got = _blast(probes, {pair: rate for pair, rate in wanted.items() if rate})
    for (i, j), found in got.items():
        asked = wanted[i, j]
        ups += [found] if asked == regions[i].up_mbit else []
        downs += [found] if asked == regions[j].down_mbit else []
        _judge(f"from {lab.places[i].name} to {lab.places[j].name}", found, asked, off, errors)
    for j in range(n):
        down = regions[j].down_mbit
        if down is None or wanted[(j - 1) % n, j] == down:
            continue
        others = [i for i in range(n) if i != j]
        asked = _least(down, sum(regions[i].up_mbit or 1e9 for i in others))
        assert asked is not None
        shares = {(i, j): min(regions[i].up_mbit or 1e9, asked) / (1 if regions[i].up_mbit else len(others)) for i in others}
        found = sum(_blast(probes, shares).values())
        downs += [found] if asked == down else []
        _judge(f"to {lab.places[j].name} from all others", found, asked, off, errors)
    return ups, downs


def _judge(which: str, found: float, asked: float | None, off: list[str], errors: list[float]) -> None:
    assert asked is not None
    errors.append(abs(found / asked - 1))
    if errors[-1] > TOLERANCE:
        off.append(f"the rate {which} is {found:.3g} Mbit/s, {asked:g} were asked")


def _least(*rates: float | None) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)


def _blast(probes: Probes, pairs: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Mbit/s that arrive of each pair while more than its rate is sent, losses of the way added back."""
    if not pairs:
        return {}
    lab, n = probes.lab, len(probes.lab.places)
    to = {i: (lab.places[j].address, EXCESS * rate) for (i, j), rate in pairs.items()}
    # The receivers count while they send: all of them have a command.
    longest_ms = max(way.rtt_ms for way in (lab.topology.way_between(i, j) for i, j in pairs)) / 2
    seconds = BLAST_S + longest_ms / 1e3 + lab.topology.queue_ms / 1e3 + 0.3
    answers = probes.ask([{"op": "blast", "to": to.get(i), "count_s": seconds} for i in range(n)])
    found = {}
    for i, j in pairs:
        # By sender where several send to one; the address that a home router gives is the region's.
        kept = 1 - lab.topology.way_between(i, j).loss
        found[i, j] = (answers[j] or {}).get(lab.places[i].address, 0.0) / kept
    return found


# -- the side of a region ----------------------------------------------------------------------------------------------------------


class Probe:
    """One socket that echoes, pings, sends and counts."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("", PORT))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.socket.setblocking(False)
        try:
            self.socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)  # what came as one piece is read as one piece
        except OSError:
            pass  # an old kernel: more calls
        self.buffer = bytearray(1 << 16)

    def serve(self) -> None:
        """Echo, and do what is said on standard input."""
        pending = b""
        while True:
            ready, _, _ = select.select([self.socket.fileno(), 0], (), ())
            if self.socket.fileno() in ready:
                self.read(echo=True)
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                pending += data
                while b"\n" in pending:
                    line, _, pending = pending.partition(b"\n")
                    command = json.loads(line)
                    print(json.dumps(self.do(command)), flush=True)

    def do(self, command: "dict[str, Any]") -> Any:
        if command["op"] == "ping":
            return self.ping(command["to"])
        if command["op"] == "listen":
            self.listener = socket.create_server(("", PORT))
        if command["op"] == "stream":
            return self.stream(command["to"], command["seconds"])
        if command["op"] == "blast":
            return self.blast(command["to"], command["count_s"])
        return command["op"]

    def read(self, *, echo: bool) -> "list[tuple[str, int, bytes, float]]":
        """What has arrived: (sender, bytes with headers, first bytes, when)."""
        found: list[tuple[str, int, bytes, float]] = []
        while True:
            try:
                nbytes, (sender, port) = self.socket.recvfrom_into(self.buffer)
            except OSError:
                return found
            kind, now = bytes(self.buffer[:9]), time.monotonic()
            if kind[:1] == b"?":  # always answered, also while we send
                self.socket.sendto(b"!" + self.buffer[1:nbytes], (sender, port))
            packets = -(-nbytes // DATAGRAM)
            found.append((sender, nbytes + packets * HEADERS_NBYTES, kind, now))

    def ping(self, to: "list[str]") -> "dict[str, float]":
        """Median round trip in ms to each that answers."""
        trips: dict[str, list[float]] = {address: [] for address in to}
        for number in range(PINGS + 1):
            if number > 2:  # who has answered nothing so far is not there
                to = [address for address in to if trips[address]]
            sent: dict[str, float] = {}
            for address in to:
                sent[address] = time.monotonic()
                self.socket.sendto(b"?" + struct.pack("<d", sent[address]) + bytes([number]), (address, PORT))
            until, waiting = time.monotonic() + LOST_S, set(to)
            while waiting and time.monotonic() < until:
                select.select([self.socket], (), (), 0.1)
                for sender, _, kind, now in self.read(echo=True):
                    if kind[:1] == b"!" and sender in waiting and struct.unpack("<d", kind[1:])[0] == sent[sender]:
                        waiting.discard(sender)
                        if number:  # the first one finds the way: neighbours, a home router's table
                            trips[sender].append(1e3 * (now - sent[sender]))
        return {address: median(found) for address, found in trips.items() if found}

    def blast(self, to: "list[Any] | None", count_s: float) -> "dict[str, float]":
        """Send to one region for a while, count for longer; Mbit/s of each sender between its first and its last piece."""
        seen: dict[str, list[tuple[float, int]]] = {}
        begun = time.monotonic()
        if to:
            address, mbit = to
            rate = mbit * 125e3
            segments = max(1, min(44, int(rate * BLAST_S / 40 / DATAGRAM)))
            piece = bytes([0]) * (DATAGRAM * segments)
            cut = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", DATAGRAM))] if segments > 1 else []
        sent = 0
        while (elapsed := time.monotonic() - begun) < count_s:
            if to and elapsed < BLAST_S:
                while sent < rate * elapsed:
                    try:
                        self.socket.sendmsg([piece], cut, 0, (address, PORT))  # by the one port that a home router lets answers to
                    except BlockingIOError:
                        break
                    sent += len(piece) + segments * HEADERS_NBYTES
                wait = min(0.002, len(piece) / rate)
            else:
                wait = count_s - elapsed
            select.select([self.socket], (), (), wait)
            for sender, nbytes, kind, now in self.read(echo=True):
                if kind[:1] == b"\0":
                    seen.setdefault(sender, []).append((now, nbytes))
        return {sender: _rate(pieces) for sender, pieces in seen.items()}

    def stream(self, to: "str | None", seconds: float) -> "float | None":
        """Send to one region by TCP, take what another sends; Mbit/s taken in the last 5 s: before, TCP looks for its rate."""
        begun = time.monotonic()
        out = socket.create_connection((to, PORT)) if to else None
        incoming: list[socket.socket] = [self.listener]
        if out:
            out.setblocking(False)
        zeros, taken = bytes(1 << 18), 0
        while (elapsed := time.monotonic() - begun) < seconds:
            ready, _, _ = select.select(incoming, [out] if out else [], (), seconds - elapsed)
            if out:
                try:
                    out.send(zeros)
                except BlockingIOError:
                    pass
            for one in ready:
                if one is self.listener:
                    incoming.append(one.accept()[0])
                elif elapsed > seconds - STREAM_S:
                    taken += one.recv_into(self.buffer)
                else:
                    one.recv_into(self.buffer)
        for one in incoming:
            one.close()
        return taken * 8e-6 / STREAM_S if len(incoming) > 1 else None


def _rate(pieces: "list[tuple[float, int]]") -> float:
    """Mbit/s after the first piece, whose own time on the link began before it was seen."""
    seconds = pieces[-1][0] - pieces[0][0]
    return sum(nbytes for _, nbytes in pieces[1:]) * 8e-6 / seconds if seconds > 0 else 0.0


def hurry(priority: int) -> bool:
    """Run before ordinary processes: a busy machine is not the link's fault."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    hurry(1)
    try:
        Probe().serve()
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
