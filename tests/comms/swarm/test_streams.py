"""Whom a node keeps a stream to: where it dials, and when again."""

import asyncio
from collections import Counter

import pytest

from thinwire.comms.swarm import streams as module
from thinwire.comms.swarm.streams import Peers, Streams
from thinwire.comms.swarm.transport import PeerError

PEER, OLD, NEW = b"p" * 32, ("/ip4/127.0.0.1/tcp/1",), ("/ip4/127.0.0.1/tcp/2",)


def test_one_that_has_moved_is_dialled_at_once_where_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 3600.0)

    async def scene() -> None:
        dialled: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

        async def dial(peer: bytes, addresses: tuple[str, ...]) -> Streams:
            dialled.put_nowait(addresses)
            raise PeerError("unreachable")

        peers = Peers(b"m" * 32, b"n" * 8, dial, Counter())
        peers.connect(PEER, OLD)
        assert await dialled.get() == OLD
        peers.connect(PEER, OLD)  # nothing new
        peers.connect(PEER, ())
        for _ in range(10):
            await asyncio.sleep(0)
        assert dialled.empty()
        peers.connect(PEER, NEW)
        assert await dialled.get() == NEW
        await peers.close()

    asyncio.run(asyncio.wait_for(scene(), 30))
