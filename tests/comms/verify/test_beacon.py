"""Everybody draws the same, nobody before its time, and who withholds a link is named and gains nothing that it could choose."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.verify.beacon import BeaconError, HashChain, HashChainBeacon, NotYetError

RUN = b"run"
NAMES = [b"ann", b"bob", b"cid"]


def party(name: bytes, *, links: int = 20, run: bytes = RUN) -> HashChain:
    return HashChain(run, links, hashlib.sha256(name).digest())


def beacon(names: list[bytes] = NAMES, run: bytes = RUN) -> HashChainBeacon:
    return HashChainBeacon(run, {name: party(name, run=run).anchor for name in names})


def tick(of: HashChainBeacon, names: list[bytes] = NAMES) -> None:
    at = of.tick
    for name in names:
        of.reveal(name, party(name).link(at))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations(NAMES), min_size=1, max_size=5))
def test_the_order_of_reveals_changes_nothing(orders: list[list[bytes]]) -> None:
    one, other = beacon(), beacon(NAMES[::-1])
    for order in orders:
        tick(one, order)
        tick(other)
    rounds = range(1, len(orders) + 1)
    drawn = [one.randomness(i) for i in rounds]
    assert drawn == [other.randomness(i) for i in rounds]
    assert len(set(drawn)) == len(orders)
    assert {len(each) for each in drawn} == {32}


def test_no_round_is_there_before_the_last_link() -> None:
    drawn = beacon()
    assert drawn.first_unknown() == 1
    tick(drawn, NAMES[:2])
    with pytest.raises(NotYetError, match="round 1 is not revealed"):
        drawn.randomness(1)
    drawn.reveal(NAMES[2], party(NAMES[2]).link(1))
    assert drawn.randomness(1)
    with pytest.raises(NotYetError):
        drawn.randomness(2)


def test_a_round_of_which_one_link_is_known_is_not_unknown_any_more() -> None:
    drawn = beacon()
    tick(drawn)
    assert drawn.first_unknown() == 2
    drawn.reveal(NAMES[0], party(NAMES[0]).link(2))
    assert drawn.first_unknown() == 3
    drawn.close()
    assert drawn.first_unknown() == 3  # links of round 2 are burnt, but somebody has thrown the dice once


def test_who_withholds_is_named_excluded_and_does_not_choose_the_outcome() -> None:
    drawn, full, two = beacon(), beacon(), beacon(NAMES[:2])
    for each in (drawn, full):
        tick(each)
    tick(two, NAMES[:2])
    tick(full)
    tick(two, NAMES[:2])
    tick(drawn, NAMES[:2])  # the third knows now what round 2 would be, with its link and without
    assert drawn.close() == (NAMES[2],)
    assert drawn.excluded == {NAMES[2]: 2}
    with pytest.raises(NotYetError):
        drawn.randomness(2)
    tick(drawn, NAMES[:2])
    assert drawn.randomness(2) not in (full.randomness(2), two.randomness(2))
    assert drawn.parties == tuple(NAMES[:2])
    with pytest.raises(BeaconError, match="withheld its link of round 2"):
        drawn.reveal(NAMES[2], party(NAMES[2]).link(2))
    tick(drawn, NAMES[:2])
    assert (drawn.round, drawn.tick) == (3, 5)


def test_two_that_saw_the_same_reveals_and_the_same_close_agree() -> None:
    made = []
    for order in (NAMES, NAMES[::-1]):
        drawn = beacon()
        tick(drawn, order)
        tick(drawn, [name for name in order if name != b"bob"])
        drawn.close()
        tick(drawn, [name for name in order if name != b"bob"])
        made.append([drawn.randomness(1), drawn.randomness(2)])
    assert made[0] == made[1]


@pytest.mark.parametrize("link", [b"", bytes(32), bytes(31), party(b"ann").link(2), party(b"bob").link(1), party(b"ann").anchor])
def test_what_does_not_lead_to_the_anchor_is_refused(link: bytes) -> None:
    drawn = beacon()
    with pytest.raises(BeaconError, match="not its link of tick 1"):
        drawn.reveal(b"ann", link)
    drawn.reveal(b"ann", party(b"ann").link(1))
    with pytest.raises(BeaconError, match="not its link"):
        drawn.reveal(b"ann", link)
    drawn.reveal(b"ann", party(b"ann").link(1))  # again: nothing
    with pytest.raises(BeaconError, match="no party"):
        drawn.reveal(b"dan", party(b"dan").link(1))


def test_when_nobody_reveals_nobody_is_to_blame() -> None:
    drawn = beacon()
    with pytest.raises(BeaconError, match="nobody has revealed"):
        drawn.close()
    tick(drawn)
    assert not drawn.excluded


def test_another_run_is_another_beacon() -> None:
    drawn, other = beacon([b"a"]), beacon([b"a"], run=b"other")
    with pytest.raises(BeaconError):
        other.reveal(b"a", party(b"a").link(1))
    drawn.reveal(b"a", party(b"a").link(1))
    other.reveal(b"a", party(b"a", run=b"other").link(1))
    assert drawn.randomness(1) != other.randomness(1)


@pytest.mark.parametrize(
    ("anchors", "why"), [({}, "there are none"), ({b"a": b"short"}, "not 32 bytes"), ({b"a": bytes(32), b"b": bytes(32)}, "the same")]
)
def test_anchors_that_commit_to_nothing_are_refused(anchors: dict[bytes, bytes], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        HashChainBeacon(RUN, anchors)


def test_a_chain_ends_and_old_rounds_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinwire.comms.verify.beacon.KEPT", 2)
    drawn = beacon([b"ann"])
    for _ in range(20):
        tick(drawn, [b"ann"])
    with pytest.raises(BeaconError, match="tick 21 of a chain of 20"):
        party(b"ann").link(21)
    assert drawn.randomness(20) != drawn.randomness(19)
    for gone in (18, 0, -1):
        with pytest.raises(BeaconError, match="is not kept"):
            drawn.randomness(gone)


def test_a_secret_is_drawn_and_does_not_show() -> None:
    one, other = HashChain(RUN, 3), HashChain(RUN, 3)
    assert one.anchor != other.anchor
    assert one.link(3).hex() not in repr(one)
    for length, secret in ((0, None), (1 << 21, None), (3, b"short")):
        with pytest.raises(ValueError, match=r"a chain of|secret has 5"):
            HashChain(RUN, length, secret)
