"""Blobs and questions over streams: pushed, fetched, asked for.

A dead peer looks like a normal end of its stream, so everything says its length first and is checked by its sha256 at the end. Large
blobs go over several streams at once, as one libp2p stream carries about 60 Mbit/s at 80 ms. All integers are little-endian.

    push   -> digest 32, nbytes 8, offset 8, length 8   <- status   -> chunks   <- status
    fetch  -> digest 32, offset 8, length 8             <- status, nbytes 8, then chunks; again and again on one stream
    ask    -> name length 1, name, length 4, request    <- status, length 4, answer or reason
    chunk  = length 4 (highest bit: coded, see coding.py), xxh3 of the data 8, data; 512 KiB before coding, the last one less
"""

import asyncio
import logging
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import xxhash

from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob, BlobStore, digest_of
from thinwire.comms.swarm.coding import CODED, Coder, decoded
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key, PeerError, Traffic

log = logging.getLogger("thinwire")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = dict[str, Callable[[Key, bytes], Awaitable[bytes]]]

PUSH, FETCH, ASK = "/thinwire/push/2", "/thinwire/fetch/2", "/thinwire/ask/1"
STALL_S = 5.0  # without a single byte
DOUBT_S = 1.0  # without a single byte of all holders that are asked, before another one is: these may be frozen
MAX_STREAMS = 4  # for one blob
MAX_PEER_STREAMS = 64  # that one peer may have open here
_PIECE = 4 * CHUNK_NBYTES  # what is fetched by one request
_GO, _HAVE, _NO, _BAD = 0, 1, 2, 3
_PUSH = struct.Struct("<32sQQQ")
_FETCH = struct.Struct("<32sQQ")
_FOUND = struct.Struct("<BQ")
_CHUNK = struct.Struct("<IQ")
_ANSWER = struct.Struct("<BI")
_SLOW_HASH_NBYTES = 1 << 20  # above, hashing leaves the event loop alone


@dataclass(eq=False)
class _Arrival:
    """A pushed blob on its way in; what is allocated was granted."""

    peer: Key
    data: bytearray
    missing: set[int]  # offsets of chunks that nobody has claimed
    left_nbytes: int
    whole: "asyncio.Future[bool]"


