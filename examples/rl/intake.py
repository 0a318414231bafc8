"""The trainer's door for groups: what strangers send is bounded, opened, checked, scored again, and only then put where it is trained on.

    parcel -> bytes (inline, or fetched from who offers them) -> unseal -> checks -> buffer -> receipt

One thread does it, so that checks need no locks and the event loop is never held up; a queue that is full answers "busy". A peer gets
nothing but a receipt, which says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from examples.rl.checks import Checked, Checks
from examples.rl.messages import INLINE_NBYTES, MessageError, Parcel, Receipt
from examples.rl.reputation import Reputation
from examples.rl.rollout import LIMITS, Limits, RolloutError, unseal
from thinwire.comms.swarm.transport import Key, PeerError, Transport

log = logging.getLogger("thinwire")

MAX_WAITING = 64  # parcels
MAX_PEER_WAITING = 8
ANSWERS = 4096


class Store(Protocol):
    """Where good groups go."""

    def put(self, checked: Checked) -> str | None:
        """Why it is not wanted, or None."""
        ...

    def wants(self) -> bool:
        """Whether more groups of the newest version are of use."""
        ...


class Intake:
    """Answers `GROUP`; `head()` is the newest version that is published. `keep` are told of each sealed group that was accepted."""

    def __init__(
        self,
        transport: Transport,
        run: str,
        checks: Checks,
        store: Store,
        reputation: Reputation,
        head: Callable[[], int],
        *,
        limits: Limits = LIMITS,
        on_accepted: Callable[[bytes, bytes, Checked], None] = lambda data, digest, checked: None,
        on_timed: Callable[[Key, int, Parcel], None] = lambda worker, version, parcel: None,
    ) -> None:
        self._transport, self._run, self._checks, self._store, self._reputation = transport, run, checks, store, reputation
        self._head, self._limits, self._on_accepted, self._on_timed = head, limits, on_accepted, on_timed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="thinwire-rl-intake")
        self._waiting: Counter[Key] = Counter()
        self._answers: OrderedDict[bytes, str] = OrderedDict()
        self.refused: Counter[str] = Counter()

    async def answer(self, peer: Key, request: bytes) -> bytes:
        """The handler of the question `GROUP`."""
        try:
            reason = await self._take(peer, request)
        except (RolloutError, PeerError) as error:
            reason = error.reason
        if reason:
            self.refused[reason] += 1
        return Receipt(not reason, reason, self._head(), self._store.wants()).encode()

    def close(self) -> None:
        """Wait for the group that is being checked."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _take(self, peer: Key, request: bytes) -> str:
        if self._reputation.banned(peer):
            return "banned"
        if self._waiting[peer] >= MAX_PEER_WAITING or self._waiting.total() >= MAX_WAITING:
            return "busy"
        self._waiting[peer] += 1
        try:
            parcel = self._parcel(request)
            data = await self._bytes_of(peer, parcel)
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._judge, data, parcel)
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]

    def _parcel(self, request: bytes) -> Parcel:
        try:
            return Parcel.decode(request)
        except MessageError as error:
            raise RolloutError("schema", str(error)) from None

    async def _bytes_of(self, peer: Key, parcel: Parcel) -> bytes:
        if parcel.data:
            return parcel.data
        if not INLINE_NBYTES < parcel.nbytes <= self._limits.nbytes or len(parcel.digest) != 32:
            raise RolloutError("oversized", f"a parcel of {parcel.nbytes} bytes, at most {self._limits.nbytes}")
        return await self._transport.fetch(parcel.digest, parcel.nbytes, [peer])

    def _judge(self, data: bytes, parcel: Parcel) -> str:
        """In the intake's own thread. The same bytes again get the same answer: their first receipt may have been lost."""
        digest = hashlib.sha256(data).digest()
        if digest not in self._answers:
            try:
                answer = self._judge_once(data, digest, parcel)
            except RolloutError as error:
                answer = error.reason
            self._answers[digest] = answer
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)
        return self._answers[digest]

    def _judge_once(self, data: bytes, digest: bytes, parcel: Parcel) -> str:
        group = unseal(data, run=self._run, limits=self._limits)  # who sends garbage is known by its peer key only
        if self._reputation.banned(group.worker):
            return "banned"
        try:
            checked = self._checks.check(group, head=self._head())
        except RolloutError as error:
            self._reputation.refused(group.worker, error.reason)
            raise
        unwanted = self._store.put(checked)
        if unwanted:
            return unwanted
        self._on_accepted(data, digest, checked)
        self._on_timed(group.worker, group.version, parcel)
        self._reputation.accepted(group.worker)
        self._reputation.false_rewards(group.worker, checked.false_rewards)
        return ""
