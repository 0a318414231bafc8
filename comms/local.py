"""`LocalGroup`: members are threads of one process. For tests and notebooks, with the same laws as a real network."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from thinwire.comms.group import Group, Job
from thinwire.comms.rounds import Arrivals, Outcome, TransportError

_STRIDE_S = 0.5  # from one move of an exchange to the next, at most
_KEPT = 48  # decided moves that a latecomer can still read


@dataclass
class _Move:
    """One all-gather: frames until it is decided, then what everybody gets."""

    frames: dict[int, Tensor] = field(default_factory=dict)
    decided: Mapping[int, Tensor | str] | None = None
    read_by: set[int] = field(default_factory=set)


class _Hub:
    """What the members share: one condition, who is there, and the moves under way, by (exchange, phase)."""

    def __init__(self, n: int) -> None:
        self.condition = threading.Condition()
        self.present = set(range(n))
        self.asleep: set[int] = set()  # missed a deadline and not seen since: nobody waits for them
        self.moves: dict[tuple[int, int], _Move] = {}
        self.forgotten = (-1, 0)

    def all_gather(self, at: tuple[int, int], member: int, message: Tensor, deadline: float) -> Arrivals:
        """Wait for the frames of all that are present and awake, or the deadline; what is decided first holds for everybody."""
        with self.condition:
            if at <= self.forgotten:
                raise TransportError(f"fell {_KEPT} moves behind the group")
            self.asleep.discard(member)
            move = self.moves.setdefault(at, _Move())
            if move.decided is None:
                move.frames[member] = message
                self.condition.notify_all()
            while move.decided is None:
                if member not in self.present:
                    raise TransportError("this member has left the group")
                left = deadline - time.monotonic()
                if left <= 0 or not self.present - self.asleep - move.frames.keys():
                    self._decide(move)
                else:
                    self.condition.wait(left)
            move.read_by.add(member)
            if self.present <= move.read_by:
                self.moves.pop(at, None)
            return move.decided

    def _decide(self, move: _Move) -> None:
        self.asleep |= self.present - move.frames.keys()
        everybody = sorted(self.present | move.frames.keys())
        move.decided = {member: move.frames.get(member, "missed the deadline") for member in everybody}
        while len(self.moves) > _KEPT:
            self.forgotten = next(iter(self.moves))
            del self.moves[self.forgotten]
        self.condition.notify_all()

    def leave(self, member: int) -> None:
        """Nobody waits for this member any more."""
        with self.condition:
            self.present.discard(member)
            self.condition.notify_all()


@dataclass
class _LocalLink:
    """One attempt: all-gathers of one exchange, numbered."""

    group: "LocalGroup"
    seq: int
    deadline: float
    members: tuple[int, ...]
    sharded: bool = False
    phase: int = 0

    @property
    def rank(self) -> int:
        return self.group.rank

    def all_gather(self, message: Tensor) -> Arrivals:
        arrivals = self.move(self.group._post(message))
        self.group._count(message.numel(), len(arrivals) - 1)
        return arrivals

    def move(self, message: Tensor) -> Arrivals:
        """An all-gather that tests cannot spoil."""
        # Who was there for the first move is on its way to the next, also when the deadline has passed meanwhile.
        deadline = max(self.deadline, time.monotonic() + _STRIDE_S) if self.phase else self.deadline
        arrivals = self.group._hub.all_gather((self.seq, self.phase), self.rank, message, deadline)
        self.members = tuple(arrivals)
        self.phase += 1
        return arrivals

    def all_to_all(self, messages: Tensor) -> Arrivals:
        raise NotImplementedError("threads share memory: sums go by whole payloads")


class LocalGroup(Group):
    """A member of a group of threads; make all of them with `LocalGroup.world`.

    At the deadline a round goes on without those that are late: they are `skipped`, and get the same `Exchange` when they come.
    Until they come nobody waits for them again.

    >>> import torch
    >>> from thinwire.comms.wire import RoundKey
    >>> a, b = LocalGroup.world(2)
    >>> pending = [m.start(RoundKey(0, 0, 0), torch.tensor([m.rank], dtype=torch.uint8), plan=1) for m in (a, b)]
    >>> [p.wait().payloads.tolist() for p in pending]
    [[[0], [1]], [[0], [1]]]
    >>> a.leave(), b.leave()
    (None, None)
    """

    trust = "process"

    def __init__(self, hub: _Hub, rank: int, n: int, *, run: int, timeout_s: float | None) -> None:
        super().__init__(rank, tuple(range(n)), run=run, timeout_s=timeout_s)
        self._hub = hub

    @classmethod
    def world(cls, n: int, *, run: int = 0, timeout_s: float | None = None) -> "list[LocalGroup]":
        """`n` members that exchange with each other, each for one thread. Raises `ValueError` for n < 1."""
        if n < 1:
            raise ValueError(f"LocalGroup.world(n={n}): give at least one member")
        hub = _Hub(n)
        return [cls(hub, rank, n, run=run, timeout_s=timeout_s) for rank in range(n)]

    def _settle(self, job: Job, deadline: float) -> Outcome[Any]:
        link = self._link(job.seq, deadline)
        outcome = job.attempt(link)
        # Members that brought payloads of different sizes have judged the same frames differently.
        fingerprint = torch.tensor([outcome.fingerprint >> 1])
        told = [word for word in link.move(fingerprint).values() if isinstance(word, Tensor)]
        if any(not torch.equal(word, fingerprint) for word in told):
            outcome = Outcome(None, "members received different bytes")
        missing = outcome.missing if outcome.result is None else {}
        return replace(outcome, members=link.members, missing=missing)

    def _link(self, seq: int, deadline: float) -> _LocalLink:
        return _LocalLink(self, seq, deadline, self.members)

    def _close(self) -> None:
        self._hub.leave(self.rank)