class Bulk:
    """The bulk streams of a node. `open(peer, protocol)` makes a stream or raises `PeerError`."""

    def __init__(self, open_: Callable[[Key, str], Awaitable[Streams]], blobs: BlobStore, serve: Serve, traffic: Traffic) -> None:
        self._open, self._blobs, self._serve, self._traffic = open_, blobs, serve, traffic
        self._coder = Coder()
        self._arrivals: dict[bytes, _Arrival] = {}
        self._open_streams: Counter[Key] = Counter()
        self.accept: Callable[[Key, bytes, int], bool] = lambda peer, digest, nbytes: False
        self.on_blob: Callable[[Key, bytes, bytes], None] = lambda peer, digest, data: None

    # ------------------------------------------------------------------ what others do here

    async def welcome(self, protocol: str, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a stream that a peer has opened; raises `PeerError` when the peer breaks the rules."""
        if self._open_streams[peer] >= MAX_PEER_STREAMS:
            raise PeerError("too many streams")
        self._open_streams[peer] += 1
        try:
            await {PUSH: self._pushed, FETCH: self._fetched, ASK: self._asked}[protocol](peer, reader, writer)
        except asyncio.TimeoutError as error:
            raise PeerError("stalled", protocol) from error
        except (EOFError, OSError) as error:
            raise PeerError("ended early", protocol) from error
        finally:
            self._open_streams[peer] -= 1
            if not self._open_streams[peer]:
                del self._open_streams[peer]

    async def _pushed(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest, nbytes, offset, length = _PUSH.unpack(await _read(reader, _PUSH.size))
        arrival = await self._arrival(peer, digest, nbytes)
        if arrival is None:
            writer.write(bytes([_HAVE if digest in self._blobs else _NO]))
            return
        try:
            claimed = _claim(arrival, offset, length)
            writer.write(bytes([_GO]))
            for at, size in claimed:
                came = await _read_chunk(reader, memoryview(arrival.data)[at : at + size])
                arrival.left_nbytes -= size
                self._traffic.received_nbytes += came
            if arrival.left_nbytes == 0:
                await self._arrived(arrival, digest)
            good = await asyncio.wait_for(asyncio.shield(arrival.whole), 12 * STALL_S)
            writer.write(bytes([_HAVE if good else _BAD]))
        finally:
            if not arrival.whole.done():
                arrival.whole.set_result(False)
            if self._arrivals.get(digest) is arrival:
                del self._arrivals[digest]

    async def _arrival(self, peer: Key, digest: bytes, nbytes: int) -> _Arrival | None:
        """Where the blob is being put together, or None when it is here already or not wanted."""
        while digest not in self._blobs:
            arrival = self._arrivals.get(digest)
            if arrival is None:
                if nbytes > self._blobs.limit_nbytes or not self.accept(peer, digest, nbytes):
                    self._traffic.refused["unwanted blob"] += 1
                    return None
                whole: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                arrival = self._arrivals[digest] = _Arrival(peer, bytearray(nbytes), set(_offsets(0, nbytes)), nbytes, whole)
            if arrival.peer == peer:
                if len(arrival.data) != nbytes:
                    raise PeerError("lies about size", f"{nbytes} bytes, before {len(arrival.data)}")
                return arrival
            await asyncio.wait([arrival.whole])  # another peer sends it: ours is needed only if that fails
        return None

    async def _arrived(self, arrival: _Arrival, digest: bytes) -> None:
        data = bytes(arrival.data)
        good = await hashed(data) == digest
        if not arrival.whole.done():
            arrival.whole.set_result(good)
        if not good:
            raise PeerError("wrong bytes", "a pushed blob is not what its name says")
        self._blobs.put(Blob(digest, data))
        self.on_blob(arrival.peer, digest, data)

    async def _fetched(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                request = await asyncio.wait_for(reader.readexactly(_FETCH.size), 12 * STALL_S)
            except (EOFError, OSError, asyncio.TimeoutError):
                return  # nothing more is wanted
            digest, offset, length = _FETCH.unpack(request)
            blob = self._blobs.get(digest)
            if blob is None:
                writer.write(_FOUND.pack(_NO, 0))
                continue
            if length > _PIECE or offset + length > blob.nbytes:
                raise PeerError("garbage", "asks for bytes that are not there")
            writer.write(_FOUND.pack(_GO, blob.nbytes))
            await self._write_chunks(writer, blob, offset, length)

    async def _asked(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = await _read(reader, 1)
        name = (await _read(reader, size)).decode(errors="replace")
        nbytes = int.from_bytes(await _read(reader, 4), "little")
        if nbytes > MAX_MESSAGE_NBYTES:
            raise PeerError("oversized", f"a question of {nbytes} bytes")
        request = await _read(reader, nbytes)
        self._traffic.received_nbytes += nbytes
        status, answer = await self._answer(peer, name, request)
        writer.write(_ANSWER.pack(status, len(answer)))
        for at in range(0, len(answer), CHUNK_NBYTES):
            writer.write(answer[at : at + CHUNK_NBYTES])
            await _drained(writer)
        self._traffic.sent_nbytes += len(answer)

    async def _answer(self, peer: Key, name: str, request: bytes) -> tuple[int, bytes]:
        handler = self._serve.get(name)
        if handler is None:
            self._traffic.refused["unknown question"] += 1
            return _NO, b"refused\nthe peer answers no such question"
        try:
            return _GO, await handler(peer, request)
        except Exception as error:
            if not isinstance(error, PeerError):
                log.exception("the question %r could not be answered", name)
                error = PeerError("refused", "the peer failed to answer")
            return _NO, f"{error.reason}\n{error.detail}".encode()[:4096]

    # ------------------------------------------------------------------ what we do there

    async def push(self, peer: Key, blob: Blob) -> None:
        """Give a blob to a peer, over several streams when it is large."""
        parts = [asyncio.ensure_future(self._push_part(peer, blob, *part)) for part in _parts(blob.nbytes)]
        try:
            await asyncio.gather(*parts)
        finally:
            await end(parts)

    async def _push_part(self, peer: Key, blob: Blob, offset: int, length: int) -> None:
        async with self._stream(peer, PUSH, "push") as (reader, writer):
            writer.write(_PUSH.pack(blob.digest, blob.nbytes, offset, length))
            (status,) = await _read(reader, 1, patience_s=12 * STALL_S)
            if status == _GO:
                await self._write_chunks(writer, blob, offset, length)
                (status,) = await _read(reader, 1, patience_s=12 * STALL_S)
            if status != _HAVE:
                raise PeerError("refused", "the peer does not want this blob" if status == _NO else "it did not arrive whole")

    async def ask(self, peer: Key, name: str, request: bytes, limit_nbytes: int, timeout_s: float) -> bytes:
        """The answer to one question."""
        async with self._stream(peer, ASK, "ask") as (reader, writer):
            word = name.encode()
            writer.write(bytes([len(word)]) + word + len(request).to_bytes(4, "little") + request)
            self._traffic.sent_nbytes += len(request)
            status, nbytes = _ANSWER.unpack(await _read(reader, _ANSWER.size, patience_s=timeout_s))
            if nbytes > (limit_nbytes if status == _GO else 4096):
                raise PeerError("too large", f"an answer of {nbytes} bytes, above {limit_nbytes}")
            answer = bytearray()
            while len(answer) < nbytes:
                answer += await _read(reader, min(CHUNK_NBYTES, nbytes - len(answer)))
            self._traffic.received_nbytes += nbytes
            if status == _GO:
                return bytes(answer)
            reason, _, detail = answer.decode(errors="replace").partition("\n")
            raise PeerError(reason, detail)

    async def fetch(self, digest: bytes, nbytes: int, holders: Sequence[Key], into: memoryview | None) -> bytes:
        """Get a blob; when all together gave something else than its name says, from each of them alone."""
        data = memoryview(bytearray(nbytes)) if into is None else into.cast("B")
        if len(data) != nbytes:
            raise ValueError(f"a buffer of {len(data)} bytes for a blob of {nbytes}")
        left = list(dict.fromkeys(holders))
        groups = [left, *([holder] for holder in left)] if len(left) > 1 else [left]
        why = "nobody holds it"
        for group in groups:
            task = _Fetch(self, digest, data, group)
            try:
                await task.run()
            except PeerError as error:
                why = str(error)
                continue
            if await hashed(data) == digest:
                return bytes(data) if into is None else b""
            self._traffic.refused["wrong bytes"] += 1
            why = f"wrong bytes from {', '.join(key.hex()[:8] for key in task.gave)}"
        raise PeerError("no holder left", why)

    @asynccontextmanager
    async def _stream(self, peer: Key, protocol: str, what: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A stream of our own to a peer, closed at the end; whatever ends it before is a `PeerError`."""
        reader, writer = await self._open(peer, protocol)
        try:
            yield reader, writer
        except asyncio.TimeoutError as error:
            raise PeerError("stalled", what) from error
        except (EOFError, OSError) as error:
            raise PeerError("ended early", what) from error
        finally:
            writer.close()

    async def _write_chunks(self, writer: asyncio.StreamWriter, blob: Blob, offset: int, length: int) -> None:
        view = memoryview(blob.data)
        for at in _offsets(offset, length):
            data = view[at : min(at + CHUNK_NBYTES, offset + length)]
            coded = await self._coder.chunk(blob, at, len(data))
            sent, flag = (data, 0) if coded is None else (coded, CODED)
            writer.write(_CHUNK.pack(len(sent) | flag, xxhash.xxh3_64_intdigest(data)))
            writer.write(sent)
            await _drained(writer)
            self._traffic.sent_nbytes += len(sent)
            self._traffic.saved_nbytes += len(data) - len(sent)


class _Fetch:
    """One attempt at a blob with some holders: pieces in a queue, and a few lanes that each take the next one from some holder.

    When nothing comes for a while, what is missing is asked of another holder as well (Dean and Barroso, "The Tail at Scale", CACM 2013,
    call that a hedged request): whoever gives a piece first has given it.
    """

    def __init__(self, bulk: Bulk, digest: bytes, data: memoryview, holders: Sequence[Key]) -> None:
        self._bulk, self._digest, self._data = bulk, digest, data
        self._pieces = deque((at, min(_PIECE, len(data) - at)) for at in range(0, len(data), _PIECE))
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
                self._bulk._traffic.refused[error.reason] += 1
                if self.gave[holder] == before:  # who gave something meanwhile gets another chance
                    self._lanes_of.pop(holder, None)
            finally:
                if holder in self._lanes_of:
                    self._lanes_of[holder] -= 1

    async def _work(self, holder: Key) -> None:
        """Take pieces over one stream, asking for the next before the last is here."""
        asked: deque[tuple[int, int]] = deque()
        try:
            async with self._bulk._stream(holder, FETCH, "fetch") as (reader, writer):
                while self._missing:
                    while self._pieces and len(asked) < 2:
                        piece = self._pieces.popleft()
                        if piece in self._missing:  # else another holder has given it meanwhile
                            asked.append(piece)
                            writer.write(_FETCH.pack(self._digest, *piece))
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
        status, nbytes = _FOUND.unpack(await _read(reader, _FOUND.size, patience_s=2 * STALL_S))
        self._comes(_FOUND.size)
        if status != _GO:
            raise PeerError("does not hold it")
        if nbytes != len(self._data):
            raise PeerError("lies about size", f"{nbytes} bytes instead of {len(self._data)}")
        for at in _offsets(offset, length):
            size = min(CHUNK_NBYTES, offset + length - at)
            came = await _read_chunk(reader, self._data[at : at + size], self._comes)
            self._bulk._traffic.received_nbytes += came

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _parts(nbytes: int) -> list[tuple[int, int]]:
    """A blob in up to `MAX_STREAMS` runs of whole chunks: (offset, length) each."""
    chunks = -(-nbytes // CHUNK_NBYTES)
    per_part = max(1, -(-chunks // MAX_STREAMS)) * CHUNK_NBYTES
    return [(at, min(per_part, nbytes - at)) for at in range(0, max(nbytes, 1), per_part)]


def _offsets(offset: int, length: int) -> Iterator[int]:
    return iter(range(offset, offset + length, CHUNK_NBYTES))


def _claim(arrival: _Arrival, offset: int, length: int) -> list[tuple[int, int]]:
    """The chunks (offset, size) of a part, which nobody else may send now; raises `PeerError` when they are not there to be had."""
    nbytes = len(arrival.data)
    whole = offset + length == nbytes or length % CHUNK_NBYTES == 0
    claimed = [(at, min(CHUNK_NBYTES, nbytes - at)) for at in _offsets(offset, min(length, nbytes))]
    if offset + length > nbytes or not whole or not arrival.missing.issuperset(at for at, _ in claimed):
        raise PeerError("garbage", "a part of a blob that does not fit")
    arrival.missing.difference_update(at for at, _ in claimed)
    return claimed


async def hashed(data: bytes | bytearray | memoryview) -> bytes:
    """The sha256 of `data`; of much data in a thread, so that others are served meanwhile."""
    if len(data) < _SLOW_HASH_NBYTES:
        return digest_of(data)
    return await asyncio.get_running_loop().run_in_executor(None, digest_of, data)


async def _read(reader: asyncio.StreamReader, nbytes: int, *, patience_s: float = 0.0) -> bytes:
    return await asyncio.wait_for(reader.readexactly(nbytes), patience_s or STALL_S)


async def _read_chunk(reader: asyncio.StreamReader, into: memoryview, comes: Callable[[int], None] = lambda nbytes: None) -> int:
    """Read one chunk of exactly that size, before coding; returns the bytes that came. Every one renews the patience, and is told."""
    length, check = _CHUNK.unpack(await _read(reader, _CHUNK.size))
    coded, nbytes = bool(length & CODED), int(length & ~CODED)
    if nbytes >= len(into) if coded else nbytes != len(into):
        raise PeerError("lies about size", f"a chunk of {nbytes} bytes{' after coding' if coded else ''} instead of {len(into)}")
    came = memoryview(bytearray(nbytes)) if coded else into
    at = 0
    while at < nbytes:
        data = await asyncio.wait_for(reader.read(nbytes - at), STALL_S)
        if not data:
            raise EOFError("the stream ended within a chunk")
        came[at : at + len(data)] = data
        at += len(data)
        comes(len(data))
    if coded:
        await decoded(came, into)
    if xxhash.xxh3_64_intdigest(into) != check:
        raise PeerError("wrong bytes", "a chunk does not match its hash")
    return nbytes


async def _drained(writer: asyncio.StreamWriter) -> None:
    await asyncio.wait_for(writer.drain(), STALL_S)
