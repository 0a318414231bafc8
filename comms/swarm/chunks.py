"""Bytes over a stream to one peer: read with patience, in chunks that are hashed and may be coded for the way.

chunk = length 4 (highest bit: coded, see coding.py), xxh3 of the data 8, data; 512 KiB before coding, the last one of a blob less
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import xxhash

from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob, digest_of
from thinwire.comms.swarm.coding import CODED, Coder, decoded
from thinwire.comms.swarm.transport import Key, PeerError, Traffic

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[Key, str], Awaitable[Streams]]  # a stream to a peer that speaks this protocol; raises `PeerError`

STALL_S = 5.0  # without a single byte
GO, NO = 0, 2  # statuses
_CHUNK = struct.Struct("<IQ")
_SLOW_HASH_NBYTES = 1 << 20  # above, hashing leaves the event loop alone


@asynccontextmanager
async def opened(open_: Open, peer: Key, protocol: str, what: str) -> AsyncIterator[Streams]:
    """A stream of our own to a peer, closed at the end; whatever ends it before is a `PeerError`."""
    reader, writer = await open_(peer, protocol)
    try:
        with as_peer_errors(what):
            yield reader, writer
    finally:
        writer.close()


@contextmanager
def as_peer_errors(what: str) -> Iterator[None]:
    """A stream that stalls, or ends early, is the fault of the peer."""
    try:
        yield
    except asyncio.TimeoutError as error:
        raise PeerError("stalled", what) from error
    except (EOFError, OSError) as error:
        raise PeerError("ended early", what) from error


async def read(reader: asyncio.StreamReader, nbytes: int, *, patience_s: float = 0.0) -> bytes:
    return await asyncio.wait_for(reader.readexactly(nbytes), patience_s or STALL_S)


async def read_chunk(reader: asyncio.StreamReader, into: memoryview, comes: Callable[[int], None] = lambda nbytes: None) -> int:
    """Read one chunk of exactly that size, before coding; returns the bytes that came. Every one renews the patience, and is told."""
    length, check = _CHUNK.unpack(await read(reader, _CHUNK.size))
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


async def write_chunks(writer: asyncio.StreamWriter, blob: Blob, offset: int, length: int, coder: Coder, traffic: Traffic) -> None:
    """Write `length` bytes of a blob from `offset` on, coded where that makes them fewer."""
    view = memoryview(blob.data)
    for at in offsets(offset, length):
        data = view[at : min(at + CHUNK_NBYTES, offset + length)]
        coded = await coder.chunk(blob, at, len(data))
        sent, flag = (data, 0) if coded is None else (coded, CODED)
        writer.write(_CHUNK.pack(len(sent) | flag, xxhash.xxh3_64_intdigest(data)))
        writer.write(sent)
        await drained(writer)
        traffic.sent_nbytes += len(sent)
        traffic.saved_nbytes += len(data) - len(sent)


async def drained(writer: asyncio.StreamWriter) -> None:
    await asyncio.wait_for(writer.drain(), STALL_S)


def offsets(offset: int, length: int) -> Iterator[int]:
    """Where the chunks begin of which `length` bytes from `offset` on are made."""
    return iter(range(offset, offset + length, CHUNK_NBYTES))


async def hashed(data: bytes | bytearray | memoryview) -> bytes:
    """The sha256 of `data`; of much data in a thread, so that others are served meanwhile."""
    if len(data) < _SLOW_HASH_NBYTES:
        return digest_of(data)
    return await asyncio.get_running_loop().run_in_executor(None, digest_of, data)
