from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.batches import Piece, Pieces, Queue, summing_to


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), max_size=9), st.integers(1, 20))
def test_places_that_sum_to_the_target_are_found_whenever_there_are_any_and_are_the_earliest(sizes: list[int], target: int) -> None:
    every = [list(c) for n in range(1, 10) for c in combinations(range(len(sizes)), n) if sum(sizes[i] for i in c) == target]
    assert summing_to(sizes, target) == (min(every) if every else None)


def queue(*pieces: tuple[int, int | None]) -> Queue[int]:
    made: Queue[int] = Queue(1000)
    for i, (size, environment) in enumerate(pieces):
        made.add(Piece(size, environment, i))
    return made


def took(batch: list[Piece[int]] | None) -> list[int] | None:
    return None if batch is None else [piece.what for piece in batch]


def test_a_batch_is_exact_or_it_waits() -> None:
    waiting = queue((4, 0), (4, 0), (2, 1))
    assert took(waiting.take(16)) is None
    assert took(waiting.take(5)) is None
    assert took(waiting.take(6)) == [0, 2]
    assert took(waiting.take(4)) == [1]
    assert len(waiting) == 0


def test_the_oldest_go_first_and_all_are_taken_in_turn() -> None:
    waiting = queue(*[(4, 0)] * 6)
    assert [took(waiting.take(8)) for _ in range(4)] == [[0, 1], [2, 3], [4, 5], None]


def test_an_environment_gets_its_promised_share_of_each_batch_or_the_batch_waits() -> None:
    waiting = queue(*[(4, 0)] * 6, (4, 1), (4, 1))
    assert took(waiting.take(8, {1: 2})) == [0, 6]
    assert took(waiting.take(8, {1: 4})) == [1, 7]
    assert took(waiting.take(8, {1: 2})) is None
    assert took(waiting.take(8)) == [2, 3]


def test_promises_that_leave_no_room_wait() -> None:
    assert queue((4, 0), (4, 1)).take(4, {0: 4, 1: 4}) is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2)), max_size=30), st.integers(1, 16), st.integers(0, 4))
def test_batches_are_exact_keep_promises_and_lose_or_repeat_nothing(pieces: list[tuple[int, int]], batch_size: int, promise: int) -> None:
    waiting = queue(*pieces)
    seen: list[int] = []
    while (batch := waiting.take(batch_size, {1: promise})) is not None:
        assert sum(piece.size for piece in batch) == batch_size
        assert sum(piece.size for piece in batch if piece.environment == 1) >= promise
        seen += [piece.what for piece in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) + len(waiting) == len(pieces)


def test_pieces_are_held_until_some_of_them_make_a_group() -> None:
    held: Pieces[int] = Pieces(8)
    assert held.add(Piece(3, 0, 0)) == []
    assert held.add(Piece(6, 0, 1)) == []
    assert took(held.add(Piece(5, 0, 2))) == [0, 2]
    assert held.sequences == 6


def test_a_queue_says_what_fits() -> None:
    full: Queue[int] = Queue(4)
    full.add(Piece(3, 0, 0))
    assert full.fits(1)
    assert not full.fits(2)


def test_sizes_that_do_not_go_together_keep_no_batch_back() -> None:
    assert took(queue((3, 1), (4, 1), (4, 0)).take(8, {1: 4})) == [1, 2]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([None, 0, 1, 2])), max_size=8),
    st.integers(1, 14),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_there_is_a_batch_whenever_some_groups_make_one(
    pieces: list[tuple[int, int | None]], batch_size: int, first: int, second: int
) -> None:
    def makes_one(places: tuple[int, ...]) -> bool:
        size = {environment: sum(pieces[i][0] for i in places if pieces[i][1] == environment) for environment in (None, 0, 1, 2)}
        return sum(size.values()) == batch_size and size[0] >= first and size[1] >= second

    possible = any(makes_one(places) for n in range(len(pieces) + 1) for places in combinations(range(len(pieces)), n))
    batch = queue(*pieces).take(batch_size, {0: first, 1: second})
    assert (batch is not None) == possible
    assert batch is None or makes_one(tuple(piece.what for piece in batch))


@pytest.mark.parametrize("sizes", [[], [3], [3, 3]])
def test_a_target_out_of_reach_is_none(sizes: list[int]) -> None:
    assert summing_to(sizes, 4) is None
