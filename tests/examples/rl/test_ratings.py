import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.ratings import Ratings
from tests.examples.rl.groups import key


def test_two_equals_move_by_half_of_k() -> None:
    ratings = Ratings()
    assert ratings.play({key(0): 1.0, key(1): 0.0}) == {key(0): 16, key(1): -16}
    assert [agent for agent, _ in ratings.table()] == [key(0), key(1)]


def test_a_favourite_gains_little_and_loses_much() -> None:
    ratings = Ratings()
    for _ in range(100):
        ratings.play({key(0): 1.0, key(1): 0.0})
    won = ratings.play({key(0): 1.0, key(1): 0.0})[key(0)]
    lost = ratings.play({key(0): 0.0, key(1): 1.0})[key(0)]
    assert 0 < won < 3
    assert lost < -29


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6), max_size=20))
def test_the_changes_of_a_session_add_up_to_nothing(sessions: list[list[int]]) -> None:
    ratings = Ratings()
    for scores in sessions:
        changes = ratings.play({key(i): float(score) for i, score in enumerate(scores)})
        assert sum(changes.values()) == pytest.approx(0, abs=1e-9)


def test_ratings_find_the_order_of_skill() -> None:
    ratings, rng = Ratings(k=16), random.Random(0)
    for _ in range(300):
        ratings.play({key(i): i + rng.gauss(0, 1.5) for i in rng.sample(range(5), 4)})
    assert [agent for agent, _ in ratings.table()] == [key(i) for i in (4, 3, 2, 1, 0)]


def test_a_flood_of_newcomers_pushes_out_newcomers() -> None:
    ratings = Ratings(capacity=4)
    for _ in range(2):
        ratings.play({key(0): 1.0, key(1): 0.0})
    for i in range(10, 100, 2):
        ratings.play({key(i): 1.0, key(i + 1): 0.0})
    assert {agent for agent, _ in ratings.table()} == {key(0), key(1), key(98), key(99)}


def test_sessions_and_tables_that_cannot_be_are_refused() -> None:
    for scores in ({key(0): 1.0}, {key(0): 1.0, key(1): float("nan")}, {}):
        with pytest.raises(ValueError, match="finite scores"):
            Ratings().play(scores)
    with pytest.raises(ValueError, match="at least 2"):
        Ratings(capacity=1)
