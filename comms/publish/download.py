"""Getting the chunks of one version: from those who have them already, from the publisher only what it grants.

A wait is bounded: when no chunk has come for `patience_s` (or three times the slowest chunk so far), whatever is missing is fetched from
anybody, the publisher too. As long as no fetch fails, what is under way is waited for: the transport ends what does not move, and a slow
link is no reason to give up.
"""

import asyncio
import random
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from thinwire.comms.publish.desk import named
from thinwire.comms.publish.questions import CHUNKS, Holdings, Want, from_bits, holdings_nbytes, pack, to_bits, unpack
from thinwire.comms.publish.shelf import Entry, Shelf
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.transport import Key, PeerError, Transport

PARALLEL = 8  # chunks on their way at once
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_LONGEST_PATIENCE_S = 60.0
_HOLDERS = 3  # a chunk is asked of: when one stalls or lies, the transport goes on at another
_ASK_S = 5.0


class Peers:
    """Members of the run and where they are reached; the transport is told before they are asked."""

    def __init__(self, transport: Transport, first: Iterable[Key]) -> None:
        self._transport = transport
        self._connected: set[Key] = set()
        self.keys: dict[Key, None] = {key: None for key in first if key != transport.key}
        self.slowest_s = 0.0  # that a chunk has taken

    def meet(self, key: Key, addresses: tuple[str, ...]) -> None:
        """Somebody has named this member."""
        if key == self._transport.key or len(self.keys) >= 1024:
            return
        self.keys[key] = None
        if addresses and key not in self._connected and not self._transport.is_up(key):
            self._connected.add(key)
            self._transport.connect(key, addresses)

    def close(self) -> None:
        """End the streams that were made for this."""
        for key in self._connected:
            self._transport.disconnect(key)


@dataclass(eq=False)
class Download:
    """One version on its way."""

    transport: Transport
    run: str
    shelf: Shelf
    entry: Entry
    publishers: Collection[Key]
    peers: Peers
    patience_s: float
    chance: random.Random
    _tasks: dict["asyncio.Task[None]", int] = field(default_factory=dict)
    _holders: dict[Key, int] = field(default_factory=dict)  # subscribers, and their chunks as bits
    _granted: int = 0
    _direct: set[int] = field(default_factory=set)  # chunks that others could not give
    _spared: bool = True  # the publishers, except for what they grant

    async def run_to_end(self) -> None:
        """Fetch all that is missing into the shelf; raises `PeerError` when then nobody at all gives a chunk either."""
        gained, pause_s, why = time.monotonic(), _FIRST_PAUSE_S, ""
        try:
            while missing := self.entry.missing:
                await self._ask_around()
                self._start(missing)
                before = len(missing)
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                why = self._collect() or why
                now = time.monotonic()
                if len(self.entry.missing) < before:
                    gained, pause_s, why, self._spared = now, _FIRST_PAUSE_S, "", True
                    continue
                if (why or not self._tasks) and now - gained > max(self.patience_s, min(3 * self.peers.slowest_s, _LONGEST_PATIENCE_S)):
                    if not self._spared:
                        raise PeerError("no holder left", why or f"{before} chunks missing")
                    self._spared, gained, why = False, now, ""
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            await end(self._tasks)
        await self._ask_around()  # the publisher learns who has it all

    async def _ask_around(self) -> None:
        """Learn who has what: from a publisher, or when none answers from everybody."""
        asked = await self._ask(self.publishers)
        if not asked:
            self._granted = 0
            await self._ask([key for key in self.peers.keys if key not in self.publishers])

    async def _ask(self, keys: Iterable[Key]) -> bool:
        """Whether anybody of them has answered."""
        chunks = self.entry.signed.manifest.chunks
        want = pack(Want(self.entry.signed.digest, to_bits(self.entry.bits, len(chunks))))

        async def one(key: Key) -> bool:
            limit = holdings_nbytes(len(chunks))
            try:
                answer = await asyncio.wait_for(self.transport.ask(key, named(CHUNKS, self.run), want, limit, timeout_s=_ASK_S), _ASK_S)
                self._learn(key, unpack(answer, Holdings), len(chunks))
            except asyncio.TimeoutError:
                return False
            except PeerError as error:
                self.transport.refused[error.reason] += 1
                self._holders.pop(key, None)
                return False
            return True

        return any(await asyncio.gather(*(one(key) for key in keys)))

    def _learn(self, key: Key, holdings: Holdings, count: int) -> None:
        if key in self.publishers:
            self._granted = from_bits(holdings.granted, count)
        else:
            self._holders[key] = from_bits(holdings.have, count)
        for holder in holdings.holders:
            self.peers.meet(holder.key, holder.addresses)
            if holder.key not in self.publishers and holder.key != self.transport.key:
                self._holders[holder.key] = from_bits(holder.have, count)

    def _start(self, missing: list[int]) -> None:
        """Begin with granted chunks, then those that the fewest have."""
        under_way = set(self._tasks.values())
        waiting = [i for i in missing if i not in under_way]
        self.chance.shuffle(waiting)
        found: list[tuple[int, int, list[Key]]] = []
        for i in waiting:
            others = [key for key, bits in self._holders.items() if bits >> i & 1]
            if self._granted >> i & 1 or i in self._direct:
                found.append((-1, i, list(self.publishers)))
            elif not self._spared:
                found.append((len(others), i, [*self.publishers, *others]))
            elif others:
                self.chance.shuffle(others)
                found.append((len(others), i, others[:_HOLDERS]))
        for _, i, holders in sorted(found, key=lambda each: each[0])[: PARALLEL - len(self._tasks)]:
            self._tasks[asyncio.ensure_future(self._fetch(i, holders))] = i

    async def _fetch(self, index: int, holders: list[Key]) -> None:
        chunk = self.entry.signed.manifest.chunks[index]
        began = time.monotonic()
        data = await self.transport.fetch(chunk.digest, chunk.nbytes, holders)
        self.peers.slowest_s = max(self.peers.slowest_s, time.monotonic() - began)
        self.shelf.put(self.entry, index, Blob(chunk.digest, data))

    def _collect(self) -> str:
        """Take up fetches that have ended; returns why one has failed."""
        why = ""
        for task in [task for task in self._tasks if task.done()]:
            index = self._tasks.pop(task)
            error = task.exception()
            if error is None:
                self._direct.discard(index)
            elif isinstance(error, PeerError):
                why = str(error)
                self._direct ^= {index}  # others failed: the publisher; it failed: others
            else:
                raise error
        return why
