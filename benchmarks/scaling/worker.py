"""One worker process: `python -m benchmarks.scaling.worker`, started by a fleet; a peer of the rows that have so many."""

import os
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
import xxhash

from benchmarks.collectives.worker import TIMEOUT_S, torchrun_environment
from benchmarks.scaling.rows import GLOO, Row
from benchmarks.suite.member import Idle, Part, serve
from examples.multiregion.model import CONTEXT, GPT, sha256
from thinwire import DiLoCo, RoundInfo, TorchGroup
from thinwire.comms.wire import bytes_of

PHASES = ("encode", "exchange", "decode", "apply")


class Sync(ABC):
    """Times the synchronisation alone: the gradient is computed once, as many peers share this machine's cores."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        torch.manual_seed(0)
        self._gpt = GPT()
        text = torch.randint(256, (1, CONTEXT + 1), generator=torch.Generator().manual_seed(rank))
        self._gpt.loss(text).backward()

    def prepare(self) -> float:
        self.round()
        began = time.perf_counter()
        self.round()
        return time.perf_counter() - began

    def run(self, rounds: int) -> dict[str, Any]:
        found = [self.round() for _ in range(rounds)]
        return {"seconds": [seconds for seconds, _ in found if seconds], "ledger": sum(sent for _, sent in found)}

    @abstractmethod
    def round(self) -> tuple[dict[str, float], int]:
        """Seconds by phase, none when the round failed, and bytes handed to the transport as the ledger has them."""

    @abstractmethod
    def check(self) -> dict[str, Any]:
        """A hash of what members must share, and leave."""


class DiLoCoSync(Sync):
    """The real thing, a round every step."""

    def __init__(self, row: Row, rank: int) -> None:
        super().__init__(rank)
        self._infos: list[RoundInfo] = []
        self._group = TorchGroup.from_env(timeout_s=TIMEOUT_S)
        inner = torch.optim.SGD(self._gpt.parameters(), lr=1e-3)
        self._opt = DiLoCo(inner, sync_every=1, codec=row.method, group=self._group, on_round=self._infos.append)

    def round(self) -> tuple[dict[str, float], int]:
        self._opt.step()
        info = self._infos[-1]
        return {} if info.error else {phase: info.seconds[phase] for phase in PHASES}, info.wire_sent

    def check(self) -> dict[str, Any]:
        found = sha256(self._gpt)
        self._opt.close()
        self._group.leave()
        return {"hash": found}


class GlooSync(Sync):
    """A flat float32 all-reduce of as many parameters, torch alone."""

    def __init__(self, row: Row, rank: int) -> None:
        super().__init__(rank)
        dist.init_process_group("gloo")
        self._delta = torch.cat([p.grad.flatten() for p in self._gpt.parameters() if p.grad is not None])
        self._sum = self._delta

    def round(self) -> tuple[dict[str, float], int]:
        self._sum = self._delta.clone()
        began = time.perf_counter()
        dist.all_reduce(self._sum)
        return dict.fromkeys(PHASES, 0.0) | {"exchange": time.perf_counter() - began}, 0

    def check(self) -> dict[str, Any]:
        with suppress(RuntimeError):  # members do not leave at the same moment
            dist.destroy_process_group()
        return {"hash": xxhash.xxh3_64_hexdigest(bytes_of(self._sum))}


def part_of(asked: dict[str, Any], rank: int) -> Part:
    """This process's part in the row that the parent asks for."""
    row = Row(**asked["row"])
    if rank >= row.peers:
        return Idle()
    torchrun_environment(rank, row.peers, asked["address"], asked["port"], asked["attempt"])
    return GlooSync(row, rank) if row.method == GLOO else DiLoCoSync(row, rank)


def main() -> None:
    rank = int(os.environ["RANK"])
    serve(lambda asked: part_of(asked, rank))


if __name__ == "__main__":
    main()
