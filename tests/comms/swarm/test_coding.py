"""Blobs that are mostly zeros take little between two nodes; bombs, lies and garbage are refused, counted, and disturb nobody."""

import asyncio
import os
import struct
import zlib
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import xxhash

from thinwire.comms import gaps, lossless
from thinwire.comms.swarm import bulk, chunks, coding
from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob, BlobStore, digest_of
from thinwire.comms.swarm.bulk import Bulk
from thinwire.comms.swarm.chunks import Streams
from thinwire.comms.swarm.coding import CODED, Coder
from thinwire.comms.swarm.memory import Network
from thinwire.comms.swarm.transport import PeerError, Traffic

A, B, EVIL = (letter * 32 for letter in (b"a", b"b", b"e"))
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Pair:
    """The bulk streams of two members and of an evil third, over plain sockets; those of `evil` do what `says` does."""

    says: Talk

    async def __aenter__(self) -> "Pair":
        self.ports: dict[bytes, int] = {}
        self.servers = []
        self.traffic = {key: Traffic() for key in (A, B)}
        self.stores = {key: BlobStore() for key in (A, B)}
        self.bulks = {key: Bulk(self._opens(key), self.stores[key], {}, self.traffic[key]) for key in (A, B)}
        for key in (A, B, EVIL):
            server = await asyncio.start_server(self._welcomes(key), "127.0.0.1", 0)
            self.ports[key] = server.sockets[0].getsockname()[1]
            self.servers.append(server)
        for made in self.bulks.values():
            made.accept = lambda peer, digest, nbytes: True
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self.servers:
            server.close()
            await server.wait_closed()

    def _opens(self, key: bytes) -> Callable[[bytes, str], Awaitable[Streams]]:
        async def open_(peer: bytes, protocol: str) -> Streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[peer])
            writer.write(key + protocol.encode() + b"\n")
            return reader, writer

        return open_

    def _welcomes(self, key: bytes) -> Talk:
        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                peer, protocol = await reader.readexactly(32), (await reader.readline()).decode().strip()
                if key == EVIL:
                    await self.says(reader, writer)
                else:
                    await self.bulks[key].welcome(protocol, peer, reader, writer)
            except PeerError as error:
                self.traffic[key].refused[error.reason] += 1
            except (EOFError, ConnectionError):
                pass
            finally:
                writer.close()

        return welcome

    async def say(self, *said: bytes) -> None:
        """What the evil one pushes to `a`, until that hangs up."""
        reader, writer = await self._opens(EVIL)(A, bulk.PUSH)
        for part in said:
            writer.write(part)
        writer.write_eof()
        try:
            await reader.read(-1)
        except ConnectionError:
            pass
        writer.close()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "STALL_S", 60.0)  # nothing here is about time


