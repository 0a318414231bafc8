"""One worker process: `python -m benchmarks.swarm.join_worker`; all train but the last, which joins them and leaves again and again."""

import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.suite.member import serve
from benchmarks.swarm.meeting import group_of, learner
from thinwire import DiLoCo, RoundInfo

IN_S = 120.0
ROUNDS = 3  # that a newcomer stays for
CALM_S = 2.0  # between a start and the next join: what both are compared with
AFTERWARDS = 50  # steps after the last has gone
JOIN_S = 5.0  # what one is taken to last, for the patience of the parent


class Trains:
    """A member whose step is a declared sleep and a gradient that was computed once."""

    def __init__(self, asked: dict[str, Any], rank: int) -> None:
        self.infos, self._step_s, self.group = list[RoundInfo](), asked["step_s"], group_of(asked, rank)
        inner = torch.optim.AdamW(learner(rank, seed=rank).parameters(), lr=1e-4)
        settings = {"sync_every": asked["sync_every"], "codec": asked["codec"], "verify_every": 1}
        self.opt = DiLoCo(inner, group=self.group, on_round=self.infos.append, **settings)

    def step(self) -> tuple[float, float, int]:
        """When it began, what the optimizer took beside the sleep, and how many counted in the round that landed (0: none did)."""
        rounds = len(self.infos)
        time.sleep(self._step_s)
        began = time.monotonic()
        self.opt.step()
        took = time.monotonic() - began
        return began, took, self.together if len(self.infos) > rounds else 0

    @property
    def together(self) -> int:
        """How many counted in the last round."""
        return len(self.infos[-1].members) if self.infos else 0

    def hashes(self) -> dict[str, str]:
        """Of the shared state before each round, for JSON."""
        return {str(info.round): f"{info.state_hash:016x}" for info in self.infos if info.state_hash}


class Stays:
    """Trains while others come and go."""

    def __init__(self, asked: dict[str, Any], rank: int) -> None:
        self._trains, self._stay = Trains(asked, rank), asked["members"] - 1

    def prepare(self) -> float:
        _train_until(self._trains, lambda t: t.together == self._stay)
        return JOIN_S

    def run(self, joins: int) -> dict[str, Any]:
        trains, stay = self._trains, set(self._trains.infos[-1].members)
        steps, came = list[tuple[float, float, int]](), set[int]()
        while len(came) < joins or trains.together > self._stay:
            steps.append(trains.step())
            came |= set(trains.infos[-1].members) - stay
        for _ in range(AFTERWARDS):
            steps.append(trains.step())
        return {"steps": steps, "hashes": trains.hashes()}

    def check(self) -> None:
        self._trains.opt.close()


class Comes:
    """Joins, takes part in three rounds and leaves; then starts once more, in a run of its own, and is no newcomer to anybody."""

    def __init__(self, asked: dict[str, Any], rank: int) -> None:
        os.nice(19)  # it stands for another machine: it takes no time from those that are measured
        self._asked, self._rank = asked, rank

    def prepare(self) -> float:
        return 0.0

    def run(self, joins: int) -> dict[str, Any]:
        return {"joins": [self._join() | {"start": self._start()} for _ in range(joins)]}

    def check(self) -> None:
        return None

    def _start(self) -> dict[str, float]:
        """All that a start is without the others, and on the same processors."""
        began = time.monotonic()
        own = {"run": secrets.token_hex(8), "seed": secrets.token_hex(32), "address": "127.0.0.1", "port": 0}
        trains = Trains(self._asked | own, rank=0)
        _train_until(trains, lambda t: t.together == 1)
        counted = time.monotonic()
        trains.opt.close()
        ended = time.monotonic()
        time.sleep(CALM_S)
        return {"began": began, "counted": counted, "ended": ended}

    def _join(self) -> dict[str, Any]:
        began = time.monotonic()
        trains = Trains(self._asked, self._rank)
        trains.step()
        entered, received = time.monotonic(), trains.group._transport.received_nbytes
        _train_until(trains, lambda t: t.together == self._asked["members"])
        counted = time.monotonic()
        enough = len(trains.infos) + ROUNDS
        _train_until(trains, lambda t: len(t.infos) >= enough)
        state = sum(tensor.numel() * tensor.element_size() for tensor in trains.opt._agreed_tensors().values())
        trains.opt.close()
        times = {"began": began, "entered": entered, "counted": counted, "ended": time.monotonic()}
        return {"times": times, "received": received, "state": state, "hashes": trains.hashes()}


def _train_until(trains: Trains, good: Callable[[Trains], bool]) -> None:
    until = time.monotonic() + IN_S
    while not good(trains):
        if time.monotonic() > until:
            raise TimeoutError(f"not in {IN_S:.0f} s: {trains.together} count, {trains.group!r}")
        trains.step()


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    serve(lambda asked: Comes(asked, rank) if rank == asked["members"] - 1 else Stays(asked, rank))
