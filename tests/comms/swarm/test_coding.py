"""Blobs that are mostly zeros take little between two nodes; bombs, lies and garbage are refused, counted, and disturb nobody."""

import asyncio
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import xxhash

from tests.comms.swarm.test_hostile import Scene, answer_fetches, push_head
from tests.comms.swarm.world import Diary, World
from thinwire.comms import gaps, lossless
from thinwire.comms.swarm import bulk, coding
from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob, digest_of
from thinwire.comms.swarm.coding import CODED, Coder
from thinwire.comms.swarm.memory import Network


@pytest.fixture(scope="module")
def scene(world: World) -> Iterator[Scene]:
    made = Scene()
    world.run(made.set(world))
    yield made
    world.run(made.evil.daemon.close())


def codes(nbytes: int, share: float = 0.05, seed: int = 0) -> bytes:
    """What int8 behind a gate looks like."""
    random = np.random.default_rng(seed)
    return np.where(random.random(nbytes) < share, random.integers(1, 256, nbytes), 0).astype(np.uint8).tobytes()


@pytest.mark.parametrize("nbytes", [1000, 100_000, CHUNK_NBYTES + 1, 5_000_000])
def test_what_is_mostly_zeros_is_pushed_and_fetched_in_a_tenth(world: World, scene: Scene, nbytes: int) -> None:
    async def play() -> None:
        a, b = scene.a, scene.b
        blob = Blob.of(codes(nbytes, 0.04))
        arrived: list[bytes] = []
        b.accept_blob = lambda peer, digest, size: (digest, size) == (blob.digest, nbytes)
        b.on_blob = lambda peer, digest, data: arrived.append(data)
        sent, saved, received = a.sent_nbytes, a.traffic.saved_nbytes, b.received_nbytes
        await a.push(b.key, blob)
        assert arrived == [blob.data]
        went = a.sent_nbytes - sent
        assert went < nbytes / 8 + 64
        assert went + a.traffic.saved_nbytes - saved == nbytes
        assert b.received_nbytes - received == went
        sent, received = b.sent_nbytes, a.received_nbytes
        assert await a.fetch(blob.digest, nbytes, [b.key]) == blob.data
        assert b.sent_nbytes - sent == a.received_nbytes - received <= went
        b.blobs.drop(blob.digest)

    world.run(play())


def test_what_cannot_be_shortened_goes_as_it_is(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(coding, "promises", lambda data: looks.append(len(data)) or lossless.promises(data))
    monkeypatch.setattr(coding, "shorter", lambda data: pytest.fail("it was not worth the work"))

    async def play() -> None:
        blob = Blob.of(os.urandom(2_000_000))
        scene.b.accept_blob = lambda *_: True
        sent = scene.a.sent_nbytes
        for _ in range(3):
            await scene.a.push(scene.b.key, blob)
            scene.b.blobs.drop(blob.digest)
        assert scene.a.sent_nbytes - sent == 3 * blob.nbytes
        assert looks == [2_000_000]  # once, whatever how many get it

    world.run(play())


def test_a_chunk_is_coded_once_for_all_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = []
    monkeypatch.setattr(coding, "shorter", lambda data: worked.append(len(data)) or lossless.shorter(data))

    async def play() -> None:
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

    asyncio.run(play())


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


@pytest.mark.parametrize("lie", LIES)
def test_coded_chunks_that_lie_are_refused_and_counted(world: World, scene: Scene, lie: str) -> None:
    reason, said = LIES[lie]

    async def play() -> None:
        arrived: list[bytes] = []
        scene.a.accept_blob = lambda *_: True
        scene.a.on_blob = lambda peer, digest, data: arrived.append(digest)
        before = scene.a.refused[reason]
        await scene.evil.say(bulk.PUSH, push_head(digest_of(DATA), len(DATA), 0, len(DATA)), said, end=reason == "ended early")
        await scene.counted(reason, before)
        assert arrived == []
        assert not scene.a._bulk._arrivals
        await scene.honest()

    world.run(play())


@pytest.mark.parametrize("lie", ["a bomb", "cut short", "other bytes"])
def test_a_fetch_goes_on_where_chunks_are_not_coded_lies(world: World, scene: Scene, lie: str) -> None:
    async def play() -> None:
        blob = Blob.of(DATA)
        scene.b.blobs.put(blob)
        said = struct.pack("<BQ", 0, len(DATA)) + LIES[lie][1]
        await scene.evil.serve(bulk.FETCH, lambda reader, writer: answer_fetches(reader, writer, DATA, lambda n: said))
        before = scene.a.refused[LIES[lie][0]]
        assert await scene.a.fetch(blob.digest, len(DATA), [scene.evil.key, scene.b.key]) == DATA
        assert scene.a.refused[LIES[lie][0]] > before
        scene.b.blobs.drop(blob.digest)

    world.run(play())


def test_the_network_of_tests_counts_as_nodes_do() -> None:
    async def play() -> None:
        network = Network()
        a, b = network.node(b"a" * 32), network.node(b"b" * 32)
        diary = Diary(a)
        await a.start()
        await b.start()
        a.connect(b.key)
        await diary.until("up", b.key)
        blob = Blob.of(codes(1_200_000))
        b.accept_blob = lambda *_: True
        await a.push(b.key, blob)
        assert a.sent_nbytes == b.received_nbytes < blob.nbytes / 6
        assert a.sent_nbytes + a.traffic.saved_nbytes == blob.nbytes
        assert await a.fetch(blob.digest, blob.nbytes, [b.key]) == blob.data
        assert b.sent_nbytes == a.received_nbytes == a.sent_nbytes

    asyncio.run(play())
