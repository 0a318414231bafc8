"""Who takes which chunk: each is granted to one at a time, and to another when that one falls silent."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.comms.swarm.bus import key_of
from thinwire.comms.publish import tracker as trackers
from thinwire.comms.publish.tracker import SILENT_S, WINDOW, Tracker

A, B, C = (key_of(i) for i in range(3))


def test_chunks_that_nobody_has_are_shared_out_and_none_twice() -> None:
    tracker = Tracker(10)
    a, b, c = (tracker.hear(key, 0, 0.0) for key in (A, B, C))
    assert [bits.bit_count() for bits in (a, b, c)] == [WINDOW, WINDOW, 2]
    assert a | b | c == (1 << 10) - 1
    assert tracker.hear(A, 0, 1.0) == a
    assert tracker.hear(A, a, 1.0) == 0
    assert tracker.holders(B) == [(A, a)]
    assert tracker.holders(A) == []


def test_a_grant_of_one_that_falls_silent_goes_to_another() -> None:
    tracker = Tracker(2)
    assert tracker.hear(A, 0, 0.0) == 0b11
    assert tracker.hear(B, 0, SILENT_S) == 0
    assert tracker.hear(B, 0, SILENT_S + 0.1) == 0b11


def test_those_that_are_silent_longest_are_forgotten() -> None:
    tracker = Tracker(1)
    for i in range(trackers.MAX_TRACKED + 5):
        tracker.hear(i.to_bytes(32, "little"), 1, float(i))
    assert len(tracker._have) == len(tracker._heard) == trackers.MAX_TRACKED
    assert tracker.holders(A)[0][0] == (trackers.MAX_TRACKED + 4).to_bytes(32, "little")


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
@settings(max_examples=100, deadline=None)
def test_while_nobody_is_silent_every_chunk_is_taken_from_the_publisher_once(count: int, turns: list[tuple[int, bool]]) -> None:
    tracker, have = Tracker(count), dict.fromkeys(range(6), 0)
    granted = dict.fromkeys(range(6), 0)
    uploads = 0
    for who, gets in [*turns, *((i % 6, True) for i in range(6 * (count + 1)))]:
        if gets:
            uploads += (granted[who] & ~have[who]).bit_count()
            have[who] |= granted[who]
        granted[who] = tracker.hear(key_of(who), have[who], 0.0)
        assert granted[who] & have[who] == 0
        assert all(granted[who] & granted[other] & ~have[other] == 0 for other in range(6) if other != who)
    everything = 0
    for bits in have.values():
        everything |= bits
    assert everything == (1 << count) - 1
    assert uploads == count
