"""The measurements as pytest-benchmark tests; `python -m benchmarks.kernels` runs them and prints the table.

pytest-benchmark times ours (`pedantic`, one call a round) and keeps the record; what it runs before and after each round are the others:

    peers ..., probe, OURS, probe

each on the next slice of the pool and by the same clock. So every ratio is between neighbours in time, and what slows the machine down
for longer than some milliseconds slows both sides of it.
"""

import time
from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

import pytest

from benchmarks.kernels import ours
from benchmarks.kernels.operation import PROBES, Contestant, Operation, Sizes
from benchmarks.kernels.pool import Pool, Slice

SLOW_S, SLOW_ROUNDS = 0.1, 4  # a peer that takes longer than this is measured in so many rounds only
SETTINGS = pytest.StashKey[tuple[int, Sizes, int]]()  # megabytes, sizes, rounds; set by the command


class Bench(NamedTuple):
    """What all operations share."""

    pool: Pool
    sizes: Sizes
    rounds: int


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Bench:
    megabytes, sizes, rounds = request.config.stash[SETTINGS]
    return Bench(Pool(megabytes), sizes, rounds)


def clock_of(operation: Operation) -> Callable[[], float]:
    """CPU time of this thread, or the clock on the wall where there are several threads."""
    return time.perf_counter if operation.wall else time.thread_time


def test_operation(benchmark: Any, bench: Bench, operation: Operation, repetition: int) -> None:
    if operation.alone and not ours.available():
        pytest.skip("needs the C++ library")
    lineup = operation.lineup(bench.pool, bench.sizes)
    clock, slices, probe = clock_of(operation), cycle(lineup.slices), PROBES.get(operation.probe)
    run = lineup.ours if ours.available() else PROBES[operation.probe]
    peers: dict[str, list[float | None]] = {name: [] for name in lineup.peers}
    probed: list[list[float]] = []  # before and after ours

    def timed(contestant: Contestant) -> float:
        own = next(slices)
        start = clock()
        contestant(own)
        return clock() - start

    def before() -> tuple[tuple[Slice], dict[str, Any]]:
        for name, peer in lineup.peers.items():
            slow = len(peers[name]) >= SLOW_ROUNDS and (peers[name][0] or 0) > SLOW_S
            peers[name].append(None if slow else timed(peer))
        if probe:
            probed.append([timed(probe)])
        return (next(slices),), {}

    def after(_: Slice) -> None:
        if probe:
            probed[-1].append(timed(probe))

    for contestant in (run, probe, *lineup.peers.values()) * 2:  # compiles, and takes its memory
        if contestant:
            timed(contestant)
    benchmark.pedantic(run, setup=before, teardown=after, rounds=bench.rounds)
    benchmark.extra_info.update(operation=operation.name, elements=lineup.elements, probed=probed, peers=peers, ours=ours.available())
