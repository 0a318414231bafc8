"""The Internet between the regions: one process of Python's standard library that holds their TUN devices and moves every packet.

    uplink (rate, drop-tail queue) -> delay + jitter + loss of the pair, order kept -> downlink (rate, drop-tail queue)

Started by `wan.open_lab`: `python -m benchmarks.lab.relay`, one line of JSON on its standard input. It builds the namespaces, says
"ready", and takes everything down when that input ends, also because the process that held it was killed.
"""

import gc
import heapq
import json
import os
import random
import select
import socket
import sys
import time
from typing import Any

from benchmarks.lab import namespaces
from benchmarks.lab.droptail import INF, Queue
from benchmarks.lab.namespaces import VNET_HEADER_NBYTES
from benchmarks.lab.probe import hurry
from benchmarks.lab.regions import Built, build

READ_NBYTES = VNET_HEADER_NBYTES + (1 << 16)
PACE_S = 200e-6  # rest between two turns: packets come in batches, at half the processor time
BURST = 64  # packets of one region before the others have their turn
_TCP, _UDP = 6, 17


# when, order, at the end of the downlink, from, to, its bytes on the wire, those of its first packet, the packet
Event = tuple[float, int, bool, int, int, int, int, bytes]
COUNTS = ("nbytes", "packets", "tcp_payload", "acks", "ack_nbytes", "delivered", "dropped", "lost")


class Internet:
    """Queues and counters; times are seconds of `time.monotonic`."""

    def __init__(self, tuns: list[int], addresses: list[str]) -> None:
        self.tuns, n = tuns, len(tuns)
        self.index = {socket.inet_aton(address): i for i, address in enumerate(addresses)}
        self.events: list[Event] = []
        self.order = 0
        self.up, self.down = ([Queue(None, 0) for _ in range(n)] for _ in range(2))
        self.seen_empty = [0.0] * n
        self.arrived = [[0.0] * n for _ in range(n)]  # the last packet of a pair: jitter keeps the order
        self.cut = [[False] * n for _ in range(n)]
        # of each ordered pair: what left the sender, in IP packets of 1500 bytes, and what became of it
        self.counts = [[dict.fromkeys(COUNTS, 0) for _ in range(n)] for _ in range(n)]
        self.random = random.Random(0)

    def shape(self, links: dict[str, Any]) -> None:
        """Take over rates, queues, delays, jitter and loss; packets under way keep their times."""
        for queue, mbit in zip([*self.up, *self.down], [*links["up_mbit"], *links["down_mbit"]], strict=True):
            queue.shape(mbit, links["queue_ms"])
        self.delay = [[ms / 1e3 for ms in row] for row in links["delay_ms"]]
        self.jitter = [[ms / 1e3 for ms in row] for row in links["jitter_ms"]]
        self.loss = links["loss"]

    def take(self, i: int, now: float) -> None:
        """Read what region `i` sends."""
        tun, up, floor = self.tuns[i], self.up[i], self.seen_empty[i]
        for _ in range(BURST):
            try:
                packet = os.read(tun, READ_NBYTES)
            except BlockingIOError:
                self.seen_empty[i] = now
                return
            j = self.index.get(packet[26:30])
            if j is None or packet[10] >> 4 != 4:
                continue  # no region's address, or not IPv4: there is no route
            wire, first = self.count(i, j, packet)
            # The queue may have been filled since it was last seen empty: being late ourselves must not idle the link.
            left = up.out(now, wire, floor)
            if left is None:
                self.counts[i][j]["dropped"] += 1
                continue
            if self.cut[i][j] or (self.loss[i][j] and self.random.random() < self.loss[i][j]):
                self.counts[i][j]["lost"] += 1
                continue
            arrival = left + self.delay[i][j]
            if self.jitter[i][j]:
                arrival += abs(self.random.gauss(0.0, self.jitter[i][j]))
            self.arrived[i][j] = arrival = max(arrival, self.arrived[i][j])
            self.push(arrival, False, i, j, wire, first, packet)

    def count(self, i: int, j: int, packet: bytes) -> tuple[int, int]:
        """Add to what region `i` has sent to `j`, as packets of at most 1500 bytes; returns the bytes of all, and of the first."""
        nbytes = len(packet) - VNET_HEADER_NBYTES
        head = VNET_HEADER_NBYTES + ((packet[10] & 15) << 2)
        protocol = packet[19]
        header = head - VNET_HEADER_NBYTES + ((packet[head + 12] >> 4) << 2 if protocol == _TCP else 8 if protocol == _UDP else 0)
        payload, packets, first = nbytes - header, 1, nbytes
        if packet[1]:  # a super-packet: every further packet would repeat the header
            size = packet[4] | packet[5] << 8
            packets, first = -(-payload // size), size + header
            nbytes += (packets - 1) * header
        counts = self.counts[i][j]
        counts["packets"] += packets
        counts["nbytes"] += nbytes
        if protocol == _TCP:
            counts["tcp_payload"] += payload
            if not payload:
                counts["acks"] += 1
                counts["ack_nbytes"] += nbytes
        return nbytes, first

    def totals(self) -> list[dict[str, int]]:
        """By region: what it sent, and under "received" what reached it."""
        n = range(len(self.tuns))
        sent = [{what: sum(self.counts[i][j][what] for j in n) for what in COUNTS} for i in n]
        return [sent[j] | {"received": sum(self.counts[i][j]["delivered"] for i in n)} for j in n]

    def push(self, when: float, last: bool, i: int, j: int, wire: int, first: int, packet: bytes) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, last, i, j, wire, first, packet))

    def advance(self, now: float) -> None:
        """Move everything that is due by `now`."""
        events = self.events
        while events and events[0][0] <= now:
            when, _, last, i, j, wire, first, packet = heapq.heappop(events)
            down = self.down[j]
            if not last and down.rate != INF:
                # Of a super-packet the first packet has come before the last, and went on at once.
                end = down.out(when, wire, when - (wire - first) / self.up[i].rate)
                if end is None:
                    self.counts[i][j]["dropped"] += 1
                    continue
                down.free_s = end = max(end, when + first / down.rate)
                if end > now:
                    self.push(end, True, i, j, wire, first, packet)
                    continue
            self.deliver(i, j, wire, packet)

    def deliver(self, i: int, j: int, wire: int, packet: bytes) -> None:
        if self.cut[i][j]:
            self.counts[i][j]["lost"] += 1
            return
        try:
            os.write(self.tuns[j], packet)
        except OSError:  # the region's interface is down or out of buffers
            self.counts[i][j]["dropped"] += 1
            return
        self.counts[i][j]["delivered"] += wire


