import io
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from examples.rl.buffer import Capacity, ReplayBuffer, digests
from examples.rl.rollout import Completion, RolloutError, RolloutGroup


def group(n: int, *, worker: int = 0, version: int = 0, environment: str = "sort", content: int | None = None) -> RolloutGroup:
    told = np.asarray([n if content is None else content, worker if content is None else 0, version if content is None else 0])
    answer = Completion.of(told, np.zeros(3), finished=True, text="x")
    return RolloutGroup("run", bytes([worker] * 32), version, n, environment, bytes(32), "p", b"", (answer,), (1.0,))


def refused(buffer: ReplayBuffer, each: RolloutGroup) -> str:
    with pytest.raises(RolloutError) as error:
        buffer.put(each)
    return error.value.reason


def filled(*groups: RolloutGroup, **capacity: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(Capacity(**capacity))
    buffer.advance(max((each.version for each in groups), default=0))
    for each in groups:
        buffer.put(each)
    return buffer


def test_older_versions_go_first_and_within_one_who_came_first() -> None:
    groups = [group(0, version=2), group(1, version=1), group(2, version=2), group(3, version=1)]
    taken = filled(*groups).take(4, head=2)
    assert [each.n for each in taken] == [1, 3, 0, 2]


def test_environments_of_a_version_take_turns_and_one_can_be_asked_for() -> None:
    groups = [group(n, environment="sort") for n in range(4)] + [group(n, environment="addition") for n in (10, 11)]
    assert [each.n for each in filled(*groups).take(5, head=0)] == [10, 0, 11, 1, 2]
    assert [each.n for each in filled(*groups).take(2, head=0, environment="addition")] == [10, 11]
    assert filled(*groups).take(3, head=0, environment="addition") == []


def test_nothing_older_than_the_bound_is_trained_on_and_whole_groups_are_dropped() -> None:
    buffer = filled(*[group(n, version=n) for n in range(6)], max_staleness=9)
    assert [each.version for each in buffer.take(1, head=8)] == [0]
    assert [each.version for each in buffer.take(2, head=12)] == [3, 4]
    stats = buffer.stats()
    assert (stats.held, stats.accepted, stats.taken) == (1, 6, 3)
    assert stats.dropped == {"stale": 2}
    assert stats.staleness == {8: 2, 9: 1}
    assert refused(buffer, group(9, version=2)) == "stale"
    assert refused(buffer, group(9, version=13)) == "future"
    assert buffer.stats().dropped == {"stale": 3, "future": 1}


def test_the_same_group_and_the_same_completions_are_taken_once() -> None:
    buffer = filled(group(0), group(1))
    assert refused(buffer, group(0)) == "duplicate"
    assert refused(buffer, replace(group(1), rewards=(0.0,), prompt="q")) == "duplicate"  # the same number
    thief = replace(group(0), worker=bytes([7] * 32), n=9)
    assert refused(buffer, thief) == "duplicate"  # the same completions
    buffer.take(2, head=0)
    assert refused(buffer, group(0)) == "duplicate"  # also when it has been used
    buffer.advance(5)
    assert buffer._state.seen == {}  # what is too old needs no memory


def test_the_order_of_completions_hides_no_copy() -> None:
    first, second = group(1).completions[0], group(2).completions[0]
    one = replace(group(0), completions=(first, second))
    assert digests(one)[1] == digests(replace(one, completions=(second, first), worker=bytes([1] * 32)))[1]


def test_who_floods_displaces_nobody_but_itself() -> None:
    buffer = filled(groups=8, of_worker=6)
    honest = [group(n, worker=1) for n in range(2)]
    for each in honest:
        buffer.put(each)
    told = Counter(refused_or_held(buffer, group(n, worker=2)) for n in range(100))
    assert told == {"held": 6, "quota": 94}
    for n in range(2, 4):
        buffer.put(group(n, worker=1))  # the flooder makes room
    assert refused(buffer, group(4, worker=1)) == "full"  # 4 and 4: nobody has more than the other
    buffer.put(group(0, worker=3))
    assert dict(buffer.stats().workers) == {bytes([1] * 32): 3, bytes([2] * 32): 4, bytes([3] * 32): 1}
    assert buffer.stats().dropped["evicted"] == 3


def refused_or_held(buffer: ReplayBuffer, each: RolloutGroup) -> str:
    try:
        buffer.put(each)
    except RolloutError as error:
        return error.reason
    return "held"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 30)), max_size=60), st.integers(1, 8))
