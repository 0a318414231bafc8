"""The relay's queues and counters, with sockets in place of TUN devices and times that the test says."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.lab.droptail import LEAST_QUEUE_NBYTES
from benchmarks.lab.namespaces import VNET_HEADER_NBYTES
from benchmarks.lab.regions import addresses
from benchmarks.lab.relay import Internet
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import links

N = 3


class World:
    """An `Internet` whose regions are sockets; `clock` goes where the test says."""

    def __init__(self, **shape: Any) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(N)]
        self.kept = pairs
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.setblocking(False)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.regions = [theirs for _, theirs in pairs]
        self.net = Internet([ours.fileno() for ours, _ in pairs], addresses([False] * len(pairs)))
        self.shape(**shape)

    def shape(self, **shape: Any) -> None:
        self.net.shape(links(Topology.uniform(N, **shape)))

    def send(self, i: int, j: int, packet: bytes, now: float) -> None:
        self.regions[i].send(packet)
        self.net.seen_empty[i] = now
        self.net.take(i, now)
        self.net.advance(now)

    def received(self, j: int) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.regions[j].recv(1 << 17))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for pair in self.kept:
            for end in pair:
                end.close()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(**getattr(request, "param", {}))
    yield made
    made.close()


def udp(i: int, j: int, nbytes: int = 1500, fill: int = 0) -> bytes:
    """An IP packet of `nbytes` behind a virtio header."""
    ip = struct.pack(">BBHHHBBH4B4B", 0x45, 0, nbytes, 0, 0, 64, 17, 0, 10, 77, i, 1, 10, 77, j, 1)
    return bytes(VNET_HEADER_NBYTES) + ip + bytes(8) + bytes([fill]) * (nbytes - 28)


def tcp(i: int, j: int, payload: int, size: int = 0) -> bytes:
    """A TCP segment with time stamps (52 bytes of headers); a super-packet cut into `size` bytes when that is given."""
    virtio = struct.pack("<BBHHHH", 1 if size else 0, 1 if size else 0, 52, size, 20, 16)
    ip = struct.pack(">BBHHHBBH4B4B", 0x45, 0, 0, 0, 0, 64, 6, 0, 10, 77, i, 1, 10, 77, j, 1)
    return virtio + ip + struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 8 << 4, 0, 0, 0, 0) + bytes(12) + bytes(payload)


MBIT = 125e3
SECOND = 1500 / (12 * MBIT)  # a full packet takes 1 ms at 12 Mbit/s


@pytest.mark.parametrize("world", [{}], indirect=True)
def test_without_limits_a_packet_passes_at_once_unchanged(world: World) -> None:
    packet = udp(0, 1, fill=7)
    world.send(0, 1, packet, 5.0)
    assert world.received(1) == [packet]
    assert world.received(2) == []


@pytest.mark.parametrize("world", [{"mbit": 12, "rtt_ms": 20}], indirect=True)
def test_a_packet_takes_both_links_and_half_the_round_trip(world: World) -> None:
    world.send(0, 1, udp(0, 1), 5.0)
    due = 5.0 + SECOND + 0.010 + SECOND
    world.net.advance(due - 1e-6)
    assert world.received(1) == []
    world.net.advance(due + 1e-6)
    assert len(world.received(1)) == 1


@pytest.mark.parametrize("world", [{"mbit": 12}], indirect=True)
def test_packets_follow_each_other_at_the_rate_and_two_senders_share_a_downlink(world: World) -> None:
    for k in range(4):
        world.send(0, 2, udp(0, 2, fill=k), 5.0)
        world.send(1, 2, udp(1, 2, fill=10 + k), 5.0)
    world.net.advance(5.0 + 9 * SECOND - 1e-6)  # both uplinks are through after 4, the downlink after 1 + 8
    assert len(world.received(2)) == 7
    world.net.advance(5.0 + 9 * SECOND + 1e-6)
    assert len(world.received(2)) == 1


@pytest.mark.parametrize("world", [{"mbit": 12, "rtt_ms": 20}], indirect=True)
def test_a_super_packet_takes_as_long_as_the_packets_it_stands_for(world: World) -> None:
    world.send(0, 1, tcp(0, 1, 10 * 1448, size=1448), 5.0)
    due = 5.0 + 10 * SECOND + 0.010 + SECOND  # the downlink starts with the first of them
    world.net.advance(due - 1e-6)
    assert world.received(1) == []
    world.net.advance(due + 1e-6)
    assert len(world.received(1)) == 1


def test_counters_are_those_of_the_packets_on_the_wire(world: World) -> None:
    world.send(0, 1, tcp(0, 1, 10 * 1448 + 1, size=1448), 5.0)
    world.send(0, 1, tcp(0, 1, 100), 5.0)
    world.send(0, 1, tcp(0, 1, 0), 5.0)
    world.send(0, 1, udp(0, 1, 500), 5.0)
    counts = world.net.counts[0][1]
    assert counts["packets"] == 11 + 1 + 1 + 1
    assert counts["nbytes"] == counts["delivered"] == (10 * 1448 + 1 + 11 * 52) + 152 + 52 + 500
    assert counts["tcp_payload"] == 10 * 1448 + 1 + 100
    assert (counts["acks"], counts["ack_nbytes"]) == (1, 52)
    totals = world.net.totals()
    assert totals[0]["nbytes"] == totals[1]["received"] == counts["nbytes"]
    assert totals[2] == dict.fromkeys(totals[2], 0)


@pytest.mark.parametrize("world", [{"mbit": 12, "queue_ms": 1}], indirect=True)
def test_a_full_queue_drops_the_newest(world: World) -> None:
    room = LEAST_QUEUE_NBYTES // 1500
    for _ in range(room + 20):
        world.send(0, 1, udp(0, 1), 5.0)
    assert world.net.counts[0][1]["dropped"] == 20 - 1  # one is being sent, `room` wait
    assert world.net.counts[0][1]["packets"] == room + 20


@pytest.mark.parametrize("world", [{"loss": 0.1, "rtt_ms": 10}], indirect=True)
def test_loss_is_what_was_asked_and_the_same_every_time(world: World) -> None:
    for _ in range(4000):
        world.send(0, 1, udp(0, 1, 100), 5.0)
    lost = world.net.counts[0][1]["lost"]
    assert 0.08 < lost / 4000 < 0.12
    again = World(loss=0.1, rtt_ms=10)
    for _ in range(4000):
        again.send(0, 1, udp(0, 1, 100), 5.0)
    assert again.net.counts[0][1]["lost"] == lost
    again.close()


@pytest.mark.parametrize("world", [{"rtt_ms": 20, "jitter_ms": 5}], indirect=True)
def test_jitter_delays_and_keeps_the_order(world: World) -> None:
    for k in range(50):
        world.send(0, 1, udp(0, 1, 100, fill=k), 5.0)
    world.net.advance(5.010)
    early = world.received(1)
    world.net.advance(6.0)
    late = world.received(1)
    assert early == []
    assert [packet[-1] for packet in late] == list(range(50))
    assert world.net.arrived[0][1] > 5.012


def test_a_cut_pair_is_cut_both_ways_and_nobody_else(world: World) -> None:
    world.net.cut[0][1] = world.net.cut[1][0] = True
    for i, j in ((0, 1), (1, 0), (0, 2)):
        world.send(i, j, udp(i, j), 5.0)
    assert [len(world.received(j)) for j in range(N)] == [0, 0, 1]
    assert world.net.counts[0][1]["lost"] == world.net.counts[1][0]["lost"] == 1


def test_what_goes_nowhere_or_is_no_ipv4_is_dropped(world: World) -> None:
    stranger = bytearray(udp(0, 1))
    stranger[VNET_HEADER_NBYTES + 16 : VNET_HEADER_NBYTES + 20] = bytes([8, 8, 8, 8])
    six = bytearray(udp(0, 1))
    six[VNET_HEADER_NBYTES] = 0x60
    for packet in (bytes(stranger), bytes(six), bytes(VNET_HEADER_NBYTES + 4), b"x"):
        world.send(0, 1, packet, 5.0)
    assert [world.received(j) for j in range(N)] == [[], [], []]
    world.send(0, 1, udp(0, 1), 5.0)
    assert len(world.received(1)) == 1


@pytest.mark.parametrize("world", [{"mbit": 12}], indirect=True)
def test_being_late_ourselves_does_not_idle_the_link(world: World) -> None:
    # The region filled its queue at 5.000, when it was last seen empty; we come at 5.004.
    for _ in range(8):
        world.regions[0].send(udp(0, 1))
    world.net.seen_empty[0] = 5.0
    world.net.take(0, 5.004)
    assert world.net.up[0].free_s == pytest.approx(5.0 + 8 * SECOND)


def test_an_interface_that_takes_nothing_is_a_drop(world: World) -> None:
    read, write = os.pipe()
    os.close(write)
    world.net.tuns[1] = read  # not writable
    world.send(0, 1, udp(0, 1), 5.0)
    os.close(read)
    assert world.net.counts[0][1]["dropped"] == 1
