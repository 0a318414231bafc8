"""Chunks of blobs on their way: shorter where that pays, decided by the sender alone, blob by blob.

A blob keeps its name (the sha256 of what it holds) and every length and place in it; only what a chunk takes between two members changes.
So any holder may send any part, coded or not, and who receives knows the size of a chunk before it inflates a byte.

A sample of each blob says once whether it is worth the work. What is coded is kept for the other peers that the same blob goes to.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeVar

from thinwire.comms.lossless import promises, restored, shorter
from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob
from thinwire.comms.swarm.transport import PeerError
from thinwire.comms.wire import WireError

T = TypeVar("T")

CODED = 1 << 31  # of the length before a chunk
KEPT_CHUNKS = 128  # 64 MiB at most
KEPT_VERDICTS = 4096
_SLOW_NBYTES = 64 << 10  # above, coding leaves the event loop alone (about 10 ms for a whole chunk)


class Coder:
    """What one member sends, coded once."""

    def __init__(self) -> None:
        self._promising: OrderedDict[bytes, bool] = OrderedDict()
        self._chunks: OrderedDict[tuple[bytes, int, int], asyncio.Future[bytes | None]] = OrderedDict()

    async def chunk(self, blob: Blob, at: int, size: int) -> bytes | None:
        """The coded form of the `size` bytes from `at` on, or None when they go as they are."""
        if not self._is_promising(blob):
            return None
        key = (blob.digest, at, size)
        coded = self._chunks.get(key)
        if coded is None:
            data = memoryview(blob.data)[at : at + size]
            coded = self._chunks[key] = _aside(lambda: shorter(data), size)
            while len(self._chunks) > KEPT_CHUNKS:
                self._chunks.popitem(last=False)
        return await asyncio.shield(coded)  # others wait for it too

    def _is_promising(self, blob: Blob) -> bool:
        known = self._promising.get(blob.digest)
        if known is None:
            known = self._promising[blob.digest] = promises(blob.data)
            while len(self._promising) > KEPT_VERDICTS:
                self._promising.popitem(last=False)
        return known


async def decoded(coded: memoryview, into: memoryview) -> None:
    """Write the chunk that was coded into its place; never inflates more than fits. Raises `PeerError` for anything else."""
    try:
        into[:] = await _aside(lambda: restored(coded, len(into)).data, len(into))
    except WireError as error:
        raise PeerError("bad coding", str(error)) from None


def _aside(work: Callable[[], T], nbytes: int) -> "asyncio.Future[T]":
    """What `work` gives: of many bytes in a thread, so that others are served meanwhile."""
    loop = asyncio.get_running_loop()
    if nbytes > _SLOW_NBYTES:
        return loop.run_in_executor(None, work)
    done: asyncio.Future[T] = loop.create_future()
    try:
        done.set_result(work())
    except WireError as error:
        done.set_exception(error)
    return done


def travelled(blob: Blob) -> tuple[bytes, int]:
    """The bytes of a blob after the way through a coder and back, and how many were under way: for a network inside one process."""
    if not promises(blob.data):
        return bytes(blob.data), blob.nbytes
    arrived, nbytes = bytearray(), 0
    for data in _chunks(memoryview(blob.data)):
        coded = shorter(data)
        arrived += data if coded is None else restored(coded, len(data)).tobytes()
        nbytes += len(data if coded is None else coded)
    return bytes(arrived), nbytes


def _chunks(data: memoryview) -> Iterator[memoryview]:
    return (data[at : at + CHUNK_NBYTES] for at in range(0, len(data), CHUNK_NBYTES))
