import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from benchmarks.lab.queueing import wire_nbytes
from benchmarks.lab.simulated import SimulatedGroup
from benchmarks.lab.topology import Topology
from thinwire.comms.rounds import Exchange, rank_ordered_sum
from thinwire.comms.wire import HEADER_NBYTES, RoundKey


class Clock:
    """Stands still; every thread's sleeps are written down, none happens."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)


@contextmanager
def world(topology: Topology, *, timeout_s: float = 1e9, seed: int = 0) -> Iterator[tuple[list[SimulatedGroup], Clock]]:
    clock = Clock()
    members = SimulatedGroup.world(topology, timeout_s=timeout_s, seed=seed, now=clock.now, sleep=clock.sleep)
    try:
        yield members, clock
    finally:
        for member in members:
            member.leave()


def exchange(members: list[SimulatedGroup], payload: Callable[[int], Tensor], *, reduce: bool = False) -> list[Exchange | None]:
    pending = [m.start(RoundKey(0, 0, 0), payload(m.rank), plan=1, reduce=reduce) for m in members]
    return [p.wait() for p in pending]


def some(rank: int) -> Tensor:
    return torch.full((1000,), rank, dtype=torch.uint8)


def test_members_get_each_others_payloads_and_say_that_they_are_simulated() -> None:
    with world(Topology.uniform(3, mbit=10, rtt_ms=30)) as (members, _):
        found = exchange(members, some)
        assert [e.payloads[:, 0].tolist() for e in found if e] == [[0, 1, 2]] * 3
        assert members[0].describe().trust == "simulated"


def test_a_round_takes_what_the_topology_says() -> None:
    # Heads, frames and the vote are one move each: half a round trip and the packets of all on both links.
    with world(Topology.uniform(2, mbit=8, rtt_ms=100)) as (members, clock):
        exchange(members, some)
    assert len(clock.slept) == 6
    assert min(clock.slept) > 0.050
    frame_s = 2 * wire_nbytes(HEADER_NBYTES + 1000) / 1e6
    assert any(seconds == pytest.approx(0.050 + frame_s, abs=1e-3) for seconds in clock.slept)


def test_bytes_are_those_of_packets() -> None:
    with world(Topology.uniform(3, mbit=10, rtt_ms=30)) as (members, _):
        exchange(members, some)
        sent = [m.wire_sent_nbytes for m in members]
        assert sent == [m.wire_received_nbytes for m in members]
        heads, vote = 72 + 16, 8
        assert sent == [2 * sum(wire_nbytes(n) for n in (heads, HEADER_NBYTES + 1000, vote))] * 3


@pytest.mark.parametrize("n", [2, 3, 4])
def test_sums_are_the_rank_ordered_ones_and_cost_what_a_ring_costs(n: int) -> None:
    values = [torch.randn(3000, generator=torch.Generator().manual_seed(rank)) for rank in range(n)]
    with world(Topology.uniform(n, mbit=10)) as (members, _):
        found = exchange(members, lambda rank: values[rank].view(torch.uint8), reduce=True)
        expected = rank_ordered_sum([v.view(torch.uint8) for v in values], 12000)
        assert all(e is not None and torch.equal(e.payloads[0], expected) for e in found)
        ring = 2 * (n - 1) / n * 12000
        assert ring < members[0].sent_nbytes < 1.05 * ring + 72 * 4 * n


def test_the_same_seed_loses_the_same_packets() -> None:
    def sent(seed: int) -> list[int]:
        with world(Topology.uniform(3, rtt_ms=1, loss=0.2), seed=seed) as (members, _):
            exchange(members, lambda rank: torch.zeros(20_000, dtype=torch.uint8))
            return [m.wire_sent_nbytes for m in members]

    assert sent(1) == sent(1) != sent(2)


def test_frames_that_cannot_be_there_by_the_deadline_count_for_nobody() -> None:
    slow = Topology.uniform(2, mbit=0.01)
    with pytest.MonkeyPatch.context() as patch, world(slow, timeout_s=5.0) as (members, _):
        patch.setattr("thinwire.comms.local.time.monotonic", lambda: 0.0)
        patch.setattr("thinwire.comms.group.time.monotonic", lambda: 0.0)
        found = exchange(members, lambda rank: torch.zeros(100_000, dtype=torch.uint8))
        told = [None if e is None else (e.members, tuple(e.skipped)) for e in found]
    assert told[0] == told[1]
    assert told[0] is None or told[0][0] == ()
