"""Blobs and questions over streams: pushed, fetched (fetching.py), asked for.

A dead peer looks like a normal end of its stream, so everything says its length first and is checked by its sha256 at the end. Large
blobs go over several streams at once, as one libp2p stream carries about 60 Mbit/s at 80 ms. All integers are little-endian.

    push   -> digest 32, nbytes 8, offset 8, length 8   <- status   -> chunks   <- status
    fetch  -> digest 32, offset 8, length 8             <- status, nbytes 8, then chunks; again and again on one stream
    ask    -> name length 1, name, length 4, request    <- status, length 4, answer or reason
"""

import asyncio
import logging
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from thinwire.comms.swarm import chunks
from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob, BlobStore
from thinwire.comms.swarm.chunks import GO, NO, Open
from thinwire.comms.swarm.coding import Coder
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.fetching import FETCH, FOUND, MAX_STREAMS, PIECE_NBYTES, REQUEST, Fetch
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key, PeerError, Traffic

log = logging.getLogger("thinwire")

Serve = dict[str, Callable[[Key, bytes], Awaitable[bytes]]]

PUSH, ASK = "/thinwire/push/2", "/thinwire/ask/1"
MAX_PEER_STREAMS = 64  # that one peer may have open here
_HAVE, _BAD = 1, 3  # beside GO and NO
_PUSH = struct.Struct("<32sQQQ")
_ANSWER = struct.Struct("<BI")


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

    def __init__(self, open_: Open, blobs: BlobStore, serve: Serve, traffic: Traffic) -> None:
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
            with chunks.as_peer_errors(protocol):
                await {PUSH: self._pushed, FETCH: self._fetched, ASK: self._asked}[protocol](peer, reader, writer)
        finally:
            self._open_streams[peer] -= 1
            if not self._open_streams[peer]:
                del self._open_streams[peer]

    async def _pushed(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest, nbytes, offset, length = _PUSH.unpack(await chunks.read(reader, _PUSH.size))
        arrival = await self._arrival(peer, digest, nbytes)
        if arrival is None:
            writer.write(bytes([_HAVE if digest in self._blobs else NO]))
            return
        try:
            claimed = _claim(arrival, offset, length)
            writer.write(bytes([GO]))
            for at, size in claimed:
                came = await chunks.read_chunk(reader, memoryview(arrival.data)[at : at + size])
                arrival.left_nbytes -= size
                self._traffic.received_nbytes += came
            if arrival.left_nbytes == 0:
                await self._arrived(arrival, digest)
            good = await asyncio.wait_for(asyncio.shield(arrival.whole), 12 * chunks.STALL_S)
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
                arrival = self._arrivals[digest] = _Arrival(peer, bytearray(nbytes), set(chunks.offsets(0, nbytes)), nbytes, whole)
            if arrival.peer == peer:
                if len(arrival.data) != nbytes:
                    raise PeerError("lies about size", f"{nbytes} bytes, before {len(arrival.data)}")
                return arrival
            await asyncio.wait([arrival.whole])  # another peer sends it: ours is needed only if that fails
        return None

    async def _arrived(self, arrival: _Arrival, digest: bytes) -> None:
        data = bytes(arrival.data)
        good = await chunks.hashed(data) == digest
        if not arrival.whole.done():
            arrival.whole.set_result(good)
        if not good:
            raise PeerError("wrong bytes", "a pushed blob is not what its name says")
        self._blobs.put(Blob(digest, data))
        self.on_blob(arrival.peer, digest, data)

    async def _fetched(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                request = await chunks.read(reader, REQUEST.size, patience_s=12 * chunks.STALL_S)
            except (EOFError, OSError, asyncio.TimeoutError):
                return  # nothing more is wanted
            digest, offset, length = REQUEST.unpack(request)
            blob = self._blobs.get(digest)
            if blob is None:
                writer.write(FOUND.pack(NO, 0))
                continue
            if length > PIECE_NBYTES or offset + length > blob.nbytes:
                raise PeerError("garbage", "asks for bytes that are not there")
            writer.write(FOUND.pack(GO, blob.nbytes))
            await chunks.write_chunks(writer, blob, offset, length, self._coder, self._traffic)

    async def _asked(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = await chunks.read(reader, 1)
        name = (await chunks.read(reader, size)).decode(errors="replace")
        nbytes = int.from_bytes(await chunks.read(reader, 4), "little")
        if nbytes > MAX_MESSAGE_NBYTES:
            raise PeerError("oversized", f"a question of {nbytes} bytes")
        request = await chunks.read(reader, nbytes)
        self._traffic.received_nbytes += nbytes
        status, answer = await self._answer(peer, name, request)
        writer.write(_ANSWER.pack(status, len(answer)))
        for at in range(0, len(answer), CHUNK_NBYTES):
            writer.write(answer[at : at + CHUNK_NBYTES])
            await chunks.drained(writer)
        self._traffic.sent_nbytes += len(answer)

    async def _answer(self, peer: Key, name: str, request: bytes) -> tuple[int, bytes]:
        handler = self._serve.get(name)
        if handler is None:
            self._traffic.refused["unknown question"] += 1
            return NO, b"refused\nthe peer answers no such question"
        try:
            return GO, await handler(peer, request)
        except Exception as error:
            if not isinstance(error, PeerError):
                log.exception("the question %r could not be answered", name)
                error = PeerError("refused", "the peer failed to answer")
            return NO, f"{error.reason}\n{error.detail}".encode()[:4096]

    # ------------------------------------------------------------------ what we do there

    async def push(self, peer: Key, blob: Blob) -> None:
        """Give a blob to a peer, over several streams when it is large."""
        parts = [asyncio.ensure_future(self._push_part(peer, blob, *part)) for part in _parts(blob.nbytes)]
        try:
            await asyncio.gather(*parts)
        finally:
            await end(parts)

    async def _push_part(self, peer: Key, blob: Blob, offset: int, length: int) -> None:
        async with chunks.opened(self._open, peer, PUSH, "push") as (reader, writer):
            writer.write(_PUSH.pack(blob.digest, blob.nbytes, offset, length))
            (status,) = await chunks.read(reader, 1, patience_s=12 * chunks.STALL_S)
            if status == GO:
                await chunks.write_chunks(writer, blob, offset, length, self._coder, self._traffic)
                (status,) = await chunks.read(reader, 1, patience_s=12 * chunks.STALL_S)
            if status != _HAVE:
                raise PeerError("refused", "the peer does not want this blob" if status == NO else "it did not arrive whole")

    async def ask(self, peer: Key, name: str, request: bytes, limit_nbytes: int, timeout_s: float) -> bytes:
        """The answer to one question."""
        async with chunks.opened(self._open, peer, ASK, "ask") as (reader, writer):
            word = name.encode()
            writer.write(bytes([len(word)]) + word + len(request).to_bytes(4, "little") + request)
            self._traffic.sent_nbytes += len(request)
            status, nbytes = _ANSWER.unpack(await chunks.read(reader, _ANSWER.size, patience_s=timeout_s))
            if nbytes > (limit_nbytes if status == GO else 4096):
                raise PeerError("too large", f"an answer of {nbytes} bytes, above {limit_nbytes}")
            answer = bytearray()
            while len(answer) < nbytes:
                answer += await chunks.read(reader, min(CHUNK_NBYTES, nbytes - len(answer)))
            self._traffic.received_nbytes += nbytes
            if status == GO:
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
            task = Fetch(self._open, digest, data, group, self._traffic)
            try:
                await task.run()
            except PeerError as error:
                why = str(error)
                continue
            if await chunks.hashed(data) == digest:
                return bytes(data) if into is None else b""
            self._traffic.refused["wrong bytes"] += 1
            why = f"wrong bytes from {', '.join(key.hex()[:8] for key in task.gave)}"
        raise PeerError("no holder left", why)


def _parts(nbytes: int) -> list[tuple[int, int]]:
    """A blob in up to `MAX_STREAMS` runs of whole chunks: (offset, length) each."""
    count = -(-nbytes // CHUNK_NBYTES)
    per_part = max(1, -(-count // MAX_STREAMS)) * CHUNK_NBYTES
    return [(at, min(per_part, nbytes - at)) for at in range(0, max(nbytes, 1), per_part)]


def _claim(arrival: _Arrival, offset: int, length: int) -> list[tuple[int, int]]:
    """The chunks (offset, size) of a part, which nobody else may send now; raises `PeerError` when they are not there to be had."""
    nbytes = len(arrival.data)
    whole = offset + length == nbytes or length % CHUNK_NBYTES == 0
    claimed = [(at, min(CHUNK_NBYTES, nbytes - at)) for at in chunks.offsets(offset, min(length, nbytes))]
    if offset + length > nbytes or not whole or not arrival.missing.issuperset(at for at, _ in claimed):
        raise PeerError("garbage", "a part of a blob that does not fit")
    arrival.missing.difference_update(at for at, _ in claimed)
    return claimed
