"""The states that this member can give to newcomers: cut into chunks in the background, and only while somebody wants one.

The optimizer offers a `Snapshot` after every round, which costs nothing. While a newcomer looks for a state, each one that is offered is
packed by a thread of its own; the last few are kept, so that members which are a round apart have one in common. A newcomer that has found
one leases it for as long as it takes to come over its link: without that a round would end before its state has arrived, and the next too.
With the lease the packing ends.

Where rounds follow each other faster than a state is packed, each member would pack what its thread comes to, and no two of them the same.
So every member packs multiples of a power of two: of two members the rounds of the slower one are among those of the faster one.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, log2

import msgspec

from thinwire.comms.door import Snapshot
from thinwire.comms.swarm.transfer import Manifest, pack

WANTED_S = 3.0  # a newcomer that looks for a state asks ten times a second
HAD_S = 0.5  # and when it has one; others ask for themselves, and it asks again if too few had that one
LEASE_S = 6.0  # without a word of the newcomer
KEPT = 4
KEPT_NBYTES = 256 << 20  # beyond it only the newest state is kept, and LEASED
LEASED = 2  # states that newcomers may hold at a time: later ones get the newest of these
SPARE = 1.5  # times as long as packing took the last time
MOST = 1024  # rounds


@dataclass(frozen=True)
class Offer:
    """A packed state: its manifest, the blob that holds it, this member's own numbers, and the digests of its chunks, each once."""

    manifest: Manifest
    meta: bytes
    digest: bytes
    nbytes: int
    chunks: tuple[bytes, ...]


class Offers:
    """Packs states and forgets them; `add` and `drop` keep and free a chunk (called from the packing thread and from `close`)."""

    def __init__(self, add: Callable[[bytes], bytes], drop: Callable[[bytes], None]) -> None:
        self._add, self._drop = add, drop
        self._latest: Snapshot | None = None
        self._came = time.monotonic()  # the latest
        self._interval_s, self._packing_s = float("inf"), 0.0
        self._wanted_until = 0.0
        self._leases: dict[int, float] = {}  # rounds, and until when
        self._lock = threading.Lock()  # of `_packed` and `_leases`
        self._packed: OrderedDict[int, Offer] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="thinwire-offer")
        self._busy: Future[None] | None = None

    def put(self, snapshot: Snapshot) -> None:
        """The state after a round has been applied; costs nothing unless a newcomer waits."""
        now = time.monotonic()
        if self._latest is None or self._latest.round != snapshot.round:
            self._interval_s, self._came = now - self._came, now
        self._latest = snapshot
        if time.monotonic() < self._wanted_until:
            self._pack_soon()

    def want(self) -> None:
        """A newcomer asks: pack the newest state, and those that follow for a while."""
        self._wanted_until = time.monotonic() + WANTED_S
        self._pack_soon()

    def newest(self) -> Offer | None:
        """The newest packed state; None while a newer one is due: who took one that was packed for somebody else, long ago, would have to
        follow all rounds since, whose payloads may be gone."""
        with self._lock:
            offer = next(reversed(self._packed.values()), None)
            room = self._room()
        if offer is None or self._latest is None:
            return offer
        stale = self._latest.round - offer.manifest.round > 2 * self.stride
        return None if stale and room else offer

    def lease(self, round: int) -> Offer | None:
        """The packed state before `round`, if it is still kept; it stays for another `LEASE_S`, unless too many are leased."""
        with self._lock:
            offer = self._packed.get(round)
            if offer is not None and (round in self._leases or self._room()):
                if round not in self._leases:
                    self._wanted_until = min(self._wanted_until, time.monotonic() + HAD_S)
                self._leases[round] = time.monotonic() + LEASE_S
            return offer

    def release(self, round: int) -> None:
        """Nobody can follow on that state any more: it is of no use."""
        with self._lock:
            self._leases.pop(round, None)

    @property
    def stride(self) -> int:
        """One in so many rounds is packed: as many as pass meanwhile, and a power of two."""
        interval_s = max(self._interval_s, time.monotonic() - self._came, 1e-4)  # one that is late is no longer fast
        rounds = SPARE * self._packing_s / interval_s
        return 1 << max(0, ceil(log2(max(rounds, 1.0)))) if rounds < MOST else MOST

    def close(self) -> None:
        """Wait for the packing thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leased(self) -> set[int]:
        now = time.monotonic()
        self._leases = {round: until for round, until in self._leases.items() if until > now and round in self._packed}
        return set(self._leases)

    def _room(self) -> bool:
        return len(self._leased()) < LEASED

    def _pack_soon(self) -> None:
        latest = self._latest
        if latest is None or latest.round % self.stride or latest.round in self._packed:
            return
        with self._lock:
            room = self._room()
        if room and (self._busy is None or self._busy.done()):
            self._busy = self._pool.submit(self._pack, latest)

    def _pack(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        copy = snapshot.copy()
        if copy is None:  # its round is over: the next one is offered soon
            return
        made: dict[bytes, None] = {}

        def keep(piece: bytes) -> bytes:
            digest = self._add(piece)
            made[digest] = None
            return digest

        manifest = pack(copy, keep)
        encoded = msgspec.msgpack.encode(manifest)
        offer = Offer(manifest, copy.meta, self._add(encoded), len(encoded), tuple(made))
        self._packing_s = time.monotonic() - began
        with self._lock:
            self._packed[snapshot.round] = offer
            self._forget()

    def _forget(self) -> None:
        """Oldest first, but for what is leased and the newest."""
        leased = self._leased()
        for round in [round for round in self._packed if round not in leased][:-1]:
            if len(self._packed) <= KEPT and sum(offer.manifest.nbytes for offer in self._packed.values()) <= KEPT_NBYTES:
                return
            old = self._packed.pop(round)
            still = {digest for offer in self._packed.values() for digest in (*offer.chunks, offer.digest)}
            for digest in (*old.chunks, old.digest):
                if digest not in still:
                    self._drop(digest)
