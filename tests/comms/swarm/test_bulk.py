"""A fetch with holders that answer as they are told: who does not answer for a while is not waited for, and may still give it."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import xxhash

from thinwire.comms.swarm import chunks, fetching
from thinwire.comms.swarm.blobs import Blob, BlobStore
from thinwire.comms.swarm.bulk import Bulk
from thinwire.comms.swarm.transport import Key, PeerError, Traffic

A, B, C = (bytes([i]) * 32 for i in range(3))
BLOB = Blob.of(bytes(range(256)) * 400)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Holder = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Scene:
    """A node whose streams end at holders that are made up."""

    def __init__(self, holders: dict[Key, Holder]) -> None:
        self.holders, self.opened = holders, list[Key]()
        self.tasks: list[asyncio.Future[None]] = []
        self.ends: list[socket.socket] = []
        self.traffic = Traffic()
        self.bulk = Bulk(self._open, BlobStore(), {}, self.traffic)

    async def _open(self, peer: Key, protocol: str) -> Streams:
        self.opened.append(peer)
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=there)
        self.tasks.append(asyncio.ensure_future(self._serve(peer, reader, writer)))
        return await asyncio.open_connection(sock=here)

    async def _serve(self, peer: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.holders[peer](reader, writer)
            await reader.read(-1)
        except (ConnectionError, EOFError):
            pass
        finally:
            writer.close()

    async def fetch(self, *holders: Key) -> bytes:
        return await self.bulk.fetch(BLOB.digest, BLOB.nbytes, holders, None)


def play(holders: dict[Key, Holder], scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        made = Scene(holders)
        await scene(made)
        await asyncio.gather(*made.tasks)

    asyncio.run(asyncio.wait_for(all_of_it(), 30))


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def gives(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = BLOB.data) -> None:
    await reader.readexactly(48)
    writer.write(struct.pack("<BQ", 0, len(data)) + struct.pack("<IQ", len(data), xxhash.xxh3_64_intdigest(data)) + data)


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "DOUBT_S", 0.05)
    monkeypatch.setattr(chunks, "STALL_S", 600.0)


def test_who_is_silent_is_not_waited_for() -> None:
    async def scene(it: Scene) -> None:
        assert await it.fetch(A, B, C) == BLOB.data
        assert it.opened == [A, B, C]

    play({A: silent, B: silent, C: gives}, scene)


def test_who_answers_in_time_is_the_only_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "DOUBT_S", 600.0)

    async def scene(it: Scene) -> None:
        assert await it.fetch(A, B) == BLOB.data
        assert it.opened == [A]
        assert it.traffic.received_nbytes == BLOB.nbytes

    play({A: gives, B: silent}, scene)


def test_who_was_doubted_may_still_give_it() -> None:
    doubted = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await doubted.wait()
        await gives(reader, writer)

    async def second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        doubted.set()
        await silent(reader, writer)

    async def scene(it: Scene) -> None:
        assert await it.fetch(A, B) == BLOB.data
        assert it.opened == [A, B]

    play({A: late, B: second}, scene)


def test_wrong_bytes_do_not_count_where_another_was_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "STALL_S", 0.1)  # each is then asked alone

    async def lies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gives(reader, writer, bytes(BLOB.nbytes))

    async def scene(it: Scene) -> None:
        assert await it.fetch(A, B, C) == BLOB.data
        assert it.traffic.refused["wrong bytes"] >= 1

    play({A: silent, B: lies, C: gives}, scene)


def test_the_only_holder_is_asked_once_however_long_it_takes() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(4 * fetching.DOUBT_S)
        await gives(reader, writer)

    async def scene(it: Scene) -> None:
        assert await it.fetch(A) == BLOB.data
        assert it.opened == [A]

    play({A: slow}, scene)


def test_where_nobody_answers_the_fetch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "STALL_S", 0.1)

    async def scene(it: Scene) -> None:
        with pytest.raises(PeerError, match="stalled"):
            await it.fetch(A, B)

    play({A: silent, B: silent}, scene)
