"""Who looks on hears everybody that answers, and waits for nobody else."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from thinwire.comms.swarm import watch as module
from thinwire.comms.swarm.memory import MemoryNode, Network
from thinwire.comms.swarm.status import QUESTION, Status, encode
from thinwire.comms.swarm.transport import PeerError
from thinwire.comms.swarm.watch import MOST, Watch

RUN = "my-run"


class World:
    """A network, somebody who looks on, and peers that answer as they are told."""

    def __init__(self) -> None:
        self.net = Network()
        self.visitor = self.net.node(b"v" * 32)
        self.watch = Watch(self.visitor, RUN)

    async def peer(self, number: int, answer: Callable[[bytes, bytes], Awaitable[bytes]] | None = None) -> MemoryNode:
        async def fine(peer: bytes, request: bytes) -> bytes:
            return encode(Status(round=number, applied=number))

        node = self.net.node(key(number))
        await node.start()
        node.serve[QUESTION] = answer or fine
        await node.announce(RUN, b"member")
        return node


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def run(scene: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        world = World()
        await world.visitor.start()
        await scene(world)
        world.watch.close()
        for node in list(world.net.nodes.values()):
            await node.close()

    asyncio.run(asyncio.wait_for(all_of_it(), 60))


async def hangs(peer: bytes, request: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def lies(peer: bytes, request: bytes) -> bytes:
    return b"\xff" * 100


def test_one_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.2)

    async def scene(world: World) -> None:
        await world.peer(1)
        await world.peer(2, hangs)
        await world.peer(3, lies)
        first = await world.watch.look(0.05)
        assert first[key(1)] == Status(round=1, applied=1)
        assert first[key(2)] is None
        assert str(first[key(3)]).startswith("no status")
        found: object = None
        while found is None:
            found = (await world.watch.look(0.1))[key(2)]
        assert found == "does not answer"
        assert world.watch.announced == {key(1), key(2), key(3)}

    run(scene)


def test_who_has_answered_is_asked_on_when_it_is_announced_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)

    async def scene(world: World) -> None:
        await world.peer(1)
        await world.peer(2)
        await world.watch.look(1.0)
        world.net.kill(key(2))
        found = await world.watch.look(1.0)
        assert (key(2) in world.watch.announced, found[key(2)]) == (False, "unreachable")
        monkeypatch.setattr(module, "REMEMBERED_S", -1.0)
        await world.watch.look(1.0)
        assert key(2) not in await world.watch.look(1.0)

    run(scene)


def test_a_search_that_takes_long_holds_up_only_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)

    async def scene(world: World) -> None:
        await world.peer(1)
        await world.watch.look(1.0)

        async def search(run: str) -> dict[bytes, bytes]:
            await asyncio.Event().wait()
            return {}

        monkeypatch.setattr(world.visitor, "lookup", search)
        for _ in range(3):
            assert (await asyncio.wait_for(world.watch.look(5.0), 1.0))[key(1)] == Status(round=1, applied=1)

    run(scene)


def test_a_search_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)

    async def scene(world: World) -> None:
        await world.peer(1)
        search = world.visitor.lookup

        async def fails(run: str) -> dict[bytes, bytes]:
            raise PeerError("unreachable")

        monkeypatch.setattr(world.visitor, "lookup", fails)
        assert await world.watch.look(0.1) == {}
        monkeypatch.setattr(world.visitor, "lookup", search)
        assert list(await world.watch.look(1.0)) == [key(1)]

    run(scene)


def test_of_ten_thousand_announced_some_are_asked_and_those_that_answer_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)

    async def scene(world: World) -> None:
        await world.peer(1)
        await world.watch.look(1.0)
        real = await world.visitor.lookup(RUN)

        async def flooded(run: str) -> dict[bytes, bytes]:
            return real | {key(i): b"member" for i in range(10, 10_010)}

        monkeypatch.setattr(world.visitor, "lookup", flooded)
        await world.watch.look(1.0)
        asked: set[bytes] = set()
        for _ in range(3):
            found = await world.watch.look(1.0)
            assert len(found) <= MOST
            assert found[key(1)] == Status(round=1, applied=1)
            asked |= found.keys()
        assert len(asked) > 2 * MOST  # others every time: nobody is kept out by its key

    run(scene)


def test_whoever_is_new_is_asked_though_there_are_enough_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "MOST", 16)

    async def scene(world: World) -> None:
        for i in range(1, 17):
            await world.peer(i)
        await world.watch.look(1.0)
        await world.peer(100)
        found = await world.watch.look(1.0)
        assert (len(found), found[key(100)]) == (16, Status(round=100, applied=100))

    run(scene)
