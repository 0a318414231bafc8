"""When a packet arrives, by arithmetic alone: the sender's uplink, the way between, the receiver's downlink.

    handed over -> [queue | rate of the uplink] -> delay + jitter, or lost -> [queue | rate of the downlink] -> arrived

Nothing here knows the time of day or sleeps: whoever uses it says what time it is, which may be a virtual one. A link of rate b carries a
packet of s bytes in 8 s / b seconds, one after the other; a packet that would have to wait longer than the queue allows is dropped
(drop-tail). Each ordered pair of regions draws jitter and loss from a generator of its own, so the draws of one pair do not depend on what
others send.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from benchmarks.lab.droptail import Queue
from benchmarks.lab.topology import Topology

PACKET_NBYTES = 1500  # of IP, headers in it
HEADER_NBYTES = 52  # IPv4, TCP and its timestamps
SEGMENT_NBYTES = PACKET_NBYTES - HEADER_NBYTES
RTO_S = 0.2  # on top of the round trip, as Linux has it: the least time until a lost segment is sent again


def packets(nbytes: int) -> int:
    """How many packets carry `nbytes` of a stream; at least one."""
    return max(1, -(-nbytes // SEGMENT_NBYTES))


def wire_nbytes(nbytes: int) -> int:
    """`nbytes` of a stream as packets with their headers.

    >>> wire_nbytes(1448), wire_nbytes(1449)
    (1500, 1553)
    """
    return nbytes + HEADER_NBYTES * packets(nbytes)


class Network:
    """The links of a topology, and the draws of one `seed`.

    >>> network = Network(Topology.uniform(2, mbit=12, rtt_ms=80))
    >>> round(network.arrival(0.0, 0, 1, 1500), 6)  # 1 ms up, 40 ms on the way, 1 ms down
    0.042
    """

    def __init__(self, topology: Topology, *, seed: int = 0) -> None:
        self.topology = topology
        self.up = [Queue(region.up_mbit, topology.queue_ms) for region in topology.regions]
        self.down = [Queue(region.down_mbit, topology.queue_ms) for region in topology.regions]
        n = len(topology.regions)
        self._draws = {(a, b): Random(f"{seed} {a} {b}") for a in range(n) for b in range(n) if a != b}
        self._last: dict[tuple[int, int], float] = {}

    def arrival(self, now_s: float, src: int, dst: int, nbytes: int) -> float | None:
        """When a packet of `nbytes` handed over at `now_s` arrives, or None when it is dropped or lost. Calls are in order of `now_s`."""
        left = self.up[src].out(now_s, nbytes)
        there = None if left is None else self.across(left, src, dst)
        return None if there is None else self.down[dst].out(there, nbytes)

    def across(self, now_s: float, src: int, dst: int, count: int = 1) -> float | None:
        """When `count` packets together have crossed the way between two regions, in order; None when one of them is lost."""
        way, draw = self.topology.way_between(src, dst), self._draws[src, dst]
        lost = draw.random() >= (1 - way.loss) ** count  # drawn always, so that draws stay aligned
        delay_s = way.rtt_ms / 2000 + max(-way.rtt_ms / 2000, draw.gauss(0, way.jitter_ms / 1000))
        if lost:
            return None
        there = self._last[src, dst] = max(now_s + delay_s, self._last.get((src, dst), float("-inf")))
        return there

    def rto_s(self, src: int, dst: int) -> float:
        """How long after it was sent a lost segment is sent again."""
        return RTO_S + self.topology.way_between(src, dst).rtt_ms / 1000


@dataclass(frozen=True)
class Sent:
    """A stream of `nbytes` that is handed over at `now_s`."""

    now_s: float
    src: int
    dst: int
    nbytes: int


@dataclass(frozen=True)
class Delivered:
    """When the last byte arrived, and what the sender's and the receiver's links carried for it, retransmissions counted."""

    at_s: float
    sent_nbytes: int
    received_nbytes: int


def deliver(network: Network, streams: Iterable[Sent], *, segments: int = 256) -> dict[tuple[int, int], Delivered]:
    """Carry streams that share the links, at most one a pair; by (src, dst) when each is there.

    A sender never overruns its own uplink, and sends to its peers in turn. What the way loses or a full downlink drops is sent again one
    RTO later. There is no congestion window, and acknowledgements cost nothing. A stream moves in at most `segments` pieces.
    """
    events: list[tuple[float, int, str, Sent, int]] = []  # (time, order, stage, stream, bytes of it)
    for sent in sorted(streams, key=lambda s: (s.now_s, s.src, (s.dst - s.src) % len(network.up))):
        piece = SEGMENT_NBYTES * -(-packets(sent.nbytes) // segments)
        for start in range(0, max(sent.nbytes, 1), piece):
            # Pieces of streams that begin together alternate.
            events.append((sent.now_s, start // piece, "up", sent, min(piece, sent.nbytes - start)))
    events = [(at, order, stage, sent, size) for order, (at, _, stage, sent, size) in enumerate(sorted(events, key=lambda e: e[:2]))]
    heapq.heapify(events)
    order = len(events)
    arrived: dict[tuple[int, int], float] = {}
    up: dict[tuple[int, int], int] = {}
    down: dict[tuple[int, int], int] = {}
    while events:
        now_s, place, stage, sent, size = heapq.heappop(events)
        pair, wire = (sent.src, sent.dst), wire_nbytes(size)
        again = now_s + network.rto_s(*pair)
        if stage == "up":
            room_s = network.up[sent.src].room_s(now_s)
            if room_s > now_s:
                heapq.heappush(events, (room_s, place, "up", sent, size))
                continue
            left = network.up[sent.src].out(now_s, wire)
            assert left is not None
            up[pair] = up.get(pair, 0) + wire
            there = network.across(left, *pair, count=packets(size))
            heapq.heappush(events, (again, order, "up", sent, size) if there is None else (there, order, "down", sent, size))
        else:
            done = network.down[sent.dst].out(now_s, wire)
            if done is None:
                heapq.heappush(events, (again, order, "up", sent, size))
            else:
                down[pair] = down.get(pair, 0) + wire
                arrived[pair] = max(arrived.get(pair, done), done)
        order += 1
    return {pair: Delivered(at, up[pair], down[pair]) for pair, at in arrived.items()}
