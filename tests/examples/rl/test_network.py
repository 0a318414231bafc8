"""What a process gives to others stays for as long as any part of it needs it, and it knows where the others are."""

import pytest

from examples.rl import network as module
from examples.rl.network import Network
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.board import write_notice
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.memory import Network as Memory


def test_what_two_parts_hold_goes_when_both_have_released_it() -> None:
    memory = Memory()
    network = Network("run", "trainer", identity=Identity.generate(), transport=lambda identity: memory.node(identity.key))
    blob = Blob.of(b"a group that is on the docket, and shared")
    network.hold(blob)
    network.hold(blob)
    network.release(blob.digest)
    assert blob.digest in network.transport.blobs
    network.release(blob.digest)
    assert blob.digest not in network.transport.blobs
    network.loop.close()


def test_one_that_was_started_again_is_looked_for_where_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, trainer = Memory(), Identity.generate()
    network = Network("run", "worker", identity=Identity.generate(), transport=lambda identity: memory.node(identity.key))
    told: list[tuple[bytes, tuple[str, ...]]] = []
    monkeypatch.setattr(network.transport, "connect", lambda peer, addresses: told.append((peer, tuple(addresses))))
    for address in ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"):

        async def lookup(board: str, address: str = address) -> dict[bytes, bytes]:
            return {trainer.key: write_notice("trainer", [address])}

        monkeypatch.setattr(network.transport, "lookup", lookup)
        network.loop.submit(network._look()).result(10)
    assert told == [(trainer.key, ("/ip4/127.0.0.1/tcp/1",)), (trainer.key, ("/ip4/127.0.0.1/tcp/2",))]
    network.loop.close()


def test_more_peers_than_a_process_minds_are_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    memory, keys = Memory(), [Identity.generate().key for _ in range(4)]
    network = Network("run", "worker", identity=Identity.generate(), transport=lambda identity: memory.node(identity.key))
    told: list[bytes] = []
    monkeypatch.setattr(network.transport, "connect", lambda peer, addresses: told.append(peer))
    for some in (keys[:2], keys[2:], keys[2:]):

        async def lookup(board: str, some: list[bytes] = some) -> dict[bytes, bytes]:
            return {key: write_notice("worker", []) for key in some}

        monkeypatch.setattr(network.transport, "lookup", lookup)
        network.loop.submit(network._look()).result(10)
    assert told == keys[:2]
    network.loop.close()
