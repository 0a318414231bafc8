"""One worker process: `python -m benchmarks.collectives.worker`, started by a fleet.

Rows of processes give it one member, rows of threads all of them.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import torch.distributed as dist

from benchmarks.collectives.parts import CodedRounds, GlooAllGather, GlooAllReduce
from benchmarks.collectives.rows import THREADS, Row
from benchmarks.lab.simulated import SimulatedGroup
from benchmarks.lab.topology import Topology
from benchmarks.suite.member import Idle, Part, serve
from thinwire import LocalGroup, TorchGroup

TIMEOUT_S = 600.0  # slowness is what is measured, no fault
T = TypeVar("T")


class Threads:
    """All members of a row, a thread each."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def prepare(self) -> float:
        return max(self._each(lambda part: part.prepare()))

    def run(self, rounds: int) -> list[Any]:
        return self._each(lambda part: part.run(rounds))

    def check(self) -> list[Any]:
        return self._each(lambda part: part.check())

    def _each(self, do: Callable[[Part], T]) -> list[T]:
        with ThreadPoolExecutor(len(self._parts)) as pool:
            return list(pool.map(do, self._parts))


class Worlds:
    """The world of members that this process is in: kept while rows ask for the same one."""

    def __init__(self) -> None:
        self._named: str | None = None
        self._groups: list[Any] = []

    def enter(self, name: str, make: Callable[[], list[Any]]) -> list[Any]:
        """The groups of the world of this name, of which `make` makes those that this process needs."""
        if name != self._named:
            self._leave()
            self._groups, self._named = make(), name
        return self._groups

    def _leave(self) -> None:
        for group in self._groups:
            group.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


def torchrun_environment(rank: int, size: int, address: str, port: int, attempt: int) -> None:
    """As torchrun would set it: each attempt is a world of its own."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
    }


def part_of(asked: dict[str, Any], worlds: Worlds, rank: int) -> Part:
    """This process's part in the row that the parent asks for."""
    row = Row(**asked["row"])
    name = f"{row.group} {row.members} {asked['attempt']}"
    if row.group in THREADS:
        groups = worlds.enter(name, lambda: _threads(row, asked["topology"]))
        return Threads([CodedRounds(row, group.rank, group) for group in groups])
    if rank >= row.members:
        return Idle()
    torchrun_environment(rank, row.members, asked["address"], asked["port"], asked["attempt"])
    if row.group == "torch":
        (group,) = worlds.enter(name, lambda: [TorchGroup.from_env(timeout_s=TIMEOUT_S)])
        return CodedRounds(row, rank, group)
    worlds.enter(name, _default_group)
    return GlooAllReduce(row, rank) if row.summed else GlooAllGather(row, rank)


def _threads(row: Row, topology: dict[str, Any]) -> list[LocalGroup]:
    if row.group == "local":
        return LocalGroup.world(row.members, timeout_s=TIMEOUT_S)
    return list(SimulatedGroup.world(msgspec.convert(topology, Topology), timeout_s=TIMEOUT_S))


def _default_group() -> list[Any]:
    dist.init_process_group("gloo")
    return []


def main() -> None:
    worlds, rank = Worlds(), int(os.environ["RANK"])
    serve(lambda asked: part_of(asked, worlds, rank))


if __name__ == "__main__":
    main()
