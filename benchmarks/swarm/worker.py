"""One worker process: `python -m benchmarks.swarm.worker`, started by a fleet; a member of a swarm that is measured."""

import os
import time
from typing import Any

import torch

from benchmarks.suite.member import serve
from benchmarks.swarm.meeting import group_of, learner
from examples.multiregion.model import sha256
from thinwire import DiLoCo, RoundInfo

ALL_IN_S = 300.0
PAUSE_S = 0.5  # what else would be training: a newcomer gets the state meanwhile


class Rounds:
    """Times rounds in which all members count: the gradient is computed once, so that a step is the round alone."""

    def __init__(self, asked: dict[str, Any], rank: int) -> None:
        self._gpt = learner(rank, seed=0)
        self._members, self._infos = asked["members"], list[RoundInfo]()
        inner = torch.optim.SGD(self._gpt.parameters(), lr=1e-4)
        self._opt = DiLoCo(inner, sync_every=1, codec=asked["codec"], group=group_of(asked, rank), on_round=self._infos.append)

    def prepare(self) -> float:
        began = time.monotonic()
        while len(self._full) < 2:
            if time.monotonic() - began > ALL_IN_S:
                raise TimeoutError(f"{self._members} members did not come together in {ALL_IN_S:.0f} s: {self._opt.group!r}")
            self._opt.step()
            time.sleep(PAUSE_S)
        return _seconds(self._full[-1])

    def run(self, rounds: int) -> dict[str, Any]:
        before = len(self._full)
        while len(self._full) < before + rounds:
            self._opt.step()
        found = self._full[before:]
        return {"seconds": [_seconds(info) for info in found], "payload": found[-1].payload_sent / (self._members - 1)}

    def check(self) -> dict[str, Any]:
        found = sha256(self._gpt)
        self._opt.close()
        return {"hash": found}

    @property
    def _full(self) -> list[RoundInfo]:
        return [info for info in self._infos if len(info.members) == self._members]


def _seconds(info: RoundInfo) -> float:
    return info.seconds["exchange"] + info.hidden_s


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    serve(lambda asked: Rounds(asked, rank))