def test_it_never_holds_more_than_it_may_and_every_group_is_accounted_for(puts: list[tuple[int, int, int]], capacity: int) -> None:
    buffer = ReplayBuffer(Capacity(groups=capacity, of_worker=max(1, capacity // 2), max_staleness=2))
    for worker, version, n in puts:
        buffer.advance(version)
        refused_or_held(buffer, group(n, worker=worker, version=version))
        stats = buffer.stats()
        assert stats.held == len(buffer) <= capacity
        assert max(stats.workers.values(), default=0) <= buffer.capacity.quota
    taken = len(buffer.take(1, head=0)) if len(buffer) else 0
    stats = buffer.stats()
    assert stats.taken == taken
    assert stats.accepted + sum(stats.dropped.get(why, 0) for why in ("future", "duplicate", "quota", "full")) <= len(puts)
    assert len(puts) == stats.held + stats.taken + sum(stats.dropped.values())


def test_it_goes_on_after_a_checkpoint_as_if_nothing_had_happened() -> None:
    groups = [group(n, version=n // 3, worker=n % 2, environment=("sort", "addition")[n % 2]) for n in range(8)]
    buffer = filled(*groups)
    buffer.take(2, head=2)
    refused(buffer, groups[0])
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    again = ReplayBuffer()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.stats() == buffer.stats()
    assert refused(again, groups[1]) == "duplicate"
    assert again.take(6, head=3) == buffer.take(6, head=3)


@pytest.mark.parametrize("state", [{}, {"data": 3}, {"data": torch.zeros(9, dtype=torch.uint8)}, {"data": torch.ones(3)}])
def test_a_state_that_no_buffer_has_saved_is_refused_and_changes_nothing(state: dict[str, Any]) -> None:
    buffer = filled(group(0))
    with pytest.raises(ValueError, match="no state of a replay buffer"):
        buffer.load_state_dict(state)
    assert len(buffer) == 1


def test_a_smaller_buffer_refuses_what_it_cannot_hold() -> None:
    state = filled(group(0), group(1)).state_dict()
    with pytest.raises(ValueError, match="at least that capacity"):
        ReplayBuffer(Capacity(groups=1)).load_state_dict(state)


def test_what_turns_out_wrong_is_discarded_by_reason() -> None:
    buffer = filled(group(0, worker=1), group(1, worker=2), group(2, worker=1))
    assert buffer.discard(lambda each: each.worker == bytes([1] * 32), "banned") == 2
    assert len(buffer) == 1
    assert buffer.stats().dropped == {"banned": 2}


def test_a_learner_waits_for_enough_groups_and_gives_up_in_time() -> None:
    buffer = ReplayBuffer()
    found: list[list[RolloutGroup]] = []
    waiting = threading.Thread(target=lambda: found.append(buffer.take(40, head=0, timeout_s=30)))
    waiting.start()
    workers = [threading.Thread(target=lambda w=w: [buffer.put(group(n, worker=w)) for n in range(10)]) for w in range(4)]
    for worker in workers:
        worker.start()
    for thread in [*workers, waiting]:
        thread.join(30)
    assert len(found[0]) == 40
    assert len(buffer) == 0
    assert buffer.take(1, head=0, timeout_s=0.01) == []


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"of_worker": 0}, {"groups": 3, "of_worker": 4}, {"max_staleness": -1}])
def test_capacities_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="choose groups >= of_worker"):
        Capacity(**wrong)
    with pytest.raises(ValueError, match="choose 1 to"):
        ReplayBuffer(Capacity(groups=4)).take(5, head=0)
