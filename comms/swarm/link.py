"""One control stream: whole messages in order, either way, none above 64 KiB, memory bounded whatever the other end does.

Both ends say hello first: a magic word and the nonce of their process. Then frames: kind (1 byte), length (4, little-endian), body.
A frame that breaks a rule ends the stream; a flood is slowed down to what the bucket lets through, and presses back on its sender.
"""

import asyncio
import logging
import struct
from collections import Counter, deque
from collections.abc import Callable

from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, MAX_QUEUED_MESSAGES, Key, PeerError

log = logging.getLogger("thinwire")

HELLO = struct.Struct("<8s8s")
MAGIC = b"twlink1\n"
HELLO_S = 10.0
_FRAME = struct.Struct("<BI")
_MESSAGE, _PING, _PONG = 0, 1, 2
_DIRECT_NBYTES = 256 << 10  # what may lie in the socket's buffer before messages queue here
_RATE, _BURST = 2000.0, 4000.0  # messages a second from one peer, for long; at once


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, nonce: bytes) -> bytes:
    """Say hello; returns the nonce of the other end's process, raises `PeerError`."""
    writer.write(HELLO.pack(MAGIC, nonce))
    try:
        magic, theirs = HELLO.unpack(await asyncio.wait_for(reader.readexactly(HELLO.size), HELLO_S))
    except (asyncio.TimeoutError, EOFError, OSError) as error:
        raise PeerError("no hello", type(error).__name__) from error
    if magic != MAGIC:
        raise PeerError("bad hello", "the peer speaks another protocol or version")
    return bytes(theirs)


class Link:
    """A stream after the hello; `theirs` if the peer made it. `run` reads it until it ends."""

    def __init__(
        self,
        peer: Key,
        nonce: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        refused: Counter[str],
        *,
        theirs: bool = False,
    ) -> None:
        self.peer = peer
        self.nonce = nonce
        self.theirs = theirs
        self._reader, self._writer = reader, writer
        self._refused = refused
        self._queue: deque[bytes] = deque(maxlen=MAX_QUEUED_MESSAGES)
        self._draining: asyncio.Task[None] | None = None
        self._pongs: deque[asyncio.Future[None]] = deque()

    def send(self, message: bytes) -> None:
        """Send one message, or queue it while the peer is slow to read; the oldest are dropped beyond 256."""
        frame = _FRAME.pack(_MESSAGE, len(message)) + message
        if self._draining is None and self._buffered() < _DIRECT_NBYTES:
            self._writer.write(frame)
            return
        self._refused["queue full"] += len(self._queue) == MAX_QUEUED_MESSAGES
        self._queue.append(frame)
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def ping(self, timeout_s: float) -> bool:
        """Whether the other end answers within `timeout_s`."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._writer.write(_FRAME.pack(_PING, 0))
        done, _ = await asyncio.wait([pong], timeout=timeout_s)
        return bool(done) and not pong.cancelled()

    async def run(self, on_message: Callable[[Key, bytes], None]) -> None:
        """Hand over what arrives until the stream ends; raises `PeerError` when the peer breaks the rules."""
        clock = asyncio.get_running_loop().time
        tokens, then = _BURST, clock()
        try:
            while True:
                kind, nbytes = _FRAME.unpack(await self._reader.readexactly(_FRAME.size))
                if kind > _PONG or nbytes > (MAX_MESSAGE_NBYTES if kind == _MESSAGE else 0):
                    raise PeerError("oversized" if kind == _MESSAGE else "garbage", f"a frame of kind {kind}, {nbytes} bytes")
                body = await self._reader.readexactly(nbytes)
                now = clock()
                tokens, then = min(_BURST, tokens + (now - then) * _RATE) - 1, now
                if tokens < 0:
                    self._refused["flood"] += 1
                    await asyncio.sleep(-tokens / _RATE)
                self._take(kind, body, on_message)
        except (EOFError, OSError):
            return
        finally:
            self.close()

    def _take(self, kind: int, body: bytes, on_message: Callable[[Key, bytes], None]) -> None:
        if kind == _MESSAGE:
            try:
                on_message(self.peer, body)
            except Exception:
                log.exception("a message of %s could not be dealt with", self.peer.hex()[:8])  # our fault: the stream stays
        elif kind == _PING:
            if self._buffered() < _DIRECT_NBYTES:
                self._writer.write(_FRAME.pack(_PONG, 0))
        elif self._pongs:
            pong = self._pongs.popleft()
            if not pong.done():
                pong.set_result(None)

    def close(self) -> None:
        """End the stream; what is queued is lost."""
        if self._draining is not None:
            self._draining.cancel()
        while self._pongs:
            self._pongs.popleft().cancel()
        self._queue.clear()
        self._writer.close()

    async def _drain(self) -> None:
        try:
            while self._queue:
                await self._writer.drain()
                while self._queue and self._buffered() < _DIRECT_NBYTES:
                    self._writer.write(self._queue.popleft())
        except OSError:
            pass
        finally:
            self._draining = None

    def _buffered(self) -> int:
        return int(self._writer.transport.get_write_buffer_size())
