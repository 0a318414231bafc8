"""What a member packs for newcomers, and for how long it keeps that."""

from collections.abc import Callable, Iterator

import pytest
import torch

from thinwire.comms.door import Snapshot
from thinwire.comms.swarm import offers as module
from thinwire.comms.swarm.blobs import digest_of
from thinwire.comms.swarm.offers import HAD_S, KEPT, LEASE_S, LEASED, WANTED_S, Offers

Clock = Callable[[float], None]


@pytest.fixture
def kept() -> dict[bytes, bytes]:
    return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let seconds pass."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


@pytest.fixture
def offers(kept: dict[bytes, bytes], clock: Clock) -> Iterator[Offers]:
    def add(piece: bytes) -> bytes:
        kept[digest_of(piece)] = piece
        return digest_of(piece)

    made = Offers(add, kept.pop)
    yield made
    made.close()


def pack(offers: Offers, round: int, *, seed: int | None = None) -> None:
    """A round has been applied while a newcomer looks for a state."""
    numbers = torch.Generator().manual_seed(round if seed is None else seed)
    offers.put(Snapshot(round, {"weight": torch.randn(100, generator=numbers)}, b"{}"))
    offers.want()
    if offers._busy is not None:
        offers._busy.result(10)


def test_nothing_is_packed_unless_a_newcomer_asks(offers: Offers, kept: dict[bytes, bytes]) -> None:
    offers.put(Snapshot(0, {"weight": torch.ones(4)}, b"{}"))
    assert offers.newest() is None
    assert not kept
    assert offers._busy is None


def test_the_last_states_are_kept_and_the_chunks_of_others_are_freed(offers: Offers, kept: dict[bytes, bytes]) -> None:
    for round in range(KEPT + 3):
        pack(offers, round)
    found = [round for round in range(KEPT + 3) if offers.lease(round)]
    assert found == list(range(3, KEPT + 3))
    assert len(kept) == 2 * KEPT  # a manifest and a chunk each


def test_a_leased_state_outlives_any_number_of_rounds_and_ends_with_its_lease(
    offers: Offers, kept: dict[bytes, bytes], clock: Clock
) -> None:
    pack(offers, 0)
    leased = offers.lease(0)
    assert leased is not None
    for round in range(1, 3 * KEPT):
        pack(offers, round)
        clock(LEASE_S / 4)
        assert offers.lease(0) is leased
        assert {leased.digest, *leased.chunks} <= kept.keys()
    clock(LEASE_S + 1)
    pack(offers, 3 * KEPT)
    assert offers.lease(0) is None
    assert leased.digest not in kept


def test_where_enough_states_are_leased_newcomers_get_the_newest_of_them(offers: Offers) -> None:
    for round in range(LEASED):
        pack(offers, round)
        offers.lease(round)
    pack(offers, LEASED)
    newest = offers.newest()
    assert newest is not None
    assert newest.manifest.round == LEASED - 1
    offers.release(0)
    pack(offers, LEASED + 1)
    newest = offers.newest()
    assert newest is not None
    assert newest.manifest.round == LEASED + 1


def test_nothing_more_is_packed_once_the_newcomer_has_a_state(offers: Offers, clock: Clock) -> None:
    pack(offers, 0)
    assert offers.lease(0) is not None
    clock(HAD_S + 0.1)
    packed = offers._busy
    for round in range(1, 5):
        offers.put(Snapshot(round, {"weight": torch.ones(4)}, b"{}"))
        assert offers.lease(0) is not None  # it is still on its way
    assert offers._busy is packed
    pack(offers, 5)  # for another one
    offers.put(Snapshot(6, {"weight": torch.ones(4)}, b"{}"))
    assert offers._busy is not None
    offers._busy.result(10)
    assert offers.lease(5) is not None
    assert offers.lease(6) is not None


def test_what_was_packed_for_somebody_long_ago_is_not_offered_to_the_next(offers: Offers, clock: Clock) -> None:
    pack(offers, 0)
    clock(WANTED_S + 1)
    for round in range(1, 10):
        offers.put(Snapshot(round, {"weight": torch.ones(4)}, b"{}"))
    assert offers.newest() is None
    pack(offers, 10)
    newest = offers.newest()
    assert newest is not None
    assert newest.manifest.round == 10


def test_a_large_state_is_kept_once_and_where_it_is_leased(offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_NBYTES", 100)
    pack(offers, 0)
    offers.lease(0)
    for round in (1, 2, 3):
        pack(offers, round)
    assert [round for round in range(4) if offers.lease(round)] == [0, 3]


def test_members_pack_multiples_of_a_power_of_two_while_rounds_are_faster_than_packing(offers: Offers, clock: Clock) -> None:
    pack(offers, 0)
    offers._packing_s = 1.0
    for round in range(1, 9):
        clock(0.5)
        pack(offers, round)
        offers._packing_s = 1.0
    assert offers.stride == 4
    assert [round for round in range(9) if offers.lease(round)] == [0, 4, 8]
    clock(60.0)
    assert offers.stride == 1  # rounds have stopped: what there is is packed


def test_chunks_that_two_states_share_stay_with_the_other(offers: Offers, kept: dict[bytes, bytes]) -> None:
    for round in range(KEPT + 1):
        pack(offers, round, seed=7)
    newest = offers.newest()
    assert newest is not None
    assert {newest.digest, *newest.chunks} <= kept.keys()
