"""The control streams to and from all peers: who is up, who is dialled again, and that one key is one process.

A stream that stands carries messages both ways, so a peer is up as soon as either side has made one. Two incarnations of one key are
never up at once: a newcomer takes over when the older does not answer any more, else it is refused.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from thinwire.comms.swarm.chunks import Streams
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.link import Link, shake_hands
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, MAX_QUEUED_MESSAGES, Key, PeerError

MAX_LINKS = 1536  # that others made; the plan allows 1024 observers
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_PROOF_S = 2.0  # to answer a ping, when another claims the same key


@dataclass
class _Wish:
    """A peer to keep a stream to."""

    addresses: tuple[str, ...]
    early: "deque[bytes]" = field(default_factory=lambda: deque(maxlen=MAX_QUEUED_MESSAGES))
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # it is to be dialled elsewhere, and now
    task: "asyncio.Task[None] | None" = None


class Peers:
    """All control streams of a node. `dial(peer, addresses)` makes a stream or raises `PeerError`."""

    def __init__(self, me: Key, nonce: bytes, dial: Callable[[Key, tuple[str, ...]], Awaitable[Streams]], refused: Counter[str]) -> None:
        self._me, self._nonce, self._dial, self._refused = me, nonce, dial, refused
        self._wishes: dict[Key, _Wish] = {}
        self._links: dict[Key, list[Link]] = {}  # of peers that are up; the newest is used
        self._inbound = 0
        self.on_message: Callable[[Key, bytes], None] = lambda peer, message: None
        self.on_turn: Callable[[Key, bool], None] = lambda peer, up: None

    def is_up(self, peer: Key) -> bool:
        return peer in self._links

    def process(self, peer: Key) -> bytes | None:
        """The nonce of the process to which there is a stream."""
        links = self._links.get(peer)
        return links[-1].nonce if links else None

    def up(self) -> list[Key]:
        return list(self._links)

    def connect(self, peer: Key, addresses: tuple[str, ...]) -> None:
        """Dial until a stream stands, and again when it has ended; other addresses than before without a pause."""
        wish = self._wishes.get(peer)
        if wish is not None:
            if addresses and addresses != wish.addresses:
                wish.addresses = addresses
                wish.moved.set()
            return
        wish = self._wishes[peer] = _Wish(addresses)
        wish.task = asyncio.ensure_future(self._keep(peer, wish))

    def disconnect(self, peer: Key) -> None:
        wish = self._wishes.pop(peer, None)
        if wish is not None and wish.task is not None:
            wish.task.cancel()
        for link in self._links.get(peer, []):
            link.close()

    def send(self, peer: Key, message: bytes) -> bool:
        """Whether the message is on its way, now or when the first stream stands."""
        if len(message) > MAX_MESSAGE_NBYTES:
            raise ValueError(f"a message of {len(message)} bytes is above {MAX_MESSAGE_NBYTES}")
        links = self._links.get(peer)
        if links:
            links[-1].send(message)
            return True
        wish = self._wishes.get(peer)
        if wish is None:
            self._refused["not up"] += 1
            return False
        self._refused["queue full"] += len(wish.early) == MAX_QUEUED_MESSAGES
        wish.early.append(message)
        return True

    async def welcome(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a stream that a peer has made, until it ends."""
        if self._inbound >= MAX_LINKS:
            raise PeerError("too many streams")
        self._inbound += 1
        try:
            await self._serve(peer, reader, writer, theirs=True)
        finally:
            self._inbound -= 1

    async def close(self) -> None:
        """End all streams and stop dialling."""
        tasks = [wish.task for wish in self._wishes.values() if wish.task is not None]
        for peer in {*self._wishes, *self._links}:
            self.disconnect(peer)
        await end(tasks)

    async def _keep(self, peer: Key, wish: _Wish) -> None:
        """Dial, serve, dial again; on_turn(peer, False) is also said when the first of several attempts fails."""
        pause_s = 0.0
        while self._wishes.get(peer) is wish:
            wish.moved.clear()
            try:
                reader, writer = await self._dial(peer, wish.addresses)
                if self._wishes.get(peer) is not wish:  # it was cancelled, and `wait_for` has swallowed that: see `end`
                    writer.close()
                    return
                pause_s = 0.0
                await self._serve(peer, reader, writer)
            except PeerError as error:
                self._refused[error.reason] += 1
                if pause_s == 0.0 and peer not in self._links:
                    self.on_turn(peer, False)
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wish.moved.wait(), pause_s)

    async def _serve(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, theirs: bool = False) -> None:
        try:
            nonce = await shake_hands(reader, writer, self._nonce)
            if peer == self._me or not await self._may_stand(peer, nonce):
                raise PeerError("key in use", "two processes with one key")
        except BaseException:
            writer.close()
            raise
        link = Link(peer, nonce, reader, writer, self._refused, theirs=theirs)
        self._stands(link)
        try:
            await link.run(self.on_message)
        finally:
            link.close()
            self._ended(link)

    async def _may_stand(self, peer: Key, nonce: bytes) -> bool:
        """Whether no other incarnation of `peer` is alive."""
        others = [link for link in self._links.get(peer, []) if link.nonce != nonce]
        for link in others:
            if await link.ping(_PROOF_S):
                return False
            link.close()
            self._ended(link)
        return True

    def _stands(self, link: Link) -> None:
        links = self._links.setdefault(link.peer, [])
        for older in links:
            if link.theirs and older.theirs:  # they make another when they think that this one is dead
                older.close()
        links.append(link)
        wish = self._wishes.get(link.peer)
        while wish is not None and wish.early:
            link.send(wish.early.popleft())
        if len(links) == 1:
            self.on_turn(link.peer, True)

    def _ended(self, link: Link) -> None:
        links = self._links.get(link.peer, [])
        if link in links:
            links.remove(link)
            if not links:
                del self._links[link.peer]
                self.on_turn(link.peer, False)
