"""Where a member answers the questions about its run: which version is the newest, what it is, who has its chunks."""

import time
from collections.abc import Awaitable, Callable

from thinwire.comms.publish.manifest import Signed
from thinwire.comms.publish.questions import (
    CHUNKS,
    HEAD,
    MANIFEST,
    Head,
    Holder,
    Holdings,
    Want,
    from_bits,
    pack,
    to_bits,
    unpack,
)
from thinwire.comms.publish.shelf import Shelf
from thinwire.comms.publish.tracker import Tracker
from thinwire.comms.swarm.transport import Key, PeerError, Transport

MAX_KNOWN = 1024  # askers whose addresses are remembered; the oldest go first


class Desk:
    """`grants`: this member hands out chunks, each to one asker, as a publisher does; others only say what they have."""

    def __init__(self, transport: Transport, run: str, shelf: Shelf, *, grants: bool) -> None:
        if not 1 <= len(run) <= 64:
            raise ValueError(f"a run's name has 1 to 64 characters, not {len(run)}")
        self._transport, self._run, self._shelf, self._grants = transport, run, shelf, grants
        self._trackers: dict[bytes, Tracker] = {}
        self._names: list[str] = []
        self.newest: Signed | None = None  # that is here whole
        self.known: dict[Key, tuple[str, ...]] = {}  # who has asked for the head, and where it is reached

    def open(self) -> None:
        """Answer from now on; raises `ValueError` when this transport already publishes or follows the run."""
        self.answer(HEAD, self._tell_head)
        self.answer(MANIFEST, self._tell_manifest)
        self.answer(CHUNKS, self._tell_chunks)

    def answer(self, question: str, handler: Callable[[Key, bytes], Awaitable[bytes]]) -> None:
        """Answer one more question about this run."""
        name = named(question, self._run)
        if name in self._transport.serve:
            raise ValueError(f"this transport already publishes or follows {self._run!r}: one of them on each transport")
        self._transport.serve[name] = handler
        self._names.append(name)

    def close(self) -> None:
        """Answer no more."""
        for name in self._names:
            self._transport.serve.pop(name, None)
        self._names.clear()

    async def _tell_head(self, peer: Key, request: bytes) -> bytes:
        head = unpack(request, Head)
        self.known.pop(peer, None)
        self.known[peer] = head.addresses
        while len(self.known) > MAX_KNOWN:
            del self.known[next(iter(self.known))]
        newest = self.newest
        return newest.data if newest is not None and newest.manifest.version > head.have else b""

    async def _tell_manifest(self, peer: Key, request: bytes) -> bytes:
        entry = self._shelf.get(request)
        if entry is None:
            raise PeerError("refused", "no such version is here any more")
        return entry.signed.data

    async def _tell_chunks(self, peer: Key, request: bytes) -> bytes:
        want = unpack(request, Want)
        entry = self._shelf.serve(want.digest)
        if entry is None:
            raise PeerError("refused", "no such version is here any more")
        count = len(entry.signed.manifest.chunks)
        tracker = self._tracker(want.digest, count)
        granted = tracker.hear(peer, from_bits(want.have, count), time.monotonic())
        holders = tuple(Holder(key, to_bits(bits, count), self.known.get(key, ())) for key, bits in tracker.holders(peer))
        return pack(Holdings(to_bits(entry.bits, count), to_bits(granted if self._grants else 0, count), holders))

    def _tracker(self, digest: bytes, count: int) -> Tracker:
        self._trackers = {each: tracker for each, tracker in self._trackers.items() if self._shelf.get(each) is not None}
        return self._trackers.setdefault(digest, Tracker(count))


def named(question: str, run: str) -> str:
    """The question about that run."""
    return f"{question}/{run}"
