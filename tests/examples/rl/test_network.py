"""What a process gives to others stays for as long as any part of it needs it."""

from examples.rl.network import Network
from thinwire.comms.swarm.blobs import Blob
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
