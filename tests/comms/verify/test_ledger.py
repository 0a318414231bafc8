"""What came before is known, who was first is right, and memory is bounded whatever comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.verify.ledger import Ledger, Sighting

ANN, BOB, CID = b"a" * 32, b"b" * 32, b"c" * 32
LONG = 100.0


def test_the_same_number_and_the_same_tokens_again_are_replays() -> None:
    ledger = Ledger()
    assert ledger.see(ANN, 5, b"x", order=1, bits=LONG) == Sighting("new")
    assert ledger.see(ANN, 5, b"y", order=2, bits=LONG) == Sighting("replay", ANN)
    assert ledger.see(ANN, 6, b"x", order=3, bits=LONG) == Sighting("replay", ANN)
    assert ledger.see(ANN, 4, b"z", order=4, bits=LONG) == Sighting("new")


def test_who_committed_later_has_copied_whoever_is_seen_first() -> None:
    ledger = Ledger()
    ledger.see(ANN, 0, b"x", order=1, bits=LONG)
    assert ledger.see(BOB, 0, b"x", order=2, bits=LONG) == Sighting("copy", ANN)
    ledger.see(BOB, 1, b"y", order=9, bits=LONG)
    assert ledger.see(ANN, 1, b"y", order=3, bits=LONG) == Sighting("copied", BOB)
    assert ledger.see(CID, 0, b"y", order=4, bits=LONG) == Sighting("copy", ANN)
    assert [Sighting(kind).fresh for kind in ("new", "copied", "copy", "replay", "old")] == [True, True, False, False, False]


def test_a_few_likely_tokens_may_be_sampled_twice() -> None:
    ledger = Ledger(bits=32)
    assert [ledger.see(who, 0, b"4", order=i, bits=31.9).kind for i, who in enumerate((ANN, BOB))] == ["new", "new"]
    assert [ledger.see(who, 1, b"42", order=i, bits=32.0).kind for i, who in enumerate((ANN, BOB))] == ["new", "copy"]


def test_what_fell_out_of_the_window_is_refused_not_forgotten() -> None:
    ledger = Ledger(window=4)
    for n in range(10):
        assert ledger.see(ANN, n, bytes([n]), order=n, bits=LONG).fresh
    assert ledger.see(ANN, 5, b"new", order=20, bits=LONG).kind == "old"
    assert ledger.see(ANN, 6, b"new", order=20, bits=LONG).kind == "replay"


def test_one_that_floods_displaces_nobody_elses() -> None:
    ledger = Ledger(window=8)
    ledger.see(ANN, 0, b"x", order=0, bits=LONG)
    for n in range(100):
        ledger.see(BOB, n, b"%d" % n, order=1 + n, bits=LONG)
    assert ledger.see(CID, 0, b"x", order=200, bits=LONG) == Sighting("copy", ANN)
    assert len(ledger) <= 3 * 2 * 8


def test_workers_not_heard_of_for_longest_are_forgotten() -> None:
    ledger = Ledger(workers=2)
    for i, who in enumerate((ANN, BOB, CID)):
        ledger.see(who, 0, who, order=i, bits=LONG)
    assert ledger.see(BOB, 1, ANN, order=9, bits=LONG).kind == "new"
    assert len(ledger) == 6


events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(0, 12), st.integers(0, 30), st.booleans()), max_size=80)


@settings(max_examples=60, deadline=None)
@given(events)
def test_memory_is_bounded_and_no_number_counts_twice(seen: list[tuple[int, int, int, int, bool]]) -> None:
    ledger, counted = Ledger(window=4, workers=8), set()
    for who, n, tokens, order, long in seen:
        if ledger.see(bytes([who]), n, bytes([tokens]), order=order, bits=LONG if long else 0.0).fresh:
            assert (who, n) not in counted
            counted.add((who, n))
    assert len(ledger) <= 8 * 2 * 4
    assert set(ledger._first) == {tokens for worker in ledger._workers.values() for tokens in worker.contents}


def test_bounds_that_hold_nothing_are_refused() -> None:
    for options in ({"window": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="give 1 or more"):
            Ledger(**options)
