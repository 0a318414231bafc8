"""The `Group`: who takes part in an exchange and how bytes move, the same for threads, gloo/nccl and what comes later.

    pending = group.start(RoundKey(0, round, 0), payload, plan=plan_id)     never blocks
    exchange = pending.wait()                                               Exchange, or None: nobody may apply anything

One background thread a group (the courier) runs its rounds one after the other, in the order they were started: collectives then
meet in the same order on all members, and a transport that hangs hangs the courier, never the training loop. Members must start
the same exchanges in the same order; an exchange of the group fails or succeeds for all of them.
"""

import atexit
import logging
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as _replace
from functools import partial
from math import inf
from typing import Any, Generic, NoReturn

import torch
from torch import Tensor

from thinwire.comms.door import Door, Snapshot
from thinwire.comms.rounds import (
    MAX_BLOB_NBYTES,
    Ask,
    Link,
    Outcome,
    T,
    gather,
    gather_blobs,
)
from thinwire.comms.rounds import Exchange as Exchange
from thinwire.comms.rounds import Note as Note
from thinwire.comms.rounds import TransportError as TransportError
from thinwire.comms.wire import RoundKey

log = logging.getLogger("thinwire")

FIRST_S = 120.0  # patience before anything is known about the others: compilation, data loading, slow machines
LEAST_S = 5.0
SLACK_S = 15.0  # after its deadline before the courier counts as stuck, for good: a store may be busy for 10 s with a name server
JOIN_S = 1.0


@dataclass(frozen=True)
class Description:
    """Who takes part: `members` (ascending ids), this member, how far they trust each other, and who is missing and why."""

    members: tuple[int, ...]
    self: int
    trust: str
    missing: dict[int, str]


class Waiting(Generic[T]):
    """Something under way in the group; `error` and `missing` say afterwards why it failed and who was not there.

    `sent_nbytes` and `received_nbytes` are what it handed to the transport and got from it, with headers and failed attempts.
    """

    def __init__(self, group: "Group") -> None:
        self.error: str | None = None
        self.missing: dict[int, str] = {}
        self.sent_nbytes = self.received_nbytes = 0
        self._group = group
        self._result: T | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._over.is_set()

    def ready(self, timeout_s: float) -> bool:
        """Whether it is decided, at the latest after `timeout_s`; what is not may still be, and is not given up."""
        return self._over.wait(timeout_s)

    def wait(self) -> T | None:
        """Block until the group has decided, to its deadline (15 s more if the transport hangs); None: it failed for everybody."""
        while not self._over.wait(self._group._until_stuck()):
            if self._group._until_stuck() <= 0:
                self._group._fail("the transport did not come back by its deadline; this member may have missed a round")
                self._resolve(Outcome(None, self._group.error))
        return self._result

    def _resolve(self, outcome: Outcome[T]) -> bool:
        with self._lock:  # the first word counts: a courier that comes back late must not change what the caller was told
            if self._over.is_set():
                return False
            self._result, self.error, self.missing = outcome.result, outcome.error, dict(outcome.missing)
            self._over.set()
            return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'under way' if not self.done() else self.error or 'done'}>"


class Pending(Waiting[Exchange]):
    """An exchange of payloads under way.

    `delivered`: there is no exchange for this member, which has to `rejoin`, but the others have counted its payload.
    """

    delivered = False


@dataclass(frozen=True, eq=False)
class Job:
    """A started exchange on its way to the courier; `seq` counts what this member started, and is the same on all members."""

    seq: int
    attempt: Callable[[Link], Outcome[Any]]
    pending: Waiting[Any]
    use: tuple[int, bool] | None  # of payloads: size and whether they are summed


class Patience:
    """How long a round may take: what the user says, or 8 times the slowest of the last rounds, and never under 5 s."""

    def __init__(self, timeout_s: float | None) -> None:
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s}; give seconds above 0, or None to learn the deadline from the rounds")
        self._given = timeout_s
        self._recent: deque[float] = deque(maxlen=16)
        self._rounds = 0

    def seconds(self) -> float:
        """For the next round."""
        if self._given is not None:
            return self._given
        if self._rounds < 3:  # the first rounds hold warm-up on some members only
            return FIRST_S
        return max(LEAST_S, 8 * max(self._recent))

    def learn(self, seconds: float) -> None:
        """A round took this long."""
        self._rounds += 1
        self._recent.append(seconds)

    def fail(self) -> None:
        """A round ran into its deadline: the next one may take twice as long."""
        if self._rounds >= 3:
            self._recent.append(min(self.seconds(), FIRST_S) / 4)


_live: "weakref.WeakSet[Group]" = weakref.WeakSet()


@atexit.register
def _leave_all() -> None:
    # A thread that comes back from C++ while the interpreter is being torn down would abort the process.
    for group in list(_live):
        group.leave()


