"""Getting one blob from those that hold it."""

import asyncio
import struct
from collections import Counter, deque
from collections.abc import Sequence

from thinwire.comms.swarm import chunks
from thinwire.comms.swarm.blobs import CHUNK_NBYTES
from thinwire.comms.swarm.chunks import GO, Open
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.transport import Key, PeerError, Traffic

FETCH = "/thinwire/fetch/2"
DOUBT_S = 1.0  # without a single byte of all holders that are asked, before another one is: these may be frozen
MAX_STREAMS = 4  # for one blob
PIECE_NBYTES = 4 * CHUNK_NBYTES  # what is fetched by one request
REQUEST = struct.Struct("<32sQQ")  # digest, offset, length
FOUND = struct.Struct("<BQ")  # status, size of the whole blob; then chunks


class Fetch:
    """One attempt at a blob with some holders: pieces in a queue, and a few lanes that each take the next one from some holder.

    When nothing comes for a while, what is missing is asked of another holder as well (Dean and Barroso, "The Tail at Scale", CACM 2013,
    call that a hedged request): whoever gives a piece first has given it.
    """

    def __init__(self, open_: Open, digest: bytes, data: memoryview, holders: Sequence[Key], traffic: Traffic) -> None:
        self._open, self._digest, self._data, self._traffic = open_, digest, data, traffic
        self._pieces = deque((at, min(PIECE_NBYTES, len(data) - at)) for at in range(0, len(data), PIECE_NBYTES))
        self._missing = set(self._pieces)
        self._lanes: set[asyncio.Task[None]] = set()
        self._came_nbytes = 0
        self._news, self._over = asyncio.Event(), asyncio.Event()
        self._lanes_of = {holder: 0 for holder in holders}
        self.gave: Counter[Key] = Counter()  # pieces, by who gave them
        self.why: list[str] = []

    async def run(self) -> None:
        """Fill the buffer; raises `PeerError` when the holders are used up before."""
        for _ in range(min(MAX_STREAMS, len(self._missing))):
            self._begin_lane()
        doubting = asyncio.ensure_future(self._doubt())
        try:
            if self._lanes:
                await self._over.wait()
        finally:
            await end([doubting, *self._lanes])
        for lane in self._lanes:
            if not lane.cancelled():
                lane.result()
        if self._missing:
            raise PeerError("no holder left", "; ".join(self.why[-4:]) or "nobody holds it")

    def _begin_lane(self) -> None:
        lane = asyncio.ensure_future(self._lane())
        self._lanes.add(lane)
        lane.add_done_callback(self._lane_has_ended)

    def _lane_has_ended(self, lane: asyncio.Task[None]) -> None:
        failed = not lane.cancelled() and lane.exception() is not None
        if failed or not self._missing or all(each.done() for each in self._lanes):
            self._over.set()

    async def _lane(self) -> None:
        """Work with the least busy holder, with another one when it fails, until all is here or nobody is left."""
        while self._missing and self._lanes_of:
            holder = min(self._lanes_of, key=lambda key: self._lanes_of[key])
            self._lanes_of[holder] += 1
            before = self.gave[holder]
            try:
                await self._work(holder)
            except PeerError as error:
                self.why.append(f"{holder.hex()[:8]}: {error}")
                self._traffic.refused[error.reason] += 1
                if self.gave[holder] == before:  # who gave something meanwhile gets another chance
                    self._lanes_of.pop(holder, None)
            finally:
                if holder in self._lanes_of:
                    self._lanes_of[holder] -= 1

    async def _work(self, holder: Key) -> None:
        """Take pieces over one stream, asking for the next before the last is here."""
        asked: deque[tuple[int, int]] = deque()
        try:
            async with chunks.opened(self._open, holder, FETCH, "fetch") as (reader, writer):
                while self._missing:
                    while self._pieces and len(asked) < 2:
                        piece = self._pieces.popleft()
                        if piece in self._missing:  # else another holder has given it meanwhile
                            asked.append(piece)
                            writer.write(REQUEST.pack(self._digest, *piece))
                    if asked:
                        await self._read_piece(reader, *asked[0])
                        self.gave[holder] += 1
                        self._missing.discard(asked.popleft())
                        if not self._missing:
                            self._tell()
                    else:
                        await self._news.wait()  # another lane has the rest, or will give it back
        finally:
            self._pieces.extendleft(reversed(asked))
            self._tell()

    async def _doubt(self) -> None:
        """Look whether something comes."""
        while True:
            before = self._came_nbytes
            await asyncio.sleep(DOUBT_S)
            if self._came_nbytes == before and len(self._lanes_of) > 1:
                self._pieces = deque(sorted(self._missing))
                self._tell()
                if 0 in self._lanes_of.values():
                    self._begin_lane()

    def _comes(self, nbytes: int) -> None:
        self._came_nbytes += nbytes

    async def _read_piece(self, reader: asyncio.StreamReader, offset: int, length: int) -> None:
        status, nbytes = FOUND.unpack(await chunks.read(reader, FOUND.size, patience_s=2 * chunks.STALL_S))
        self._comes(FOUND.size)
        if status != GO:
            raise PeerError("does not hold it")
        if nbytes != len(self._data):
            raise PeerError("lies about size", f"{nbytes} bytes instead of {len(self._data)}")
        for at in chunks.offsets(offset, length):
            size = min(CHUNK_NBYTES, offset + length - at)
            came = await chunks.read_chunk(reader, self._data[at : at + size], self._comes)
            self._traffic.received_nbytes += came

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
