"""The model of a trainer's idle time against a simulation of what it describes, and what a meter makes of a run."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.capacity import Capacity, Meter

A, B = bytes(32), bytes([1]) * 32


def simulated(capacity: Capacity, staleness: int, updates: int = 400) -> float:
    """The idle share of a trainer that takes the oldest rollouts allowed: those of version v come when they can after version v is there,
    and one after the other."""
    published, arrived, at, idle, half = [0.0], 0.0, 0.0, 0.0, 0.0
    for update in range(updates):
        version = max(0, update - staleness)
        arrived = max(arrived, published[version] + capacity.broadcast_s) + capacity.rollout_s
        idle += max(0.0, arrived - at)
        at = max(at, arrived) + capacity.train_s
        published.append(at)
        if update == updates // 2:
            half, idle = at, 0.0
    return idle / (at - half)


durations = st.floats(0.1, 5.0)


@settings(deadline=None, max_examples=50)
@given(durations, durations, durations, st.integers(0, 8))
def test_the_formula_is_what_a_pipeline_of_so_many_versions_does(train: float, broadcast: float, rollout: float, staleness: int) -> None:
    capacity = Capacity(train, broadcast, rollout)
    assert simulated(capacity, staleness) == pytest.approx(capacity.idle(staleness), abs=0.02)


@settings(deadline=None, max_examples=50)
@given(durations, durations, durations)
def test_more_staleness_is_never_more_idle_and_enough_of_it_leaves_the_slower_side(train: float, broadcast: float, rollout: float) -> None:
    capacity = Capacity(train, broadcast, rollout)
    idle = [capacity.idle(staleness) for staleness in range(200)]
    assert idle == sorted(idle, reverse=True)
    assert idle[-1] == pytest.approx(max(0.0, 1 - train / rollout))


@pytest.mark.parametrize("given", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, math.nan), (math.nan, 1.0, 1.0)])
def test_durations_that_cannot_be_are_refused(given: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Capacity(*given)
    with pytest.raises(ValueError, match="0 or more"):
        Capacity(1.0, 1.0, 1.0).period_s(-1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_meter_tells_a_sequential_run_as_it_was() -> None:
    clock = Clock()
    meter = Meter(4, clock=clock)
    assert meter.told() == {}
    for version in range(1, 12):
        meter.published(version)
        clock.now += 0.5  # broadcast
        for _ in range(2):  # two workers, two groups each, 0.75 s a group
            clock.now += 0.75
            for worker in (A, B):
                meter.arrived(worker, version, work_s=0.75, since_s=clock.now - 100 - 2.5 * (version - 1) - 0.5)
        clock.now += 0.5  # train
        meter.updated(waited_s=2.0)
    assert meter.idle == pytest.approx(0.8)
    found = meter.capacity()
    assert found is not None
    assert (found.train_s, found.broadcast_s, found.rollout_s) == pytest.approx((0.5, 0.5, 1.5))
    assert found.idle(0) == pytest.approx(0.8)
    assert meter.told()["predicted_idle"] == {"0": 0.8, "1": 0.6667, "2": 0.6667, "4": 0.6667, "8": 0.6667}


@pytest.mark.parametrize("hint", [math.nan, math.inf, -1.0, 1e9])
def test_what_a_worker_says_that_cannot_be_is_not_counted(hint: float) -> None:
    clock = Clock()
    meter = Meter(4, clock=clock)
    for version in (1, 2, 3):
        meter.published(version)
        clock.now += 1.0
        meter.arrived(A, version, work_s=hint, since_s=hint)
        meter.updated(0.5)
    assert meter.capacity() is None
    assert meter.told() == {}
