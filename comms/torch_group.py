"""`TorchGroup`: members are ranks of torch.distributed, over gloo (a private group, or the user's) or nccl (the user's).

An exchange goes: move the frames, then vote. If anything fails, the generation of members ends: all survivors hear it at once
through their bells, agree on who is alive, meet again in a new private gloo group, and try the exchange once more if there is
time. Decisions are in `arbiter`; two threads drive them: the courier runs exchanges, the sentinel listens for the bell also while
the courier is idle, so that a member that computes is told apart from one that is dead.
"""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup

from thinwire.comms import gloo, meeting
from thinwire.comms.arbiter import COMMIT, FAIL, RETRY, Arbiter, Bell, Census
from thinwire.comms.group import Group, Job
from thinwire.comms.meeting import Meeting, Moves, Private
from thinwire.comms.rounds import LATE, Arrivals, Exchange, Outcome, TransportError

GRACE_S = 2.0  # for a sign of life after the bell: milliseconds on a quiet machine, more when it is overloaded
RESERVE_S = 3.0  # of a deadline, kept to find out who is missing
DEADLINE = "not all members were there by the deadline"
HASTE_S = 2.0  # at least so long the first attempt waits for the others to confirm
FORM_S = 10.0
DIRECT_NBYTES = 256 << 10  # messages up to this go straight to everybody: gloo's ring has one delay of the link for each other member
_REFORMS = 3  # attempts at a group of the same survivors before this member gives up


@dataclass(eq=False)
class _Generation:
    """One list of members; `first` is its first exchange, `reason` why the one before it did not commit."""

    arbiter: Arbiter  # the courier's connection
    ear: Arbiter  # the sentinel's
    first: int
    moves: Moves | None
    gone: dict[int, str] = field(default_factory=dict)
    reason: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event | None = None  # what the courier waits for in a collective
    next_first: int = 0
    census: Census | None = None

    def end(self, bell: Bell) -> None:
        """No collective of this generation can succeed any more."""
        if not self.over.is_set():
            self.next_first = bell.seq + (not bell.ruling.startswith(RETRY))
            self.reason = bell.ruling[1:]
            self.over.set()
        if self.wake is not None:
            self.wake.set()


@dataclass(eq=False)
class _TorchLink:
    """One attempt at an exchange in one generation."""

    group: "TorchGroup"
    generation: _Generation
    deadline: float
    sharded: bool = True

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def members(self) -> tuple[int, ...]:
        return self.generation.arbiter.members

    def all_gather(self, message: Tensor) -> Arrivals:
        message = self.group._post(message)
        n = len(self.members)
        if n > 2 and message.numel() <= DIRECT_NBYTES:
            return self._move("all_to_all", message.repeat(n), message.numel())
        return self._move("all_gather", message, message.numel())

    def all_to_all(self, messages: Tensor) -> Arrivals:
        messages = torch.stack([self.group._post(message) for message in messages])
        return self._move("all_to_all", messages.view(-1), messages.shape[1])

    def _move(self, kind: str, flat: Tensor, nbytes: int) -> Arrivals:
        moves, n = self.generation.moves, len(self.members)
        if moves is None or self.generation.over.is_set():
            raise TransportError(self.generation.reason or "the group is forming anew")
        self.group._count(nbytes, n - 1)
        out = torch.empty(n * nbytes, dtype=torch.uint8, device=moves.device)
        try:
            patience_s = max(self.deadline - time.monotonic(), 0.01)
            work = getattr(moves, kind)(out, flat.to(moves.device), patience_s + 0.001)  # gloo counts whole ms
            self._finish(work, moves.polled)
        except TransportError:
            raise
        except RuntimeError as error:
            if time.monotonic() >= self.deadline:  # gloo's own clock rang before ours
                raise TransportError(DEADLINE, late=True) from None
            raise TransportError(f"a connection broke: {gloo.first_line(error)}") from None
        return dict(zip(self.members, out.cpu().view(n, nbytes), strict=True))

    def _finish(self, work: Any, polled: bool) -> None:
        """Wait for the data, the bell, or the deadline; raises `TransportError` for the last two."""
        wake = self.generation.wake = threading.Event()
        if not polled:
            work.get_future().add_done_callback(lambda _: wake.set())
        beat = time.monotonic() + 1.0
        while not self.generation.over.is_set():
            now = time.monotonic()
            if wake.is_set() or (polled and work.is_completed()):
                break
            if now >= self.deadline:
                raise TransportError(DEADLINE, late=True)
            if now >= beat:  # a member that left a group which is not ours to close breaks no connection
                beat = now + 1.0
                if self.generation.arbiter.somebody_left():
                    raise TransportError("a member has left")
            wake.wait(min(0.001 if polled else 1.0, self.deadline - now))
        if self.generation.over.is_set():
            raise TransportError(self.generation.reason)
        work.wait()


