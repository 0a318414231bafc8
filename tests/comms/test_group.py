"""The group interface, on threads."""

import copy
import pickle
import threading
import time

import pytest
import torch

from tests.comms.laws import LAWS, PLAN, begin, payload_of, same, told
from tests.worlds import run_threads, thinwire_threads
from thinwire.comms import group as group_module
from thinwire.comms.group import FIRST_S, Patience
from thinwire.comms.local import LocalGroup
from thinwire.comms.wire import RoundKey


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, n: int) -> None:
    LAWS[law].see(run_threads(n, LAWS[law].do), n)


def test_at_the_deadline_the_round_goes_on_without_the_late_who_get_the_same() -> None:
    a, b, c = LocalGroup.world(3, timeout_s=20.0)
    a._patience = b._patience = Patience(1.0)
    early = [begin(group, 0, payload_of(group.rank, 8)) for group in (a, b)]
    agreed = same([told(p.wait()) for p in early])
    assert agreed is not None
    assert agreed.members == (0, 1)
    assert agreed.skipped == {2: "missed the deadline"}
    assert told(begin(c, 0, payload_of(2, 8)).wait()) == agreed
    a._patience = b._patience = Patience(20.0)
    pending = [begin(group, 1, payload_of(group.rank, 8)) for group in (a, b, c)]
    assert same([told(p.wait()) for p in pending]).members == (0, 1, 2)
    for group in (a, b, c):
        group.leave()


def test_nobody_waits_twice_for_a_member_that_never_comes() -> None:
    a, b = LocalGroup.world(2, timeout_s=None)
    a._patience = Patience(0.05)
    assert begin(a, 0, payload_of(0, 8)).wait().members == (0,)
    a._patience = Patience(60.0)
    assert begin(a, 1, payload_of(0, 8)).wait().members == (0,)
    a.leave(), b.leave()


def test_nobody_waits_for_a_member_that_leaves() -> None:
    a, b, c = LocalGroup.world(3, timeout_s=60.0)
    pending = [begin(group, 0, payload_of(group.rank, 8)) for group in (a, b)]
    c.leave()
    agreed = same([told(p.wait()) for p in pending])
    assert agreed.members == (0, 1)
    assert agreed.skipped == {}
    assert a.members == b.members == (0, 1)
    gone = begin(c, 0, payload_of(2, 8))
    assert gone.wait() is None
    assert "left" in (gone.error or "")
    a.leave(), b.leave()


def test_leaving_twice_is_nothing_and_leaves_no_thread() -> None:
    before = len(thinwire_threads())
    groups = LocalGroup.world(2, timeout_s=60.0)
    stuck = begin(groups[0], 0, payload_of(0, 8))
    for _ in range(2):
        for group in groups:
            group.leave()
    assert stuck.wait() is None or stuck.wait().members == (0,)
    assert len(thinwire_threads()) == before


def test_a_late_reader_too_far_behind_is_told_so() -> None:
    a, b = LocalGroup.world(2, timeout_s=0.05)
    for i in range(30):
        assert begin(a, i, payload_of(0, 8)).wait() is not None
    behind = begin(b, 0, payload_of(1, 8))
    assert behind.wait() is None
    assert "behind" in (behind.error or "")
    assert b.error
    a.leave(), b.leave()


def test_the_payload_may_be_overwritten_once_started() -> None:
    def member(group: LocalGroup) -> object:
        payload = payload_of(group.rank, 64)
        pending = begin(group, 0, payload)
        payload.zero_()
        return told(pending.wait())

    agreed = same(run_threads(2, member))
    assert agreed.payloads == payload_of(0, 64).numpy().tobytes() + payload_of(1, 64).numpy().tobytes()


def test_start_never_blocks() -> None:
    a, b = LocalGroup.world(2, timeout_s=30.0)
    pending = [begin(a, i, payload_of(0, 8)) for i in range(3)]
    assert not any(p.done() for p in pending)
    others = [begin(b, i, payload_of(1, 8)) for i in range(3)]
    assert all(p.wait().members == (0, 1) for p in pending + others)
    a.leave(), b.leave()


def test_a_group_refuses_copies_and_wrong_payloads() -> None:
    (alone,) = LocalGroup.world(1)
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(alone)
    with pytest.raises(TypeError, match="cannot be copied"):
        pickle.dumps(alone)
    with pytest.raises(ValueError, match="1-D uint8"):
        alone.start(RoundKey(0, 0, 0), torch.zeros(4), plan=PLAN)
    with pytest.raises(ValueError, match="whole float32"):
        alone.start(RoundKey(0, 0, 0), payload_of(0, 5), plan=PLAN, reduce=True)
    with pytest.raises(ValueError, match="at least one"):
        LocalGroup.world(0)
    with pytest.raises(ValueError, match="above 0"):
        LocalGroup.world(2, timeout_s=0)
    alone.leave()
    assert repr(alone) == "<LocalGroup member 0 of [0], this member has left the group>"


def test_patience_is_learnt_from_the_slowest_recent_round() -> None:
    patience = Patience(None)
    for seconds in (0.1, 2.0, 0.1):
        assert patience.seconds() == FIRST_S
        patience.learn(seconds)
    assert patience.seconds() == 16.0
    for _ in range(16):
        patience.learn(0.01)
    assert patience.seconds() == 5.0
    patience.fail()
    assert patience.seconds() == 10.0
    assert Patience(0.5).seconds() == 0.5


def test_a_courier_that_comes_back_some_seconds_late_costs_nobody_its_place() -> None:
    """As one does whose store was busy."""

    class Late(LocalGroup):
        def _settle(self, job, deadline):  # type: ignore[no-untyped-def]
            time.sleep(1.5)
            return super()._settle(job, deadline)

    (late,) = Late.world(1, timeout_s=0.1)
    assert begin(late, 0, payload_of(0, 8)).wait().members == (0,)
    assert late.error is None
    late.leave()


def test_a_courier_that_hangs_does_not_hang_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "SLACK_S", 0.5)

    class Hanging(LocalGroup):
        def _settle(self, job, deadline):  # type: ignore[no-untyped-def]
            release.wait(30)
            return super()._settle(job, deadline)

    release = threading.Event()
    a, b = Hanging.world(2, timeout_s=0.1)
    first, second = begin(a, 0, payload_of(0, 8)), begin(a, 1, payload_of(0, 8))
    assert first.wait() is None
    assert "did not come back" in (first.error or "")
    release.set()
    assert second.wait() is None
    assert first.wait() is None
    assert begin(a, 2, payload_of(0, 8)).wait() is None
    a.leave(), b.leave()
