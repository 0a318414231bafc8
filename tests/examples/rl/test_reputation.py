"""Trust is earned slowly, lost at once, fades, and cannot be washed away by a flood of fresh keys."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.reputation import Reputation, Trust
from tests.examples.rl.groups import key


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def table(**trust: float) -> tuple[Reputation, Clock]:
    clock = Clock()
    return Reputation(Trust(**trust), clock=clock), clock  # type: ignore[arg-type]


def test_strangers_are_always_checked_and_the_good_ever_less_but_never_not_at_all() -> None:
    reputation, _ = table()
    rates = [reputation.sample_rate(key(0))]
    for _ in range(1000):
        reputation.accepted(key(0))
        rates.append(reputation.sample_rate(key(0)))
    assert rates[0] == 1
    assert rates[4] == pytest.approx(0.05 + 0.95 / 2)
    assert all(after < before for before, after in itertools.pairwise(rates))
    assert 0.05 < rates[-1] < 0.06
    assert reputation.score(key(0)) > 0.99


def test_one_soft_refusal_halves_what_trust_has_saved_and_bans_nobody() -> None:
    reputation, _ = table()
    for _ in range(100):
        reputation.accepted(key(0))
    before = reputation.sample_rate(key(0))
    reputation.refused(key(0), "stale")
    assert 1 - reputation.sample_rate(key(0)) == pytest.approx((1 - before) / 2)
    assert not reputation.banned(key(0))


def test_a_lie_bans_for_a_time_that_doubles_and_takes_all_trust() -> None:
    reputation, clock = table(ban_s=10)
    for _ in range(100):
        reputation.accepted(key(0))
    for lasts in (10, 20, 40):
        reputation.refused(key(0), "copy")
        assert reputation.banned(key(0))
        assert reputation.sample_rate(key(0)) == 1
        clock.now += lasts - 0.1
        assert reputation.banned(key(0))
        clock.now += 0.2
        assert not reputation.banned(key(0))


def test_what_happens_to_the_honest_once_in_thousands_takes_trust_first_and_bans_when_it_comes_again() -> None:
    reputation, clock = table(ban_s=10, half_life_s=3600)
    for _ in range(100):
        reputation.accepted(key(0))
    reputation.refused(key(0), "activations")
    assert not reputation.banned(key(0))
    assert reputation.sample_rate(key(0)) == 1
    clock.now += 2 * 3600  # long enough to be another story
    reputation.refused(key(0), "drift")
    assert not reputation.banned(key(0))
    clock.now += 600
    reputation.refused(key(0), "activations")
    assert reputation.banned(key(0))


def test_a_stranger_whose_proof_is_wrong_is_banned_at_once() -> None:
    reputation, _ = table()
    for _ in range(7):
        reputation.accepted(key(0))
    reputation.refused(key(0), "activations")
    assert reputation.banned(key(0))


def test_bans_do_not_grow_beyond_a_month() -> None:
    reputation, clock = table()
    for _ in range(100):
        reputation.refused(key(0), "replay")
    clock.now += 31 * 24 * 3600
    assert not reputation.banned(key(0))


def test_false_rewards_weigh_as_many_soft_refusals() -> None:
    one, _ = table()
    other, _ = table()
    one.false_rewards(key(0), 3)
    one.false_rewards(key(1), 0)
    for _ in range(3):
        other.refused(key(0), "skipping")
    assert one.score(key(0)) == other.score(key(0)) < 0.5
    assert len(one) == 1


def test_evidence_halves_with_time_and_a_clock_set_back_changes_nothing() -> None:
    reputation, clock = table(half_life_s=100)
    for _ in range(8):
        reputation.accepted(key(0))
    clock.now += 100
    assert reputation.standing(key(0)).good == pytest.approx(4)
    clock.now -= 1000
    assert reputation.standing(key(0)).good == pytest.approx(8)
    reputation.accepted(key(0))
    assert reputation.standing(key(0)).good == pytest.approx(9)


def test_a_flood_of_fresh_keys_pushes_out_fresh_keys_alone() -> None:
    reputation, _ = table(fresh=10, known=5, known_after=3)
    for _ in range(3):
        reputation.accepted(key(0))
    reputation.refused(key(0), "copy")
    reputation.accepted(key(1))
    for i in range(100, 1100):
        reputation.refused(key(i), "stale")
    assert len(reputation) == 11
    assert reputation.banned(key(0))
    assert reputation.standing(key(1)).accepted == 0


def test_whoever_earns_its_way_in_pushes_out_nobody_who_still_stands() -> None:
    reputation, clock = table(fresh=10, known=2, known_after=3, half_life_s=100)
    for i in range(5):
        for _ in range(3):
            reputation.accepted(key(i))
    assert set(reputation._known) == {key(0), key(1)}
    clock.now += 1000
    reputation.accepted(key(4))
    assert set(reputation._known) == {key(4)}
    assert len(reputation) <= 12


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["accept", "stale", "copy", "odd word", "reward", "wait"]))))
def test_whatever_happens_rates_scores_and_the_table_stay_in_bounds(events: list[tuple[int, str]]) -> None:
    reputation, clock = table(fresh=5, known=3, known_after=2, half_life_s=50, floor=0.1)
    for i, what in events:
        if what == "accept":
            reputation.accepted(key(i))
        elif what == "reward":
            reputation.false_rewards(key(i), 2)
        elif what == "wait":
            clock.now += 10 * i
        else:
            reputation.refused(key(i), what)
        assert 0.1 <= reputation.sample_rate(key(i)) <= 1
        assert 0 < reputation.score(key(i)) < 1
        assert len(reputation) <= 8
    again = Reputation.from_bytes(reputation.to_bytes(), reputation.trust, clock=clock)
    assert all(again.standing(key(i)) == reputation.standing(key(i)) for i in range(31))


def test_what_is_saved_is_whole_and_what_is_no_reputation_is_refused(tmp_path: Path) -> None:
    reputation, clock = table()
    reputation.accepted(key(3))
    reputation.save(tmp_path / "reputation")
    assert [path.name for path in tmp_path.iterdir()] == ["reputation"]
    read = Reputation.from_bytes((tmp_path / "reputation").read_bytes(), clock=clock)
    assert read.standing(key(3)) == reputation.standing(key(3))
    for data in (b"", b"\x93", b"\x92\x80\x81\xc4\x01a\x90", b"\x91" * 5000, reputation.to_bytes()[:-1]):
        with pytest.raises(ValueError, match="no reputation"):
            Reputation.from_bytes(data)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="floor is 0"):
        Trust(floor=0)
    with pytest.raises(ValueError, match="above 0"):
        Trust(ban_s=0)
    with pytest.raises(ValueError, match="at least 1"):
        Trust(known=0)
    with pytest.raises(ValueError, match="32 bytes"):
        table()[0].accepted(b"short")