class Group(ABC):
    """Members that exchange payloads. A subclass moves equal-size frames (`Link`) and settles each job for all members alike.

    `leave()` a group when done: its threads keep it alive.

    - `rank`: this member's id; `members`: ids of all that take part, ascending, as of the last finished exchange.
    - `error`: why this member takes no part any more, or None. Every later `start` then fails at once.
    - `timeout_s`: deadline of one exchange, or None to learn it.
    - `sent_nbytes`, `received_nbytes`: all that was handed to the transport and came from it so far.

    Where members come and go (`elastic`), a member enters by a door, may find rounds that are decided already, and a decision may
    come long after its round began. Elsewhere all members begin together, and these say so:

    - `patience_s`: how long a step should wait for a round before it goes on training and lets the round land later.
    - `astray`: why this member must `rejoin` before its next round (the group went on without it), or None.
    """

    trust = "lan"
    elastic = False
    astray: str | None = None

    def __init__(self, rank: int, members: tuple[int, ...], *, run: int = 0, timeout_s: float | None = None) -> None:
        self.rank = rank
        self.error: str | None = None
        self._members = members
        self._run = run
        self._missing: dict[int, str] = {}
        self._patience = Patience(timeout_s)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.sent_nbytes = self.received_nbytes = 0
        self._started = 0
        self._agreed: set[tuple[int, bool]] = set()  # uses that all members are known to share
        self._limit: float | None = None  # when the exchange under way must be over (monotonic), None between exchanges
        self._courier: threading.Thread | None = None
        self._lock = threading.RLock()
        self._left = False
        _live.add(self)

    @property
    def members(self) -> tuple[int, ...]:
        """Ids of all members, ascending."""
        return self._members

    def start(self, key: RoundKey, payload: Tensor, *, plan: int, note: Note = Note(), reduce: bool = False) -> Pending:
        """Begin to exchange `payload` (1-D uint8, same size everywhere; copied). Never blocks, never raises for the network.

        With `reduce` the payload is little-endian fp32 and the result is the sum of the payloads that count, in member order, bit
        for bit `((p0 + p1) + p2) ...`. Raises `ValueError` for a payload of another kind.

        >>> from thinwire import LocalGroup
        >>> alone, = LocalGroup.world(1)
        >>> alone.start(RoundKey(0, 0, 0), torch.zeros(4, dtype=torch.uint8), plan=7).wait().members
        (0,)
        >>> alone.leave()
        """
        if payload.dtype != torch.uint8 or payload.dim() != 1:
            raise ValueError(f"payload is {tuple(payload.shape)} {payload.dtype}; give a 1-D uint8 tensor")
        if reduce and payload.numel() % 4:
            raise ValueError(f"payload to sum has {payload.numel()} bytes; give whole float32 numbers")
        ask = Ask(self._run, plan, key, note, payload.detach().cpu().clone())
        ask.framed(self.rank, ask.payload[:0])  # numbers that do not fit their fields are the caller's error, not the courier's
        pending = Pending(self)
        use = (payload.numel(), reduce)

        def attempt(link: Link) -> Outcome[Exchange]:
            # Where payloads are dense, or nobody can have one that counts, a header costs less than what it may save.
            # An elastic group decides about whole payloads, whose size its plan says.
            return gather(ask, link, reduce=reduce, heads_first=not self.elastic and (reduce or use not in self._agreed))

        self._submit(lambda seq: attempt, pending, use=use)
        return pending

    def gather_bytes(self, blob: bytes) -> list[bytes] | None:
        """Every member's `blob` in member order, sizes may differ; None when it failed for everybody. Blocks to the deadline.

        For small control data. Raises `ValueError` above 64 MiB; a peer that claims more fails the exchange before anything is
        allocated.
        """
        if len(blob) > MAX_BLOB_NBYTES:
            raise ValueError(f"control data of {len(blob)} bytes, at most {MAX_BLOB_NBYTES}; send tensors as payloads")
        waiting: Waiting[list[bytes]] = Waiting(self)
        self._submit(lambda seq: partial(gather_blobs, blob, run=self._run, seq=seq), waiting)
        return waiting.wait()

    def describe(self) -> Description:
        """Who takes part and who is missing."""
        return Description(self._members, self.rank, self.trust, dict(self._missing))

    @property
    def patience_s(self) -> float:
        """How long a step should wait for a round under way; the decision may come later."""
        return inf

    def enter(self, door: Door) -> None:
        """Found the run or join it; blocks. Raises `RefusedError`, naming the first difference, when the members refuse this one."""
        raise TypeError(f"{type(self).__name__} has the members it began with: there is no door")

    def rejoin(self, door: Door) -> None:
        """Take the state of the others once more, as a newcomer would; blocks. For a member that is `astray` or differs from them."""
        raise TypeError(f"{type(self).__name__} has the members it began with: there is no door")

    def is_ahead(self, round: int) -> bool:
        """Whether `round` is decided already: `start` then gives its exchange, whatever this member brings."""
        return False

    def offer(self, snapshot: Snapshot) -> None:  # noqa: B027  (nobody joins a group that began with all its members)
        """The state from now on, by reference: it is copied only while somebody joins."""

    def leave(self) -> None:
        """Take no part any more: the others stop waiting for this member. Joins all threads; a second call does nothing."""
        with self._lock:
            if self._left:
                return
            self._left = True
            self.error = self.error or "this member has left the group"
            self._jobs.put(None)
        self._close()
        if self._courier is not None:
            self._courier.join(JOIN_S)

    def __repr__(self) -> str:
        state = f", {self.error}" if self.error else ""
        return f"<{type(self).__name__} member {self.rank} of {list(self._members)}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds live connections and cannot be copied or pickled; drop it first")

    # -- what a subclass defines -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _settle(self, job: Job, deadline: float) -> Outcome[Any]:
        """Run the attempt of `job` until the group has decided, by `deadline` (monotonic); same outcome on all members."""

    @abstractmethod
    def _close(self) -> None:
        """Tell the others, wake the courier, free everything; called once."""

    def _tidy(self, job: Job) -> None:  # noqa: B027  (nothing to do is the usual case)
        """Clean up after a settled job, when nobody waits any more."""

    def _count(self, nbytes: int, others: int) -> None:
        """A move sends `nbytes` to each of so many others and gets the same from each."""
        self.sent_nbytes += nbytes * others
        self.received_nbytes += nbytes * others

    def _post(self, message: Tensor) -> Tensor:
        """Every outgoing frame passes here: where tests and attack tools spoil them."""
        return message

    # -- the courier -----------------------------------------------------------------------------------------------------------

    def _submit(
        self, attempt: Callable[[int], Callable[[Link], Outcome[T]]], pending: Waiting[T], *, use: tuple[int, bool] | None = None
    ) -> None:
        with self._lock:
            if self.error is not None:
                pending._resolve(Outcome(None, self.error, missing=self._missing))
                return
            if self._courier is None:
                self._courier = threading.Thread(target=self._run_jobs, name=f"thinwire-courier-{self.rank}", daemon=True)
                self._courier.start()
            seq = self._started
            self._started += 1
            self._jobs.put(Job(seq, attempt(seq), pending, use))

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            sent, received = self.sent_nbytes, self.received_nbytes
            outcome = self._run_job(job)
            job.pending.sent_nbytes, job.pending.received_nbytes = self.sent_nbytes - sent, self.received_nbytes - received
            job.pending._resolve(outcome)
            self._limit = None
            try:
                self._tidy(job)
            except RuntimeError as error:  # nobody waits for this: the next exchange will meet the same trouble and report it
                log.debug("tidying after exchange %d: %s", job.seq, error)
        while True:  # left: whoever still waits is told so
            try:
                last = self._jobs.get_nowait()
            except queue.Empty:
                return
            if last is not None:
                last.pending._resolve(Outcome(None, self.error))

    def _run_job(self, job: Job) -> Outcome[Any]:
        if self.error is not None:
            return Outcome(None, self.error, missing=self._missing)
        began = time.monotonic()
        deadline = began + self._patience.seconds()
        self._limit = deadline + SLACK_S
        try:
            outcome = self._settle(job, deadline)
        except TransportError as error:
            self._fail(str(error))
            outcome = Outcome(None, str(error), missing=self._missing)
        except Exception as error:  # a bug of ours must not leave the caller waiting, nor be applied by anybody
            log.exception("exchange %d failed in a way it must not", job.seq)
            self._fail(f"internal error: {error!r}")
            outcome = Outcome(None, self.error)
        if outcome.members is not None:
            self._members = outcome.members
        self._missing |= outcome.missing
        if outcome.result is not None:
            self._missing = {member: why for member, why in self._missing.items() if member not in self._members}
        if isinstance(outcome.result, Exchange):
            outcome = _replace(outcome, result=_replace(outcome.result, seconds=time.monotonic() - began))
            if job.use is not None:
                self._agreed.add(job.use)
                self._patience.learn(time.monotonic() - began)
        elif outcome.result is None:
            self._patience.fail()
        return outcome

    def _fail(self, why: str) -> None:
        """Take no part from now on: this member can no longer know what the group decides."""
        with self._lock:
            if self.error is None:
                self.error = why
                log.warning("member %d: %s", self.rank, why)

    def _until_stuck(self) -> float:
        """Seconds until the exchange under way counts as stuck; polls slowly between exchanges."""
        limit = self._limit
        return 0.5 if limit is None else limit - time.monotonic()
