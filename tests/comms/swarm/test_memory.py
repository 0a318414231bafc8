"""The network inside one process: what members see of each other, and of the faults that tests make."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.memory import MemoryNode, Network
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, PeerError

KEYS = [bytes([i]) * 32 for i in range(1, 5)]


class Diary:
    """What happened at a member, in order, and a way to wait for it."""

    def __init__(self, node: MemoryNode) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self._more = asyncio.Event()
        node.on_up = lambda peer: self.note("up", peer[0])
        node.on_down = lambda peer: self.note("down", peer[0])
        node.on_message = lambda peer, message: self.note(peer[0], message)

    def note(self, *line: Any) -> None:
        self.lines.append(line)
        self._more.set()

    async def until(self, *line: Any) -> None:
        while line not in self.lines:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 10)


async def members(network: Network, n: int) -> tuple[list[MemoryNode], list[Diary]]:
    nodes = [network.node(key) for key in KEYS[:n]]
    diaries = [Diary(node) for node in nodes]
    for node in nodes:
        await node.start()
    return nodes, diaries


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20))


def test_messages_arrive_in_order_also_those_said_before_the_stream_stood() -> None:
    async def scene() -> None:
        (a, b), (_, diary) = await members(Network(delay_s=0.001), 2)
        a.connect(b.key)
        for i in range(50):
            a.send(b.key, b"%d" % i)
        await diary.until(1, b"49")
        assert diary.lines == [("up", 1)] + [(1, b"%d" % i) for i in range(50)]
        b.send(a.key, b"back")  # over the stream that a made
        assert b.sent_nbytes == 4

    run(scene)


def test_a_killed_member_is_seen_down_by_all_and_comes_back_as_a_new_one() -> None:
    async def scene() -> None:
        network = Network()
        (a, b, c), diaries = await members(network, 3)
        a.connect(c.key)
        b.connect(c.key)
        await diaries[2].until("up", 2)
        assert a.process(c.key) == c.nonce
        network.kill(c.key)
        await diaries[0].until("down", 3)
        await diaries[1].until("down", 3)
        assert a.process(c.key) is None
        assert diaries[2].lines == [("up", 1), ("up", 2)]
        again = network.node(c.key)
        diary = Diary(again)
        await again.start()
        await diary.until("up", 1)
        assert a.is_up(c.key)

    run(scene)


def test_a_killed_member_does_nothing_whoever_has_its_key_by_now() -> None:
    async def scene() -> None:
        network = Network()
        (a, b), (_, diary) = await members(network, 2)
        a.connect(b.key)
        await diary.until("up", 1)
        network.kill(a.key)
        a.connect(KEYS[2])  # whom nobody has seen yet
        a.send(b.key, b"from the dead")
        await a.announce("run", b"from the dead")
        with pytest.raises(PeerError, match="unreachable"):
            await a.ask(b.key, "anything", b"")
        again = network.node(a.key)
        await again.start()
        again.connect(b.key)
        a.disconnect(b.key)
        again.send(b.key, b"from the living")
        await diary.until(1, b"from the living")
        assert (1, b"from the dead") not in diary.lines
        assert await again.lookup("run") == {}

    run(scene)


def test_a_silent_cut_loses_and_a_loud_one_ends_streams() -> None:
    async def scene() -> None:
        network = Network()
        (a, b), (first, second) = await members(network, 2)
        a.connect(b.key)
        await first.until("up", 2)
        network.cut(a.key, b.key, one_way=True)
        a.send(b.key, b"lost")
        b.send(a.key, b"heard")
        await first.until(2, b"heard")
        network.join(a.key, b.key)
        a.send(b.key, b"after")
        await second.until(1, b"after")
        assert (1, b"lost") not in second.lines
        network.cut(a.key, b.key, loud=True)
        await first.until("down", 2)
        network.join(a.key, b.key)
        a.send(b.key, b"again")
        await second.until(1, b"again")

    run(scene)


def test_a_frozen_member_gets_everything_when_it_thaws() -> None:
    async def scene() -> None:
        network = Network()
        (a, b), (first, second) = await members(network, 2)
        a.connect(b.key)
        await first.until("up", 2)
        await second.until("up", 1)
        network.freeze(b.key)
        a.send(b.key, b"1")
        network.stall_s = 0.01
        with pytest.raises(PeerError, match="stalled"):
            await a.ask(b.key, "name", b"")
        assert second.lines == [("up", 1)]
        network.thaw(b.key)
        await second.until(1, b"1")
        assert ("down", 2) not in first.lines

    run(scene)


def test_blobs_are_pushed_if_wanted_and_fetched_from_who_is_left() -> None:
    async def scene() -> None:
        network = Network()
        (a, b, c, d), _ = await members(network, 4)
        blob = Blob.of(b"payload" * 1000)
        with pytest.raises(PeerError, match="refused"):
            await a.push(b.key, blob)
        arrived: list[tuple[bytes, bytes]] = []
        for node in (b, c):
            node.accept_blob = lambda peer, digest, nbytes: nbytes == 7000
            node.on_blob = lambda peer, digest, data: arrived.append((peer, data))
            await a.push(node.key, blob)
        assert arrived == [(a.key, blob.data)] * 2
        network.kill(b.key)
        into = bytearray(7000)
        assert await d.fetch(blob.digest, 7000, [b.key, a.key, c.key], memoryview(into)) == b""
        assert bytes(into) == blob.data
        with pytest.raises(PeerError, match="no holder left"):
            await d.fetch(Blob.of(b"other").digest, 5, [b.key, c.key])

    run(scene)


def test_an_ask_that_its_peer_does_not_survive_ends_at_once() -> None:
    async def scene() -> None:
        network = Network(stall_s=100)
        (a, b), _ = await members(network, 2)
        asked = asyncio.Event()

        async def think(peer: bytes, request: bytes) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            return b""

        async def refuse(peer: bytes, request: bytes) -> bytes:
            raise PeerError("refused", "lr differs")

        async def big(peer: bytes, request: bytes) -> bytes:
            return bytes(100)

        b.serve.update(think=think, refuse=refuse, big=big)
        with pytest.raises(PeerError, match="lr differs"):
            await a.ask(b.key, "refuse", b"")
        with pytest.raises(PeerError, match="too large"):
            await a.ask(b.key, "big", b"", limit_nbytes=99)
        asking = asyncio.ensure_future(a.ask(b.key, "think", b""))
        await asked.wait()
        network.kill(b.key)
        with pytest.raises(PeerError, match="ended early"):
            await asking

    run(scene)


def test_limits() -> None:
    async def scene() -> None:
        network = Network()
        (a, b), _ = await members(network, 2)
        with pytest.raises(ValueError, match="65537"):
            a.send(b.key, bytes(MAX_MESSAGE_NBYTES + 1))
        a.send(b.key, b"nobody asked for a stream")
        assert a.refused["not up"] == 1
        with pytest.raises(ValueError, match="record"):
            await a.announce("run", bytes(901))
        await a.announce("run", b"here")
        assert await b.lookup("run") == {a.key: b"here"}
        with pytest.raises(PeerError, match="key in use"):
            await network.node(a.key).start()

    run(scene)


def test_members_in_threads_of_their_own() -> None:
    network = Network(delay_s=0.001)
    heard = threading.Event()

    def member(key: bytes, peer: bytes) -> None:
        async def scene() -> None:
            node = network.node(key)
            diary = Diary(node)
            await node.start()
            node.connect(peer)
            node.send(peer, b"hello")
            await diary.until(peer[0], b"hello")
            barrier.wait(10)
            heard.set()

        run(scene)

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=member, args=pair) for pair in (KEYS[:2], KEYS[1::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert heard.is_set()
