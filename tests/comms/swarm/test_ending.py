"""What is to end, ends: also what has just got what it waited for, and swallows the first cancellation."""

import asyncio
import socket
from collections import Counter
from pathlib import Path

import pytest

from tests.comms.swarm.world import LOOPBACK
from thinwire.comms.swarm import ending
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.node import Node
from thinwire.comms.swarm.p2pd import Daemon
from thinwire.comms.swarm.streams import Peers, Streams

PATIENCE_S = 10.0


async def swallows(times: int) -> None:
    while times:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            times -= 1


async def fails() -> None:
    raise ValueError("of no interest")


def test_tasks_are_cancelled_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_AGAIN_S", 0.05)

    async def scene() -> None:
        tasks = [asyncio.ensure_future(task) for task in (swallows(0), swallows(1), swallows(2), fails(), asyncio.sleep(60))]
        await asyncio.sleep(0)
        await asyncio.wait_for(end(tasks), PATIENCE_S)
        assert all(task.done() for task in tasks)
        await end(tasks)
        await end([])

    asyncio.run(scene())


def test_dialling_ends_when_a_dial_succeeds_in_the_moment_of_the_end() -> None:
    async def scene() -> None:
        answered: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()
        dials = 0

        async def dial(peer: bytes, addresses: tuple[str, ...]) -> Streams:
            nonlocal dials
            dials += 1
            return await asyncio.wait_for(asyncio.shield(answered), 60)

        peers = Peers(b"m" * 32, b"n" * 8, dial, Counter())
        peers.connect(b"p" * 32, ())
        while not dials:
            await asyncio.sleep(0)
        here, there = socket.socketpair()  # nothing ever comes from there
        streams = await asyncio.open_connection(sock=here)
        answered.set_result(streams)
        await asyncio.sleep(0)  # `wait_for` has its result and has not told it: before Python 3.12 it swallows what comes now
        await asyncio.wait_for(peers.close(), PATIENCE_S)
        assert dials == 1
        streams[1].close()
        there.close()

    asyncio.run(scene())


def test_a_node_that_is_given_up_on_while_it_closes_leaves_no_p2pd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_AGAIN_S", 60.0)  # however long p2pd takes to end

    async def scene() -> None:
        Identity.generate().save(tmp_path / "key")
        node = Node(tmp_path / "key", options=LOOPBACK)
        await node.start()
        daemon = node._daemon
        assert isinstance(daemon, Daemon)
        began = asyncio.Event()

        async def never() -> None:
            began.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(node._peers, "close", never)
        closing = asyncio.ensure_future(node.close())
        await began.wait()
        await end([closing])
        assert daemon.ended.done()
        await node._board.detach()

    asyncio.run(asyncio.wait_for(scene(), 60))
