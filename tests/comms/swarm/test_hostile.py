"""Peers that break every rule, over real libp2p: each is refused and counted, and an honest pair goes on as if nothing were."""

import asyncio
import hashlib
import os
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import xxhash

from tests.comms.swarm.world import LOOPBACK, Diary, World
from thinwire.comms.swarm import bulk, chunks, dht, fetching, link
from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob
from thinwire.comms.swarm.envelope import run_tag
from thinwire.comms.swarm.hive import hive
from thinwire.comms.swarm.identity import Identity, raw_peer_id_of
from thinwire.comms.swarm.link import HELLO, MAGIC
from thinwire.comms.swarm.node import LINK, Node
from thinwire.comms.swarm.p2pd import Daemon
from thinwire.comms.swarm.records import write_record
from thinwire.comms.swarm.transport import PeerError

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Evil:
    """A p2pd of its own that says to `node` whatever a test wants."""

    def __init__(self, identity: Identity, daemon: Daemon, node: Node) -> None:
        self.identity, self.daemon, self.node = identity, daemon, node
        self.key = identity.key
        self._handlers: dict[str, Handler] = {}

    async def open(self, protocol: str) -> Streams:
        return await self.daemon.open(raw_peer_id_of(self.node.key), protocol)

    async def say(self, protocol: str, *parts: bytes, end: bool = False) -> bytes:
        """Say something, and what came back until the node ended the stream (`end`: until we did)."""
        reader, writer = await self.open(protocol)
        try:
            for part in parts:
                writer.write(part)
            await writer.drain()
            return b"" if end else await asyncio.wait_for(reader.read(-1), 20)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Answer streams from now on with `handler`."""
        known, self._handlers[protocol] = protocol in self._handlers, handler

        async def handle(_: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._handlers[protocol](reader, writer)
            except (EOFError, ConnectionError):
                pass
            finally:
                writer.close()

        if not known:
            await self.daemon.p2p.add_binary_stream_handler(protocol, handle)


class Scene:
    """Honest `a` and `b`, connected, and an evil peer of `a`."""

    a: Node
    b: Node
    evil: Evil

    async def set(self, world: World) -> None:
        self.a, self.b = world.node(), world.node()
        await asyncio.gather(self.a.start(), self.b.start())
        diary = Diary(self.a)
        self.a.connect(self.b.key, self.b.addresses())
        await diary.until("up", self.b.key)
        self.b.on_message = self.b.send
        identity = Identity.generate()
        identity.save(world.folder / "evil")
        daemon = await Daemon.start(world.folder / "evil", LOOPBACK)
        await daemon.dial(raw_peer_id_of(self.a.key), self.a.addresses())
        self.evil = Evil(identity, daemon, self.a)

    async def counted(self, reason: str, since: int) -> None:
        """Wait until a refusal is counted."""
        ends = time.monotonic() + 20
        while self.a.refused[reason] == since:
            assert time.monotonic() < ends, dict(self.a.refused)
            await asyncio.sleep(0.005)

    async def honest(self, limit_s: float = 5.0) -> None:
        """The honest pair works: a message there and back, a blob."""
        diary = Diary(self.a)
        word = os.urandom(8)
        self.a.send(self.b.key, word)
        await asyncio.wait_for(diary.until(self.b.key, word), limit_s)
        assert ("down", self.b.key) not in diary.lines
        blob = Blob.of(word)
        self.b.blobs.put(blob)
        assert await asyncio.wait_for(self.a.fetch(blob.digest, 8, [self.b.key]), limit_s) == word


@pytest.fixture(scope="module")
def scene(world: World) -> Iterator[Scene]:
    made = Scene()
    world.run(made.set(world))
    yield made
    world.run(made.evil.daemon.close())


HI = HELLO.pack(MAGIC, b"evilevil")
DIGEST = hashlib.sha256(b"").digest()


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("bad hello", [b"GET / HTTP/1.1\r\n\r\n"]),
        ("oversized", [HI, struct.pack("<BI", 0, (64 << 10) + 1)]),
        ("oversized", [HI, struct.pack("<BI", 0, 2**32 - 1), bytes(1000)]),
        ("garbage", [HI, struct.pack("<BI", 3, 0)]),
        ("garbage", [HI, struct.pack("<BI", 1, 5), bytes(5)]),
    ],
)
def test_control_streams_that_break_the_rules(world: World, scene: Scene, reason: str, said: list[bytes]) -> None:
    async def play() -> None:
        before = scene.a.refused[reason]
        heard: list[bytes] = []
        scene.a.on_message = lambda peer, message: heard.append(message)
        await scene.evil.say(LINK, *said)
        await scene.counted(reason, before)
        assert heard == []
        assert not scene.a.is_up(scene.evil.key)
        await scene.honest()

    world.run(play())


def test_a_stream_that_ends_within_a_message_is_only_down(world: World, scene: Scene) -> None:
    async def play() -> None:
        diary = Diary(scene.a)
        reader, writer = await scene.evil.open(LINK)
        writer.write(HI + struct.pack("<BI", 0, 5) + b"whole" + struct.pack("<BI", 0, 100) + b"half")
        await reader.readexactly(HELLO.size)  # else the end would be a reset, which may overtake what was said
        writer.close()
        await diary.until("down", scene.evil.key)
        assert diary.lines == [("up", scene.evil.key), (scene.evil.key, b"whole"), ("down", scene.evil.key)]

    world.run(play())


def test_a_stream_without_hello_is_ended(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HELLO_S", 0.1)

    async def play() -> None:
        before = scene.a.refused["no hello"]
        await scene.evil.say(LINK, b"twl")
        await scene.counted("no hello", before)

    world.run(play())


def test_a_flood_is_slowed_down_and_disturbs_nobody(world: World, scene: Scene) -> None:
    async def play() -> None:
        _, writer = await scene.evil.open(LINK)
        writer.write(HI)
        before, heard = scene.a.refused["flood"], scene.a.received_nbytes
        for _ in range(20):
            writer.write((struct.pack("<BI", 0, 8) + b"floodedx") * 1000)
        await scene.counted("flood", before)
        await scene.honest()
        assert scene.a.received_nbytes - heard < 20_000 * 8  # the rest waits on its side
        writer.close()

    world.run(play())


def test_many_streams_of_one_peer(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_PEER_STREAMS", 4)

    async def play() -> None:
        before = scene.a.refused["too many streams"]
        streams = [await scene.evil.open(fetching.FETCH) for _ in range(8)]
        await scene.counted("too many streams", before)
        await scene.honest()
        for _, writer in streams:
            writer.close()

    world.run(play())


def test_two_processes_with_one_key(world: World, scene: Scene) -> None:
    async def play() -> None:
        a, b = scene.a, scene.b
        path = world.folder / b.key.hex()
        twin = await Daemon.start(path, LOOPBACK)
        before = a.refused["key in use"]
        await twin.dial(raw_peer_id_of(a.key), a.addresses())
        _, writer = await twin.open(raw_peer_id_of(a.key), LINK)
        writer.write(HELLO.pack(MAGIC, b"twintwin"))
        await scene.counted("key in use", before)
        writer.close()
        await twin.close()
        assert a.is_up(b.key)

    world.run(play())


def push_head(digest: bytes, nbytes: int, offset: int, length: int) -> bytes:
    return struct.pack("<32sQQQ", digest, nbytes, offset, length)


def chunk(data: bytes, *, nbytes: int | None = None, check: int | None = None) -> bytes:
    return struct.pack("<IQ", len(data) if nbytes is None else nbytes, xxhash.xxh3_64_intdigest(data) if check is None else check) + data


DATA = bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("wrong bytes", [push_head(DIGEST, 1024, 0, 1024), chunk(DATA)]),
        ("wrong bytes", [push_head(DIGEST, 1024, 0, 1024), chunk(DATA, check=1)]),
        ("lies about size", [push_head(DIGEST, 1024, 0, 1024), chunk(DATA + DATA)]),
        ("lies about size", [push_head(DIGEST, 1024, 0, 1024), chunk(DATA, nbytes=2**32 - 1)]),
        ("ended early", [push_head(DIGEST, 1024, 0, 1024), chunk(DATA)[:500]]),
        ("ended early", [push_head(DIGEST, 1024, 0, 1024)[:20]]),
        ("garbage", [push_head(DIGEST, 1024, 0, 2048)]),
        ("garbage", [push_head(DIGEST, 1024, 2**63, 1024)]),
        ("garbage", [push_head(DIGEST, 1024, 1, 1023)]),
        ("garbage", [push_head(DIGEST, 1 << 20, 0, 1000)]),
        ("unwanted blob", [push_head(DIGEST, 2**64 - 1, 0, 2**64 - 1)]),
        ("unwanted blob", [push_head(DIGEST, 1025, 0, 1025), bytes(1025)]),
    ],
)
def test_pushes_that_lie(world: World, scene: Scene, reason: str, said: list[bytes]) -> None:
    async def play() -> None:
        arrived: list[bytes] = []
        scene.a.accept_blob = lambda peer, digest, nbytes: nbytes in (1024, 1 << 20)
        scene.a.on_blob = lambda peer, digest, data: arrived.append(digest)
        before = scene.a.refused[reason]
        await scene.evil.say(bulk.PUSH, *said, end=reason == "ended early")
        await scene.counted(reason, before)
        assert arrived == []
        assert not scene.a._bulk._arrivals
        await scene.honest()

    world.run(play())


def test_a_push_that_stalls_is_forgotten(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "STALL_S", 0.2)

    async def play() -> None:
        scene.a.accept_blob = lambda peer, digest, nbytes: True
        before = scene.a.refused["stalled"]
        await scene.evil.say(bulk.PUSH, push_head(DIGEST, 1024, 0, 1024), chunk(DATA)[:500])
        await scene.counted("stalled", before)
        assert not scene.a._bulk._arrivals

    world.run(play())


def test_questions_and_requests_that_do_not_fit(world: World, scene: Scene) -> None:
    async def play() -> None:
        before = scene.a.refused["oversized"]
        await scene.evil.say(bulk.ASK, b"\4name" + struct.pack("<I", 2**31))
        await scene.counted("oversized", before)
        blob = Blob.of(DATA)
        scene.a.blobs.put(blob)
        for offset, length in ((1024, 1), (0, 2**63), (2**64 - 1, 2)):
            before = scene.a.refused["garbage"]
            await scene.evil.say(fetching.FETCH, struct.pack("<32sQQ", blob.digest, offset, length))
            await scene.counted("garbage", before)
        await scene.honest()

    world.run(play())


async def answer_fetches(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, after: Callable[[int], bytes | None]
) -> None:
    """Serve pieces; `after(n)` is what to say instead of the n-th, None: the truth."""
    n = 0
    while True:
        _, offset, length = struct.unpack("<32sQQ", await reader.readexactly(48))
        lie = after(n)
        n += 1
        if lie is not None:
            writer.write(lie)
            await writer.drain()
            return
        writer.write(struct.pack("<BQ", 0, len(data)))
        for at in range(offset, offset + length, CHUNK_NBYTES):
            writer.write(chunk(data[at : min(at + CHUNK_NBYTES, offset + length)]))
        await writer.drain()


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("another blob", None),
        ("ends", lambda n: b""),
        ("ends within a piece", lambda n: struct.pack("<BQ", 0, 9_000_000) + b"half"),
        ("lies about the size", lambda n: struct.pack("<BQ", 0, 2**63)),
        ("lies about a chunk", lambda n: struct.pack("<BQ", 0, 9_000_000) + chunk(b"x", nbytes=2**31)),
        ("has nothing", lambda n: struct.pack("<BQ", 2, 0)),
    ],
)
def test_a_fetch_goes_on_at_another_holder(world: World, scene: Scene, name: str, after: Callable[[int], bytes | None] | None) -> None:
    async def play() -> None:
        data = os.urandom(9_000_000)
        blob = Blob.of(data)
        scene.b.blobs.put(blob)
        shown = data if after is not None else os.urandom(9_000_000)
        await scene.evil.serve(fetching.FETCH, lambda reader, writer: answer_fetches(reader, writer, shown, after or (lambda n: None)))
        before = scene.a.refused.total()
        assert await scene.a.fetch(blob.digest, len(data), [scene.evil.key, scene.b.key]) == data
        assert scene.a.refused.total() > before
        with pytest.raises(PeerError, match="no holder left"):
            await scene.a.fetch(blob.digest, len(data), [scene.evil.key])
        scene.b.blobs.drop(blob.digest)

    world.run(play())


def test_a_fetch_leaves_a_holder_that_stalls(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "STALL_S", 0.2)

    async def play() -> None:
        blob = Blob.of(os.urandom(5_000_000))
        scene.b.blobs.put(blob)

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(struct.pack("<BQ", 0, 5_000_000) + b"1234")
            await reader.read(-1)

        await scene.evil.serve(fetching.FETCH, stall)
        assert await scene.a.fetch(blob.digest, 5_000_000, [scene.evil.key, scene.b.key]) == blob.data
        assert scene.a.refused["stalled"]

    world.run(play())


def test_a_fetch_does_not_wait_for_a_holder_that_is_silent(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "DOUBT_S", 0.1)
    monkeypatch.setattr(chunks, "STALL_S", 600.0)

    async def play() -> None:
        asked: list[bytes] = []

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.read(1))
            await reader.read(-1)

        await scene.evil.serve(fetching.FETCH, silent)
        for nbytes in (0, 10, 5_000_000):
            blob = Blob.of(os.urandom(nbytes))
            scene.b.blobs.put(blob)
            before = len(asked)
            assert await scene.a.fetch(blob.digest, nbytes, [scene.evil.key, scene.b.key]) == blob.data
            assert (len(asked) > before) == (nbytes > 0)

    world.run(play())


# ---------------------------------------------------------------------- the board


async def evil_dht(scene: Scene) -> Any:
    """A node of hivemind as it comes, which stores and sends anything."""
    return await hive().dht.DHTNode.create(p2p=scene.evil.daemon.p2p, initial_peers=scene.a.addresses(), ensure_bootstrap_success=False)


def test_a_board_full_of_garbage(world: World, scene: Scene) -> None:
    async def play() -> None:
        a, b, evil = scene.a, scene.b, scene.evil
        b.initial_peers = a.addresses()
        await b.announce("run", b"b is here")
        tag, now = run_tag("run"), time.time()
        mine = write_record(evil.identity, tag, b"evil")
        forged = write_record(Identity.generate(), tag, b"forged", now + 5)
        of_b = forged.raw[:28] + b.key + forged.raw[60:]
        nested = b"\x91" * 900
        deep = nested
        for _ in range(20):
            deep = b"\xc9" + struct.pack(">Ib", len(deep), 0x40) + deep
        node = await evil_dht(scene)
        place = hive().routing.DHTID.generate(dht._name(tag, b.key))
        packed = hive().serializer.MSGPackSerializer.dumps

        there = hive().PeerID(raw_peer_id_of(a.key))

        async def store(subkey: object, value: bytes, expiry: float) -> Any:
            return await node.protocol.call_store(there, [place], [value], [expiry], [subkey])

        cases = [
            ("record: malformed", b.key, packed(b"unsigned"), now + 50),
            ("record: malformed", b.key, nested, now + 50),
            ("record: malformed", b.key, deep, now + 50),
            ("record: malformed", None, packed(b"a value without subkeys"), now + 50),
            ("record: too large", b.key, packed(bytes(5000)), now + 50),
            ("record: bad signature", b.key, packed(of_b), forged.expiry),
            ("record: wrong name", b.key, packed(mine.raw), mine.expiry),
            ("record: wrong name", evil.key, packed(mine.raw), mine.expiry + 1),
            ("record: far expiry", evil.key, packed(write_record(evil.identity, tag, b"", now + 3600).raw), now + 3655),
        ]
        for reason, subkey, value, expiry in cases:
            before = a.refused[reason]
            assert await store(subkey, value, expiry) in ([False], [None], None), reason
            assert a.refused[reason] > before, (reason, a.refused)
        dictionary = hive().storage.DictionaryDHTValue()
        for i in range(200):
            dictionary.store(bytes([i]) * 32, packed(b"junk"), now + 40)
        before = a.refused.total()
        await node.protocol.call_store(there, [place], [dictionary], [now + 40])
        assert a.refused.total() > before
        node.protocol.storage.store(place, dictionary, now + 1e9)  # what it tells those who ask
        assert (await a.lookup("run"))[b.key] == b"b is here"
        found = await a._board.get("run")
        assert found[b.key].body == b"b is here"
        await node.shutdown()
        await scene.honest()

    world.run(play())


def test_a_million_announced_peers_do_not_fill_memory(world: World, scene: Scene) -> None:
    """A dictionary as large as hivemind lets it be: few of its entries are looked at, none of the rest is kept."""
    board, now = scene.a._board, time.time()
    dictionary = hive().storage.DictionaryDHTValue()
    record = write_record(scene.evil.identity, run_tag("run"), b"me")
    for i in range(20_000):
        key = i.to_bytes(32, "little")
        dictionary.store(key, board.dumps(record.raw[:28] + key + record.raw[60:]), now + 40)
    data = board.dumps(dictionary)
    assert len(data) > 3 << 20
    before = board.refused["record: too many"]
    assert len(board.loads(data)) <= dht.MAX_READ
    assert board.refused["record: too many"] == before + 20_000 - dht.MAX_READ


def test_stored_records_are_bounded(world: World, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht, "MAX_STORED", 5)
    board, tag = scene.a._board, run_tag("bounded")
    kept = 0
    for _ in range(40):
        record = write_record(Identity.generate(), tag, b"x")
        key_id = dht._key_id(tag, record.key)
        if board.may_store(key_id, board.dumps(record.key), board.dumps(record.raw), record.expiry):
            at = hive().routing.DHTID.from_bytes(key_id)
            board._storage.store_subkey(at, record.key, board.dumps(record.raw), record.expiry)
            kept += 1
    shards = [board._storage.get(hive().routing.DHTID.generate(f"thinwire/{tag.hex()}/{shard}")) for shard in range(16)]
    assert max(len(shard.value) for shard in shards if shard) <= 5
    assert kept == sum(len(shard.value) for shard in shards if shard)
