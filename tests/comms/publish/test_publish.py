"""Versions from a publisher to subscribers: exact, in small steps, from whoever has them, and never half of one."""

import asyncio
from collections import Counter

import pytest
import torch

from tests.comms.publish.scene import RUN, Cast, holds, model, moved, play
from thinwire.comms.publish.desk import named
from thinwire.comms.publish.publisher import Publisher
from thinwire.comms.publish.questions import CHUNKS, Want, pack, to_bits
from thinwire.comms.publish.subscriber import Subscriber
from thinwire.comms.publish.thread import PublisherThread, SubscriberThread
from thinwire.comms.publish.weights import sha256_of, snapshot
from thinwire.comms.swarm.blobs import Blob, BlobStore
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.loop import LoopThread
from thinwire.comms.swarm.memory import Network


def test_fifty_chained_patches_and_a_late_joiner_are_equal_bit_for_bit() -> None:
    async def scene() -> None:
        cast = Cast(full_every=100)
        publisher = await cast.publish_from_here()
        early = await cast.join()
        weights = model()
        for i in range(51):
            weights = moved(weights, seed=i)
            manifest = await publisher.publish(weights)
            assert manifest.codec == ("full" if i == 0 else "patch")
            assert await early.update() == i + 1
            assert holds(early, weights)
        late = await cast.join()
        assert await late.update() == 51
        assert holds(late, weights)
        assert holds(publisher, weights)
        assert not late.refused + early.refused
        await cast.end()

    play(scene)


def test_a_full_version_comes_often_enough_and_old_ones_go_while_no_chain_breaks() -> None:
    async def scene() -> None:
        cast = Cast(full_every=4, keep=2)
        publisher = await cast.publish_from_here()
        weights, codecs = model(), ""
        for i in range(12):
            weights = moved(weights, seed=i)
            codecs += (await publisher.publish(weights)).codec[0]
            joiner = await cast.join(peers=())
            assert await joiner.update() == i + 1
            assert holds(joiner, weights)
            await joiner.close()  # so that the next one has nobody but the publisher
            assert len(publisher._shelf) <= 5  # the newest two, and the chain of the one before a full one
        assert codecs == "fppp" * 3
        await cast.end()
        assert len(cast.node.blobs) == 0

    play(scene)


def test_a_step_as_large_as_the_weights_and_another_model_are_published_full() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        for i, weights in enumerate([model(), model(seed=1), model(5000), {"other": torch.ones(3)}]):
            manifest = await publisher.publish(weights)
            assert manifest.codec == "full"
            assert manifest.parent is None
            assert await follower.update() == i + 1
            assert holds(follower, weights)
        await cast.end()

    play(scene)


def test_lossy_steps_leave_everybody_with_the_same_weights_near_those_given() -> None:
    async def scene() -> None:
        cast = Cast(lossy=True)
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        weights, codecs = model(), Counter[str]()
        for i in range(10):
            weights = moved(weights, by=2e-3, seed=i)
            codecs[(await publisher.publish(weights)).codec] += 1
            await follower.update()
            held = publisher.weights()
            assert held is not None
            assert holds(follower, held[1])
            for name, tensor in held[1].items():
                assert torch.allclose(tensor.float(), weights[name], rtol=2**-8, atol=2e-3 * 6 / 127)
        assert codecs == {"full": 1, "delta": 9}
        await cast.end()

    play(scene)


def test_what_is_published_is_what_the_weights_were_at_the_call() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        layer = torch.nn.Linear(20, 20)
        before = {name: p.detach().clone() for name, p in layer.named_parameters()}
        publishing = asyncio.ensure_future(publisher.publish(layer.named_parameters(), extra={"temperature": 1.0, "exp": [38, 10, 8]}))
        await asyncio.sleep(0)
        with torch.no_grad():
            layer.weight.zero_()
        await publishing
        await follower.update()
        assert holds(follower, before)
        assert follower.manifest is not None
        assert follower.manifest.extra == {"temperature": 1.0, "exp": [38, 10, 8]}
        assert [(spec.name, spec.dtype) for spec in follower.manifest.tensors] == [("bias", "float32"), ("weight", "float32")]
        held = follower.weights()
        assert held is not None
        held[1]["weight"].zero_()  # the caller's own
        assert holds(follower, before)
        await cast.end()

    play(scene)


def test_followers_keep_up_by_notices() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        followers = [await cast.join(follow=True, poll_s=3600.0) for _ in range(3)]
        weights = model()
        await publisher.publish(weights)
        for follower in followers:  # they had asked before there was anything
            follower._news.set()
        for i in range(3):
            await asyncio.gather(*(follower.wait_for(i + 1) for follower in followers))
            weights = moved(weights, seed=i)
            await publisher.publish(weights)
        assert [await follower.wait_for(4) for follower in followers] == [4, 4, 4]
        assert all(holds(follower, weights) for follower in followers)
        await cast.end()

    play(scene)


def test_four_followers_cost_the_publisher_one_copy() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        followers = [await cast.join(patience_s=20.0) for _ in range(4)]
        for i, weights in enumerate([model(2_000_000), model(400_000), model(5000)]):
            before = cast.node.sent_nbytes
            manifest = await publisher.publish(weights)
            assert await asyncio.gather(*(follower.update() for follower in followers)) == [i + 1] * 4
            assert all(holds(follower, weights) for follower in followers)
            sent = cast.node.sent_nbytes - before
            assert sent <= 1.5 * manifest.nbytes
        assert not sum((follower.refused for follower in followers), Counter())
        await cast.end()

    play(scene)