class Relay:
    """The loop: packets, then what is due, then commands."""

    def __init__(self, built: Built, links: dict[str, Any], control: socket.socket) -> None:
        self.built, self.control = built, control
        self.internet = Internet(built.tuns, built.addresses)
        self.offload = built.offload
        self.internet.shape(links)
        self.began_cpu, self.began = time.process_time(), time.monotonic()
        self.latest_s = 0.0  # how late an event was moved, at most
        self.realtime = hurry(2)  # a late packet is a longer link

    def run(self, alive: int) -> None:
        """Until `alive` ends or somebody says quit."""
        internet, events = self.internet, self.internet.events
        readers: dict[int, int] = {tun: i for i, tun in enumerate(internet.tuns)}
        watched = [*readers, self.control.fileno(), alive]
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection would delay packets
        while True:
            time.sleep(PACE_S)
            before = time.monotonic()
            wait = max(0.0, events[0][0] - before - PACE_S / 2) if events else None
            ready, _, _ = select.select(watched, (), (), wait)
            now = time.monotonic()
            if events and now - events[0][0] > self.latest_s:
                self.latest_s = now - events[0][0]
            # What wakes us has only just come; what was ready has come while we rested, on average halfway.
            woken = now - before > 50e-6
            for tun, i in readers.items():
                if woken or tun not in ready:
                    internet.seen_empty[i] = now if woken else now - PACE_S / 2
            internet.advance(now + PACE_S / 2)
            for fd in ready:
                if fd in readers:
                    internet.take(readers[fd], now)
                elif fd == alive:
                    if not os.read(fd, 4096):
                        return
                elif self.answer():
                    return
            internet.advance(time.monotonic() + PACE_S / 2)

    def answer(self) -> bool:
        """One command; True: quit."""
        data, sender = self.control.recvfrom(1 << 16)
        try:
            ask = json.loads(data)
            reply = {"ok": self.do(ask)}
        except Exception as error:  # whatever a client sends, the packets go on
            ask, reply = {}, {"error": f"{type(error).__name__}: {error}"}
        if sender:
            try:
                self.control.sendto(json.dumps(reply).encode(), sender)
            except OSError:
                pass  # it does not wait for the answer
        return bool(ask.get("op") == "quit")

    def do(self, ask: dict[str, Any]) -> Any:
        internet, op = self.internet, ask["op"]
        if op == "shape":
            links = ask["links"]
            internet.shape(links)
            self.offload = _offload(self.built, links, self.offload)
            if links["congestion"] != self.built.congestion:
                namespaces.set_congestion(self.built.spaces, links["congestion"])
                self.built.congestion = links["congestion"]
        elif op == "cut":  # packets between these regions (all: every other one) vanish, each way
            for i in ask["regions"]:
                for j in ask["others"] if ask["others"] is not None else range(len(internet.tuns)):
                    if i != j:
                        internet.cut[i][j] = internet.cut[j][i] = ask["cut"]
        elif op == "counts":
            return internet.totals()
        elif op == "pairs":  # a region's own row: what it sent to each other one
            return internet.counts[ask["region"]]
        elif op == "health":
            seconds = time.monotonic() - self.began
            late, self.latest_s = self.latest_s, 0.0
            share = (time.process_time() - self.began_cpu) / max(seconds, 1e-9)
            self.began_cpu, self.began = time.process_time(), time.monotonic()
            return {"cpu_share": share, "seconds": seconds, "latest_ms": late * 1e3, "offload": self.offload, "realtime": self.realtime}
        elif op != "quit":
            raise ValueError(f"unknown command {op!r}")
        return None


def _offload(built: Built, links: dict[str, Any], now: bool) -> bool:
    """Super-packets only while nothing is lost: losing 64 KB at once would flatter TCP."""
    wanted = not any(map(any, links["loss"]))
    if wanted != now:
        for tun in built.tuns:
            namespaces.set_offload(tun, wanted)
    return wanted


def main() -> None:
    alive = sys.stdin.fileno()
    with open(alive, "rb", buffering=0, closefd=False) as unbuffered:  # what follows is for `run`
        spec = json.loads(unbuffered.readline())
    tag = spec["tag"]
    try:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        control.bind(spec["control"])
        built = build(spec)
        relay = Relay(built, spec["links"], control)
        print("ready", flush=True)
        relay.run(alive)
    except (namespaces.LabError, OSError) as error:
        print(f"error {error}", flush=True)
    finally:
        namespaces.take_down(tag)


if __name__ == "__main__":
    main()
