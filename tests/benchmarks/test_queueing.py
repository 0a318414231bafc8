import pytest

from benchmarks.lab.droptail import Queue
from benchmarks.lab.queueing import HEADER_NBYTES, RTO_S, Network, Sent, deliver, wire_nbytes
from benchmarks.lab.topology import Topology

MS = 1e-3


def test_a_packet_takes_its_bits_over_the_rate_each_way_and_half_the_round_trip() -> None:
    network = Network(Topology.uniform(2, mbit=12, up_mbit=6, rtt_ms=80))
    assert network.arrival(5.0, 0, 1, 1500) == pytest.approx(5.0 + 2 * MS + 40 * MS + 1 * MS)


def test_packets_leave_one_after_the_other_and_an_idle_link_owes_nothing() -> None:
    queue = Queue(12, queue_ms=200)
    assert [queue.out(0.0, 1500) for _ in range(3)] == pytest.approx([1 * MS, 2 * MS, 3 * MS])
    assert queue.out(1.0, 1500) == pytest.approx(1.001)


def test_a_queue_drops_exactly_what_would_wait_too_long() -> None:
    queue = Queue(12, queue_ms=200)  # 1 ms a packet: 200 wait, one is being sent
    assert [queue.out(0.0, 1500) is None for _ in range(203)] == [False] * 201 + [True] * 2
    assert queue.out(1 * MS, 1500) == pytest.approx(202 * MS)


def test_a_queue_is_never_shorter_than_128_KiB() -> None:
    queue = Queue(1, queue_ms=10)
    taken = sum(queue.out(0.0, 1024) is not None for _ in range(200))
    assert taken == 128 + 1


def test_a_link_without_a_rate_takes_no_time() -> None:
    assert Network(Topology.uniform(2, rtt_ms=10)).arrival(0.0, 0, 1, 10**9) == pytest.approx(5 * MS)


def test_loss_is_as_often_as_asked_and_the_same_for_the_same_seed() -> None:
    topology = Topology.uniform(2, rtt_ms=10, loss=0.1)
    first, again, other = (Network(topology, seed=seed) for seed in (1, 1, 2))
    lost = [[network.arrival(0.0, 0, 1, 1500) is None for _ in range(2000)] for network in (first, again, other)]
    assert lost[0] == lost[1] != lost[2]
    assert 150 < sum(lost[0]) < 250


def test_jitter_keeps_the_order_and_never_beats_the_future() -> None:
    network = Network(Topology.uniform(2, rtt_ms=4, jitter_ms=5))
    arrivals = [network.arrival(i * MS, 0, 1, 1500) for i in range(500)]
    assert arrivals == sorted(arrivals)
    assert all(at >= i * MS for i, at in enumerate(arrivals))
    assert len({round(at - i * MS, 9) for i, at in enumerate(arrivals)}) > 50


def test_the_draws_of_a_pair_do_not_depend_on_others() -> None:
    quiet, busy = (Network(Topology.uniform(3, rtt_ms=10, jitter_ms=1), seed=7) for _ in range(2))
    for _ in range(50):
        busy.arrival(0.0, 2, 1, 1500)
    assert quiet.arrival(0.0, 0, 1, 1500) == busy.arrival(0.0, 0, 1, 1500)


def test_a_stream_takes_serialisation_and_delay() -> None:
    network = Network(Topology.uniform(2, up_mbit=8, rtt_ms=100))
    found = deliver(network, [Sent(1.0, 0, 1, 1_000_000)])
    wire = wire_nbytes(1_000_000)
    assert found[0, 1].at_s == pytest.approx(1.0 + wire / 1e6 + 0.050)
    assert found[0, 1].sent_nbytes == found[0, 1].received_nbytes == wire


def test_streams_of_one_sender_share_its_uplink_alike() -> None:
    network = Network(Topology.uniform(3, up_mbit=8))
    found = deliver(network, [Sent(0.0, 0, 1, 500_000), Sent(0.0, 0, 2, 500_000)])
    total_s = 2 * wire_nbytes(500_000) / 1e6
    assert found[0, 2].at_s == pytest.approx(total_s)
    assert 0.95 * total_s < found[0, 1].at_s < total_s


def test_a_downlink_carries_what_all_send_to_it() -> None:
    network = Network(Topology.uniform(3, mbit=8, up_mbit=8))
    found = deliver(network, [Sent(0.0, 0, 2, 100_000), Sent(0.0, 1, 2, 100_000)])
    # Two uplinks fill one downlink: it is busy from the first piece's arrival until both are through.
    assert max(d.at_s for d in found.values()) == pytest.approx(2 * wire_nbytes(100_000) / 1e6 + 1500e-6)


def test_a_lost_segment_comes_one_rto_later_and_costs_its_bytes_again() -> None:
    topology = Topology.uniform(2, rtt_ms=20, loss=0.3)
    seed = next(s for s in range(99) if Network(topology, seed=s).across(0.0, 0, 1) is None and _second_is_sound(topology, s))
    found = deliver(Network(topology, seed=seed), [Sent(0.0, 0, 1, 100)])
    assert found[0, 1].at_s == pytest.approx(RTO_S + 0.020 + 0.010)
    assert found[0, 1].sent_nbytes == 2 * (100 + HEADER_NBYTES)
    assert found[0, 1].received_nbytes == 100 + HEADER_NBYTES


def _second_is_sound(topology: Topology, seed: int) -> bool:
    network = Network(topology, seed=seed)
    network.across(0.0, 0, 1)
    return network.across(0.0, 0, 1) is not None


def test_what_a_full_downlink_drops_is_sent_again() -> None:
    topology = Topology.uniform(3, mbit=4, up_mbit=100, queue_ms=1)
    found = deliver(Network(topology), [Sent(0.0, 0, 2, 400_000), Sent(0.0, 1, 2, 400_000)])
    assert sum(d.sent_nbytes for d in found.values()) > sum(d.received_nbytes for d in found.values()) == 2 * wire_nbytes(400_000)
