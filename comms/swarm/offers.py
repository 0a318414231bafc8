"""The states that this member can give to newcomers: cut into chunks in the background, and only while somebody wants one.

The optimizer offers a `Snapshot` after every round, which costs nothing. While a newcomer has asked within the last half minute, each
offered state is packed by a thread of its own; the last few are kept, so that members which are a round apart have one in common.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from thinwire.comms.door import Snapshot
from thinwire.comms.swarm.transfer import Manifest, pack

WANTED_S = 30.0
KEPT = 4
KEPT_NBYTES = 256 << 20  # beyond it only the newest state is kept


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
        self._wanted_until = 0.0
        self._packed: OrderedDict[int, Offer] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="thinwire-offer")
        self._busy: Future[None] | None = None

    def put(self, snapshot: Snapshot) -> None:
        """The state after a round has been applied; costs nothing unless a newcomer waits."""
        self._latest = snapshot
        if time.monotonic() < self._wanted_until:
            self._pack_soon()

    def want(self) -> None:
        """A newcomer asks: pack the newest state, and those that follow for a while."""
        self._wanted_until = time.monotonic() + WANTED_S
        self._pack_soon()

    def newest(self) -> Offer | None:
        """The newest packed state."""
        return next(reversed(self._packed.values()), None)

    def at(self, round: int) -> Offer | None:
        """The packed state before `round`, if it is still kept."""
        return self._packed.get(round)

    def close(self) -> None:
        """Wait for the packing thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _pack_soon(self) -> None:
        latest = self._latest
        if latest is None or latest.round in self._packed or (self._busy is not None and not self._busy.done()):
            return
        self._busy = self._pool.submit(self._pack, latest)

    def _pack(self, snapshot: Snapshot) -> None:
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
        self._packed[snapshot.round] = Offer(manifest, copy.meta, self._add(encoded), len(encoded), tuple(made))
        self._forget()

    def _forget(self) -> None:
        while len(self._packed) > 1 and (
            len(self._packed) > KEPT or sum(offer.manifest.nbytes for offer in self._packed.values()) > KEPT_NBYTES
        ):
            _, old = self._packed.popitem(last=False)
            still = {digest for offer in self._packed.values() for digest in (*offer.chunks, offer.digest)}
            for digest in (*old.chunks, old.digest):
                if digest not in still:
                    self._drop(digest)
