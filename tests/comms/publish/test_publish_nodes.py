"""The same over libp2p on loopback: what the publisher uploads, and what is left when it dies."""

import asyncio

import pytest

from tests.comms.publish.scene import RUN, holds, model, moved
from tests.comms.swarm.conftest import world as world  # a fixture
from tests.comms.swarm.world import World
from thinwire.comms.publish.publisher import Publisher
from thinwire.comms.publish.subscriber import Subscriber
from thinwire.comms.swarm.identity import Identity


@pytest.mark.slow
def test_a_publisher_uploads_about_one_copy_to_four_workers_and_may_then_die(world: World) -> None:
    async def scene() -> None:
        identity = Identity.generate()
        first = world.node(identity)
        await first.start()
        nodes = [world.node(initial_peers=first.addresses()) for _ in range(4)]
        await asyncio.gather(*(node.start() for node in nodes))
        publisher = Publisher(first, RUN, identity=identity)
        await publisher.start()
        followers = [Subscriber(node, RUN, publishers=[identity.key], poll_s=0.2, patience_s=20.0) for node in nodes]
        for follower in followers:
            await follower.start()
        weights = model(1_000_000)
        sent, copies = [], []
        for i, by in enumerate([0.0, 1e-4, 1e-6]):
            weights = moved(weights, by, seed=i)
            before = first.sent_nbytes
            manifest = await publisher.publish(weights)
            await asyncio.gather(*(follower.wait_for(i + 1) for follower in followers))
            sent.append((manifest.codec, manifest.nbytes))
            copies.append((first.sent_nbytes - before) / manifest.nbytes)
        print(*zip(sent, copies, strict=True), sep="\n")
        assert all(holds(follower, weights) for follower in followers)
        assert [codec for codec, _ in sent] == ["full", "patch", "patch"]
        assert max(copies) <= 1.5
        await publisher.close()
        await first.close()

        # A joiner gets it from those who have it.
        joining = world.node(initial_peers=[address for node in nodes for address in node.addresses()])
        await joining.start()
        joiner = Subscriber(joining, RUN, publishers=[identity.key], peers=[node.key for node in nodes], poll_s=0.2)
        await joiner.start()
        await joiner.wait_for(3)
        assert holds(joiner, weights)
        for each in [*followers, joiner]:
            await each.close()

    world.runner.run_until_complete(asyncio.wait_for(scene(), 240))