def test_a_publisher_killed_in_the_middle_leaves_the_old_version_or_the_whole_new_one() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        followers = [await cast.join() for _ in range(3)]
        old, new = model(400_000), model(400_000, seed=1)
        await publisher.publish(old)
        await asyncio.gather(*(follower.update() for follower in followers))
        manifest = await publisher.publish(new)
        digests = [chunk.digest for chunk in manifest.chunks]
        cast.node.blobs.drop(digests[-1])  # the last chunk never leaves
        publisher._shelf.serve = publisher._shelf.get  # type: ignore[method-assign]
        updates = [asyncio.ensure_future(follower.update()) for follower in followers]
        while sum(digest in node.blobs for digest in digests for node in cast.nodes) < 2 * len(digests):
            await asyncio.sleep(0.001)
            assert {follower.version for follower in followers} == {1}
        cast.network.kill(cast.node.key)
        assert await asyncio.gather(*updates) == [1, 1, 1]
        assert all(holds(follower, old) for follower in followers)
        assert all(follower.refused["no holder left"] == 1 for follower in followers)

        # What has come stays: with the missing chunk in anybody's hands all go on, without the publisher.
        assert publisher._held is not None
        last = publisher._shelf.get(publisher._held.signed.digest)
        entry = followers[0]._shelf.get(publisher._held.signed.digest)
        assert last is not None
        assert entry is not None
        followers[0]._shelf.put(entry, len(digests) - 1, last.blobs[len(digests) - 1])
        assert await asyncio.gather(*(follower.update() for follower in followers)) == [2, 2, 2]
        assert all(holds(follower, new) for follower in followers)
        await cast.end()

    play(scene)


def test_a_joiner_is_served_by_followers_when_the_publisher_is_gone() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        weights = model()
        for i in range(5):
            weights = moved(weights, seed=i)
            await publisher.publish(weights)
            await follower.update()
        cast.network.kill(cast.node.key)
        joiner = await cast.join()
        assert await joiner.update() == 5
        assert holds(joiner, weights)
        await cast.end()

    play(scene)


def test_a_flipped_byte_is_refused_and_fetched_again_from_another_holder() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        first, second = await cast.join(), await cast.join()
        weights = model(100_000)
        manifest = await publisher.publish(weights)
        await first.update()
        for chunk in manifest.chunks[::2]:
            blob = cast.nodes[0].blobs.get(chunk.digest)
            assert blob is not None
            damaged = bytearray(blob.data)
            damaged[len(damaged) // 2] ^= 1
            cast.nodes[0].blobs.put(Blob(chunk.digest, bytes(damaged)))
        assert await second.update() == 1
        assert holds(second, weights)
        assert cast.nodes[1].refused["wrong bytes"] == len(manifest.chunks[::2])
        await cast.end()

    play(scene)


@pytest.mark.parametrize("lie", ["says it has everything", "takes grants and nothing else"])
def test_one_that_lies_about_its_chunks_only_costs_time(lie: str) -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        liar = cast.network.node(bytes([99]) * 32)
        await liar.start()
        weights = model(20_000)
        manifest = await publisher.publish(weights)
        assert publisher._held is not None
        have = to_bits((1 << len(manifest.chunks)) - 1 if lie.startswith("says") else 0, len(manifest.chunks))
        await liar.ask(cast.node.key, named(CHUNKS, RUN), pack(Want(publisher._held.signed.digest, have)))
        follower = await cast.join()
        assert await follower.update() == 1
        assert holds(follower, weights)
        await liar.close()
        await cast.end()

    play(scene)


def test_a_store_that_is_too_small_is_told_before_anything_is_published() -> None:
    async def scene() -> None:
        network, identity = Network(), Identity.generate()
        node = network.node(identity.key, store=BlobStore(6000))
        await node.start()
        publisher = Publisher(node, RUN, identity=identity)
        await publisher.publish(model(1000))
        with pytest.raises(ValueError, match="larger BlobStore"):
            await publisher.publish(model(9000))
        assert publisher.manifest is not None
        assert publisher.manifest.version == 1

    play(scene)


def test_what_a_store_has_dropped_is_put_back_when_it_is_asked_for() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        manifest = await publisher.publish(model())
        for chunk in manifest.chunks:
            cast.node.blobs.drop(chunk.digest)
        follower = await cast.join()
        assert await follower.update() == 1
        await cast.end()

    play(scene)


def test_training_threads_publish_and_follow() -> None:
    loop = LoopThread("test")
    network, identity = Network(), Identity.generate()
    nodes = [network.node(identity.key), network.node(bytes([5]) * 32)]
    for node in nodes:
        loop.submit(node.start()).result()
    publisher = PublisherThread(Publisher(nodes[0], RUN, identity=identity), loop)
    follower = SubscriberThread(Subscriber(nodes[1], RUN, publishers=[identity.key], poll_s=0.01), loop)
    with pytest.raises(TimeoutError):
        follower.wait_for(1, timeout_s=0.01)
    assert (follower.weights(), follower.version, follower.manifest, publisher.weights()) == (None, 0, None, None)
    layer = torch.nn.Linear(3, 2)
    manifest = publisher.publish(layer.state_dict()).result(30)
    assert follower.wait_for(1, timeout_s=30) == follower.update(30) == 1
    assert follower.manifest == manifest
    held = follower.weights()
    assert held is not None
    assert sha256_of(snapshot(held[1]).flat) == manifest.weights_sha256 == sha256_of(snapshot(layer.state_dict()).flat)
    follower.close()
    publisher.close()
    loop.close()
