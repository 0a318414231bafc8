"""The decision of an exchange, with a store in this process: who decides, who only asks, and that the first word holds."""

import time
from typing import Any

import pytest
from torch.distributed import HashStore

from thinwire.comms import arbiter
from thinwire.comms.arbiter import COMMIT, FAIL, RETRY, Arbiter

DATA = 0x1234


def members(n: int) -> list[Arbiter]:
    store = HashStore()
    return [Arbiter(store, 0, rank, tuple(range(n))) for rank in range(n)]


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def put_ballot(who: Arbiter, fingerprint: int = DATA) -> None:
    """What a vote begins with; its member then says nothing more."""
    who.store.add(who._key("h", 0), 1 + (fingerprint << 16))


def test_the_last_voter_commits_when_all_had_the_same_data() -> None:
    first, second, last = members(3)
    put_ballot(first)
    put_ballot(second)
    assert last.vote(0, DATA, soon()) == COMMIT
    assert first.rule(0, RETRY) == COMMIT


def test_different_data_commit_nothing() -> None:
    first, last = members(2)
    put_ballot(first, DATA + 1)
    assert last.vote(0, DATA, soon()) == FAIL + "members received different bytes"


def test_who_is_near_the_store_decides_for_a_last_voter_that_says_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = members(2)
    asked = Arbiter.rule

    def then_the_other_votes(who: Arbiter, seq: int, wish: str) -> str:
        told = asked(who, seq, wish)
        if not wish and not votes:
            votes.append(wish)
            put_ballot(far)
        return told

    votes: list[str] = []
    monkeypatch.setattr(Arbiter, "rule", then_the_other_votes)
    assert near.vote(0, DATA, soon()) == COMMIT
    assert votes


def test_who_is_far_asks_for_the_decision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    far, other = members(2)
    monkeypatch.setattr(arbiter, "_NEAR_S", 0.0)
    added: list[Any] = []
    monkeypatch.setattr(HashStore, "add", lambda store, key, n: added.append(n) or 1 + (DATA << 16))
    asked = Arbiter.rule

    def then_the_other_decides(who: Arbiter, seq: int, wish: str) -> str:
        told = asked(who, seq, wish)
        if len(told) == 0:
            asked(other, seq, RETRY + "as the other says")
        return told

    monkeypatch.setattr(Arbiter, "rule", then_the_other_decides)
    assert far.vote(0, DATA, soon()) == RETRY + "as the other says"
    assert added == [1 + (DATA << 16)]


def test_asking_decides_nothing() -> None:
    one, other = members(2)
    assert one.rule(0, "") == ""
    assert one.rule(0, "") == ""
    assert other.rule(0, FAIL + "late") == FAIL + "late"
    assert one.rule(0, "") == FAIL + "late"
    assert one.rule(0, COMMIT) == FAIL + "late"


def test_a_decision_at_the_deadline_holds_for_votes_that_come_later() -> None:
    early, late = members(2)
    ruling = early.vote(0, DATA, time.monotonic(), RETRY)
    assert ruling == RETRY + "a member did not confirm that it has the data"
    assert late.vote(0, DATA, soon()) == ruling