class TorchGroup(Group):
    """A member of a torch.distributed world. Nothing here ever creates or becomes torch's default process group.

    - `TorchGroup.from_env()`: the torchrun environment, a private gloo group of all ranks (blocks until all are there).
    - `TorchGroup(process_group)`: an existing gloo or nccl group; its collectives and store carry ours, so give one that nothing
      else uses: DDP or FSDP on the same group would meet our collectives out of order. The default group (`dist.group.WORLD`)
      serves too, but only given explicitly.
    - `TorchGroup.from_mesh(mesh, "region")`: one dimension of a `DeviceMesh`.

    Member ids are ranks within the group, and stay the same when others are lost. After a loss the survivors go on in a private
    gloo group; a given group is left as it is. Who loses the store, or is counted as dead, takes no part any more, and `error`
    says so. Plaintext and without authentication, as torch.distributed is: for networks you trust.
    """

    def __init__(self, process_group: "ProcessGroup | Meeting", *, timeout_s: float | None = None) -> None:
        met = process_group if isinstance(process_group, Meeting) else meeting.from_process_group(process_group)
        super().__init__(met.rank, tuple(range(met.size)), run=met.run, timeout_s=timeout_s)
        self.global_ranks = met.global_ranks
        self._meeting = replace(met, moves=None)  # a second reference would keep a broken gloo group alive
        self._turn = threading.Condition()
        self._doomed: dict[int, Bell] = {}  # generations that this member's courier ended before they began
        self._reforms = 0
        self._sentinel: threading.Thread | None = None
        if met.moves is None:
            self.error = "alone: this world has one member"
            return
        self._mouth, self._ear = met.connections
        self._generation = self._new_generation(0, self._members, 0, met.moves)
        self._sentinel = threading.Thread(target=self._watch, name=f"thinwire-sentinel-{self.rank}", daemon=True)
        self._sentinel.start()

    @classmethod
    def from_env(cls, *, timeout_s: float | None = None, join_timeout_s: float = 300.0) -> "TorchGroup":
        """All ranks of the torchrun environment, in a private gloo group. Every rank makes its groups in the same order.

        Raises `ValueError` for an incomplete environment and `ConnectionError` when the ranks cannot reach each other.
        """
        return cls(meeting.from_environment(join_timeout_s), timeout_s=timeout_s)

    @classmethod
    def from_mesh(cls, mesh: Any, dim: str | None = None, *, timeout_s: float | None = None) -> "TorchGroup":
        """The group of one dimension of a `DeviceMesh`, by name; a one-dimensional mesh needs none."""
        if dim is None and mesh.ndim != 1:
            raise ValueError(f"the mesh has dimensions {mesh.mesh_dim_names}; name the one that crosses the thin wire")
        return cls(mesh.get_group(dim), timeout_s=timeout_s)

    # -- exchanges: the courier ------------------------------------------------------------------------------------------------

    def _settle(self, job: Job, deadline: float) -> Outcome[Any]:
        began = time.monotonic()
        patience = deadline - began
        missing: dict[int, str] = {}
        first = True
        try:
            while True:
                now = self._ready(job.seq, deadline)
                members = now.arbiter.members
                missing |= now.gone
                if self.error is not None:
                    return Outcome(None, self.error, missing=missing)
                if now.over.is_set() or job.seq < now.first:
                    missing |= {self.rank: LATE} if job.seq < now.first else {}
                    return Outcome(None, now.reason or "the others gave up on this exchange", missing=missing, members=members)
                if len(members) == 1:
                    self._fail(f"alone: {missing or 'nobody else is left'}")
                    return Outcome(None, self.error, missing=missing, members=members)
                until = deadline - min(RESERVE_S, patience / 2)
                outcome, ruling = self._attempt(job, now, until, retry_until=began + patience / 2, hasty=first)
                first = False
                if ruling == COMMIT and outcome is not None:
                    self._reforms = 0
                    return _with_gone(replace(outcome, members=members, missing=outcome.missing | missing), now, job.seq)
                now.arbiter.ring(job.seq, ruling)  # everybody that learns of it says so: the bell must not die with one member
                now.end(Bell(job.seq, ruling))
                if not ruling.startswith(RETRY):
                    census = self._await_census(now, deadline)
                    missing |= census.gone | census.late
                    return Outcome(None, ruling[1:], missing=missing, members=census.members or members)
        except TransportError:
            raise
        except dist.DistError as error:  # the store: without it nobody can know what the others decided
            raise TransportError(self.error or f"the store is gone: {gloo.first_line(error)}") from None

    def _attempt(self, job: Job, now: _Generation, until: float, *, retry_until: float, hasty: bool) -> tuple[Outcome[Any] | None, str]:
        began = time.monotonic()
        try:
            outcome = job.attempt(_TorchLink(self, now, until))
        except TransportError as error:
            again = not error.late and time.monotonic() < retry_until
            return None, now.arbiter.rule(job.seq, (RETRY if again else FAIL) + str(error))
        # Who dies between data and vote breaks no connection that anybody looks at. The others should have the data about when we
        # have it; trying again costs one exchange, waiting for the deadline more. The second attempt is patient: links differ.
        arrived = time.monotonic()
        soon = arrived + max(HASTE_S, arrived - began)
        if hasty and soon < retry_until:
            return outcome, now.arbiter.vote(job.seq, outcome.fingerprint, soon, RETRY)
        return outcome, now.arbiter.vote(job.seq, outcome.fingerprint, until)

    def _ready(self, seq: int, deadline: float) -> _Generation:
        """The generation for exchange `seq`; still over when `seq` failed with it, or when forming anew takes too long."""
        with self._turn:
            self._turn.wait_for(
                lambda: self.error or not self._generation.over.is_set() or seq < self._generation.next_first,
                max(deadline - time.monotonic(), 0),
            )
            now = self._generation
        if self.error is None and now.over.is_set() and seq >= now.next_first:
            self._doom(now.arbiter, seq)
        return now

    def _doom(self, arbiter: Arbiter, seq: int) -> None:
        """Others may already try `seq` in the next generation: it fails there, for them too, before we say so here."""
        ruling = RETRY
        while ruling.startswith(RETRY):
            arbiter = replace(arbiter, generation=arbiter.generation + 1)
            ruling = arbiter.rule(seq, FAIL + "forming anew took longer than the deadline")
            arbiter.ring(seq, ruling)
            self._doomed[arbiter.generation] = Bell(seq, ruling)

    def _await_census(self, now: _Generation, deadline: float) -> Census:
        with self._turn:
            self._turn.wait_for(lambda: now.census or self.error, max(deadline - time.monotonic(), 0))
        return now.census or Census(())

    def _tidy(self, job: Job) -> None:
        now = self._generation
        if job.seq - 2 >= now.first and not now.over.is_set() and self.rank == now.arbiter.members[0]:
            now.arbiter.tidy(job.seq - 2)

    # -- generations: the sentinel ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            while not self._left:
                bell = self._generation.ear.listen()
                if bell.seq < 0 or self._left:
                    return
                self._reform(self._generation, bell)
                if self.error is not None:
                    return
        except dist.DistError as error:
            if not self._left:
                self._lose(f"the store is gone: {gloo.first_line(error)}")

    def _reform(self, old: _Generation, bell: Bell) -> None:
        """Meet the survivors of `old` in a new generation."""
        old.end(bell)
        box = [old.moves]
        old.moves = None
        gloo.park(box.clear)
        patience = self._patience.seconds()
        census = old.ear.census(bell, self._started, min(GRACE_S, patience / 4))
        with self._turn:
            old.census = census
            self._turn.notify_all()
        if self.rank not in census.members:
            self._lose(f"the group went on without this member, which it counts as lost: {census.gone.get(self.rank)}")
            return
        number = old.arbiter.generation + 1
        new = self._new_generation(number, census.members, old.next_first, None)
        new.gone, new.reason = census.gone, old.reason
        broke = bell.ruling.startswith(RETRY) and old.arbiter.members == census.members
        self._reforms = self._reforms + 1 if broke else 0
        if self._reforms > 2 * _REFORMS:
            self._lose(f"the members cannot keep a connection: {old.reason}")
            return
        try:
            if number in self._doomed:
                new.end(self._doomed[number])
            elif len(census.members) > 1:
                place = PrefixStore(f"{number}/pg", self._ear)
                where = census.members.index(self.rank)
                within = min(FORM_S, patience / 4)
                new.moves = Private(gloo.form(place, where, len(census.members), within, self._meeting.devices()))
        except (TransportError, ConnectionError) as error:
            ruling = new.ear.rule(new.first, RETRY + str(error))
            new.ear.ring(new.first, ruling)
            new.end(Bell(new.first, ruling))
        with self._turn:
            self._generation = new
            self._turn.notify_all()

    def _new_generation(self, number: int, members: tuple[int, ...], first: int, moves: Moves | None) -> _Generation:
        arbiter = Arbiter(self._mouth, number, self.rank, members)
        return _Generation(arbiter, replace(arbiter, store=self._ear), first, moves)

    def _lose(self, why: str) -> None:
        self._fail(f"alone: {why}")
        with self._turn:
            self._turn.notify_all()
        self._generation.end(Bell(self._generation.first, FAIL + why))

    def _close(self) -> None:
        if self._sentinel is None:
            return
        now = self._generation
        now.end(Bell(now.first, FAIL + "this member has left the group"))
        with self._turn:
            self._turn.notify_all()
        goodbye = threading.Thread(target=self._say_goodbye, args=(now,), name="thinwire-goodbye", daemon=True)
        goodbye.start()  # the store may not answer any more
        goodbye.join(6.0 if self._meeting.hosts_store else 2.0)
        self._sentinel.join(1.0)
        box = [now.moves]
        now.moves = None
        parked = gloo.park(box.clear)
        parked.join(1.0)

    def _say_goodbye(self, now: _Generation) -> None:
        try:
            arbiter = replace(now.arbiter, store=self._meeting.store)
            arbiter.part()
            if self._meeting.hosts_store:
                arbiter.linger(5.0)
        except RuntimeError:  # the store went first: there is nobody to tell
            pass


def _with_gone(outcome: Outcome[Any], now: _Generation, seq: int) -> Outcome[Any]:
    """Members lost on the way to this exchange count as skipped in it."""
    if seq != now.first or not now.gone or not isinstance(outcome.result, Exchange):
        return outcome
    return replace(outcome, result=replace(outcome.result, skipped=outcome.result.skipped | now.gone))