def play(scene: Callable[[Pair], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Pair() as pair:
            await asyncio.wait_for(scene(pair), 300)

    asyncio.run(run())


def codes(nbytes: int, share: float = 0.05, seed: int = 0) -> bytes:
    """What int8 behind a gate looks like."""
    random = np.random.default_rng(seed)
    return np.where(random.random(nbytes) < share, random.integers(1, 256, nbytes), 0).astype(np.uint8).tobytes()


@pytest.mark.parametrize("nbytes", [1000, 100_000, CHUNK_NBYTES + 1, 5_000_000])
def test_what_is_mostly_zeros_is_pushed_and_fetched_in_an_eighth(nbytes: int) -> None:
    async def scene(pair: Pair) -> None:
        a, b = pair.traffic[A], pair.traffic[B]
        blob = Blob.of(codes(nbytes, 0.04))
        arrived: list[bytes] = []
        pair.bulks[B].on_blob = lambda peer, digest, data: arrived.append(data)
        await pair.bulks[A].push(B, blob)
        assert arrived == [blob.data]
        assert a.sent_nbytes == b.received_nbytes < nbytes / 8 + 64
        assert a.sent_nbytes + a.saved_nbytes == nbytes
        assert await pair.bulks[A].fetch(blob.digest, nbytes, [B], None) == blob.data
        assert b.sent_nbytes == a.received_nbytes < nbytes / 8 + 64
        assert not a.refused.total() + b.refused.total()

    play(scene)


def test_what_cannot_be_shortened_goes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look(data: bytes) -> bool:
        looks.append(len(data))
        return lossless.promises(data)

    monkeypatch.setattr(coding, "promises", look)
    monkeypatch.setattr(coding, "shorter", lambda data: pytest.fail("it was not worth the work"))

    async def scene(pair: Pair) -> None:
        blob = Blob.of(os.urandom(2_000_000))
        for _ in range(3):
            await pair.bulks[A].push(B, blob)
            pair.stores[B].drop(blob.digest)
        assert pair.traffic[A].sent_nbytes == 3 * blob.nbytes
        assert looks == [2_000_000]  # once, however many get it

    play(scene)


def test_a_chunk_is_coded_once_for_all_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[int] = []

    def work(data: bytes) -> bytes | None:
        worked.append(len(data))
        return lossless.shorter(data)

    monkeypatch.setattr(coding, "shorter", work)

    async def scene() -> None:
        coder, blob = Coder(), Blob.of(codes(2 * CHUNK_NBYTES + 9))
        places = [(at, min(CHUNK_NBYTES, blob.nbytes - at)) for at in range(0, blob.nbytes, CHUNK_NBYTES)]
        all_of_them = [await asyncio.gather(*(coder.chunk(blob, *place) for place in places)) for _ in range(5)]
        assert all(each == all_of_them[0] for each in all_of_them)
        for place, coded in zip(places[:2], all_of_them[0], strict=False):
            assert coded is not None
            assert lossless.restored(coded, place[1]).tobytes() == blob.data[place[0] : place[0] + place[1]]
        assert len(worked) == 3
        for i in range(coding.KEPT_CHUNKS):
            await coder.chunk(Blob.of(codes(300, seed=i + 1)), 0, 300)
        assert len(coder._chunks) == coding.KEPT_CHUNKS

    asyncio.run(scene())


def coded_chunk(coded: bytes, check: int = 0, *, nbytes: int | None = None) -> bytes:
    return struct.pack("<IQ", (len(coded) if nbytes is None else nbytes) | CODED, check) + coded


def bomb(nbytes: int) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = coder.compress(bytes(nbytes)) + coder.flush()
    return b"\0" + struct.pack("<I", len(coded) | 1 << 31) + coded


DATA = codes(1 << 20)
HALF = DATA[:CHUNK_NBYTES]
CHECK = xxhash.xxh3_64_intdigest(HALF)
GOOD = lossless.shorter(HALF) or b""
LIES = {
    "a bomb": ("bad coding", coded_chunk(bomb(50_000_000))),
    "a bomb in gaps": ("bad coding", coded_chunk(b"\1" + gaps.write(np.array([1]), CHUNK_NBYTES) + bomb(50_000_000)[1:])),
    "too little": ("bad coding", coded_chunk(bomb(CHUNK_NBYTES - 1))),
    "garbage": ("bad coding", coded_chunk(os.urandom(1000))),
    "nothing": ("bad coding", coded_chunk(b"")),
    "cut short": ("bad coding", coded_chunk(GOOD[:-7], CHECK)),
    "something behind": ("bad coding", coded_chunk(GOOD + b"x", CHECK)),
    "other bytes": ("wrong bytes", coded_chunk(bomb(CHUNK_NBYTES), CHECK)),
    "as long as before": ("lies about size", coded_chunk(bytes(CHUNK_NBYTES), CHECK)),
    "gigabytes": ("lies about size", coded_chunk(b"", nbytes=2**31 - 1)),
    "the end": ("ended early", coded_chunk(GOOD, CHECK)[:200]),
}


def head(data: bytes) -> bytes:
    return struct.pack("<32sQQQ", digest_of(data), len(data), 0, len(data))


@pytest.mark.parametrize("lie", LIES)
def test_coded_chunks_that_lie_are_refused_and_counted(lie: str) -> None:
    reason, said = LIES[lie]

    async def scene(pair: Pair) -> None:
        arrived: list[bytes] = []
        pair.bulks[A].on_blob = lambda peer, digest, data: arrived.append(data)
        await pair.say(head(DATA), said)
        while not pair.traffic[A].refused.total():
            await asyncio.sleep(0.001)
        assert dict(pair.traffic[A].refused) == {reason: 1}
        assert arrived == []
        assert not pair.bulks[A]._arrivals
        blob = Blob.of(DATA)
        await pair.bulks[B].push(A, blob)  # the very blob, from an honest member
        assert arrived == [DATA]

    play(scene)


@pytest.mark.parametrize("lie", ["a bomb", "cut short", "other bytes"])
def test_a_fetch_goes_on_where_nobody_lies(lie: str) -> None:
    reason, said = LIES[lie]

    async def scene(pair: Pair) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(48)
            writer.write(struct.pack("<BQ", 0, len(DATA)) + said)
            await writer.drain()

        pair.says = says
        pair.stores[B].put(Blob.of(DATA))
        assert await pair.bulks[A].fetch(digest_of(DATA), len(DATA), [EVIL, B], None) == DATA
        assert pair.traffic[A].refused[reason] == 1

    play(scene)


def test_the_network_of_tests_counts_as_nodes_do() -> None:
    async def scene() -> None:
        network = Network(stall_s=60.0)
        a, b = network.node(A), network.node(B)
        up = asyncio.Event()
        a.on_up = lambda peer: up.set()
        await a.start()
        await b.start()
        a.connect(B)
        await asyncio.wait_for(up.wait(), 60)
        blob = Blob.of(codes(1_200_000))
        b.accept_blob = lambda *_: True
        await a.push(B, blob)
        assert a.sent_nbytes == b.received_nbytes < blob.nbytes / 6
        assert a.sent_nbytes + a.traffic.saved_nbytes == blob.nbytes
        assert await a.fetch(blob.digest, blob.nbytes, [B]) == blob.data
        assert b.sent_nbytes == a.received_nbytes == a.sent_nbytes

    asyncio.run(scene())
