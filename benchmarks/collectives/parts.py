"""One member's part in a row: draw its numbers, do rounds, say what came out and whether it is right.

Every member can draw everybody's numbers from seeds, so what should come out is computed without any communication.
"""

import time
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor

from benchmarks.collectives.rows import Row
from thinwire.comms.group import Group
from thinwire.comms.wire import RoundKey, bytes_of
from thinwire.optim.aggregate import mean
from thinwire.optim.message import encode
from thinwire.optim.update import Plain, combine, sound

PHASES = ("encode", "transfer", "decode")


def numbers(row: Row, rank: int) -> Tensor:
    """What member `rank` brings, `(numel,)` float32."""
    return torch.randn(row.numel, generator=torch.Generator().manual_seed(rank))


class Rounds(ABC):
    """Times rounds; a subclass does one."""

    def __init__(self, row: Row, rank: int) -> None:
        self.row, self.rank = row, rank
        self._number = 0
        self.result: Tensor | None = None  # of the last round

    def prepare(self) -> float:
        """Two rounds that do not count, seconds of the second: the first makes buffers and connections."""
        self._next()
        began = time.perf_counter()
        self._next()
        return time.perf_counter() - began

    def run(self, rounds: int) -> dict[str, Any]:
        """Seconds by phase of each round, how many committed, and bytes that the library says it handed to the transport."""
        laps: dict[str, list[float]] = {phase: [] for phase in PHASES}
        committed, ledger = 0, self.ledger_nbytes()
        wire = self.wire_nbytes()
        for _ in range(rounds):
            lap = self._next()
            committed += lap is not None
            for phase, seconds in zip(PHASES, lap or (), strict=False):
                laps[phase].append(seconds)
        sent, received = (after - before for after, before in zip(self.wire_nbytes(), wire, strict=True))
        return {"laps": laps, "committed": committed, "ledger": self.ledger_nbytes() - ledger, "wire": [sent, received]}

    def check(self) -> dict[str, Any]:
        """A hash of the result, and on the first member whether it is the right one."""
        if self.result is None:
            return {"hash": None, "right": False}
        digest = xxhash.xxh3_64_hexdigest(bytes_of(self.result))
        return {"hash": digest, "right": self.right() if self.rank == 0 else None}

    def ledger_nbytes(self) -> int:
        """Handed to the transport so far, as the library counts; 0 where nobody counts."""
        return 0

    def wire_nbytes(self) -> tuple[int, int]:
        """Sent and received by a link that is only simulated."""
        return 0, 0

    def _next(self) -> tuple[float, float, float] | None:
        self._number += 1
        return self.round(self._number)

    @abstractmethod
    def round(self, number: int) -> tuple[float, float, float] | None:
        """Do one round, seconds by phase; None when it failed for everybody."""

    @abstractmethod
    def right(self) -> bool:
        """Whether `result` is what everybody's numbers make."""


class CodedRounds(Rounds):
    """Encode, exchange, decode the mean: what an optimizer does in a round, with the same calls."""

    def __init__(self, row: Row, rank: int, group: Group) -> None:
        super().__init__(row, rank)
        self._group, self._x = group, numbers(row, rank)
        self._plan_id = xxhash.xxh3_64_intdigest(repr(row).encode())

    def round(self, number: int) -> tuple[float, float, float] | None:
        fragment = self.row.fragment
        began = time.perf_counter()
        payload = encode(fragment, [self._x], decay=0.0).payload
        encoded = time.perf_counter()
        exchange = self._group.start(RoundKey(0, number, 0), payload, plan=self._plan_id, reduce=self.row.summed).wait()
        moved = time.perf_counter()
        if exchange is None or len(exchange.members) < self.row.members:
            self.result = None
            return None
        if exchange.reduced:
            summed = exchange.payloads[0].view(torch.float32)
            self.result = Plain(summed / torch.full_like(summed, self.row.members)).flat([self._x])
        else:
            payloads = list(exchange.payloads)
            assert all(sound(fragment.plan, one) for one in payloads)
            self.result = combine(fragment, payloads, mean).flat([self._x])
        return encoded - began, moved - encoded, time.perf_counter() - moved

    def right(self) -> bool:
        """Bit for bit what the codec's stages, one after the other, make of all members' numbers in member order."""
        fragment = self.row.fragment
        plan = fragment.plan
        everybody = (fragment.matrix(numbers(self.row, rank)) for rank in range(self.row.members))
        sent = [plan.values(plan.encode(plan.forward(x))) for x in everybody]
        return self.result is not None and torch.equal(self.result, fragment.flat(plan.inverse(mean(plan, sent))))

    def ledger_nbytes(self) -> int:
        return self._group.sent_nbytes

    def wire_nbytes(self) -> tuple[int, int]:
        return getattr(self._group, "wire_sent_nbytes", 0), getattr(self._group, "wire_received_nbytes", 0)


class GlooAllReduce(Rounds):
    """The peer of dense rows: torch's own sum of float32 over the default group."""

    def __init__(self, row: Row, rank: int) -> None:
        super().__init__(row, rank)
        self._x = numbers(row, rank)

    def round(self, number: int) -> tuple[float, float, float]:
        self.result = self._x.clone()
        began = time.perf_counter()
        dist.all_reduce(self.result)
        return 0.0, time.perf_counter() - began, 0.0

    def right(self) -> bool:
        """Close to the exact sum: gloo's order of additions is its own."""
        exact = torch.zeros(self.row.numel, dtype=torch.float64)
        for rank in range(self.row.members):
            exact += numbers(self.row, rank)
        return self.result is not None and torch.allclose(self.result.double(), exact, rtol=1e-5, atol=1e-5)


class GlooAllGather(Rounds):
    """The peer of sparse and quantised rows: torch's own all-gather of as many bytes."""

    def __init__(self, row: Row, rank: int) -> None:
        super().__init__(row, rank)
        self._payload = self._bytes_of(rank)
        self.result = torch.empty(row.members * row.payload_nbytes, dtype=torch.uint8)

    def round(self, number: int) -> tuple[float, float, float]:
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
        assert self.result is not None
        self.result.zero_()
        began = time.perf_counter()
        gather(self.result, self._payload)
        return 0.0, time.perf_counter() - began, 0.0

    def right(self) -> bool:
        expected = torch.cat([self._bytes_of(rank) for rank in range(self.row.members)])
        return self.result is not None and torch.equal(self.result, expected)

    def _bytes_of(self, rank: int) -> Tensor:
        generator = torch.Generator().manual_seed(rank)
        return torch.randint(256, (self.row.payload_nbytes,), generator=generator, dtype=torch.uint8)
