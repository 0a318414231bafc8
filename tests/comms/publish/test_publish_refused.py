"""What must not be taken: heads, answers and questions from liars, and options that cannot work."""

import hashlib
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import torch

from tests.comms.publish.scene import RUN, Cast, holds, model, play
from thinwire.comms.publish import manifest as manifests
from thinwire.comms.publish.desk import named
from thinwire.comms.publish.publisher import Publisher
from thinwire.comms.publish.questions import CHUNKS, HEAD, Head, Holdings, Want, pack, unpack
from thinwire.comms.publish.subscriber import Subscriber
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.transport import PeerError


def answering(data: bytes) -> Callable[[bytes, bytes], Awaitable[bytes]]:
    async def answer(peer: bytes, request: bytes) -> bytes:
        return data

    return answer


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("garbage", "manifest unreadable"),
        ("nothing of msgpack", "manifest unreadable"),
        ("another key", "publisher not pinned"),
        ("in its name", "forged"),
        ("changed", "forged"),
        ("another run", "another run"),
        ("older", "replayed"),
        ("the same", "replayed"),
        ("other shapes", "another model"),
        ("huge", "too large"),
        ("not its weights", "wrong payload"),
        ("no chain", "no holder left"),
    ],
)
def test_a_head_that_is_not_sound_is_refused_and_counted(kind: str, reason: str) -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        weights = model()
        follower = await cast.join(shapes={name: tuple(t.shape) for name, t in weights.items()}, limit_nbytes=1 << 20)
        await publisher.publish(model(seed=3))
        assert publisher._held is not None
        old = publisher._held.signed
        await publisher.publish(weights)
        assert await follower.update() == 2
        sound = publisher._held.signed.manifest
        other = Identity.generate()
        next_ = msgspec.structs.replace(sound, version=3, codec="full", parent=None)
        spec = next_.tensors[0]

        def by(identity: Identity, manifest: manifests.Manifest) -> bytes:
            body = msgspec.structs.replace(manifest, signature=identity.sign(manifests._signed_bytes(manifest)))
            return msgspec.msgpack.encode(body)

        def with_spec(shape: tuple[int, ...]) -> manifests.Manifest:
            return msgspec.structs.replace(next_, tensors=(msgspec.structs.replace(spec, shape=shape), *next_.tensors[1:]))

        data = {
            "garbage": b"\x93\x01\x02",
            "nothing of msgpack": b"\xc1" * 100,
            "another key": by(other, msgspec.structs.replace(next_, publisher=other.key)),
            "in its name": by(other, next_),
            "changed": by(cast.identity, next_).replace(b"\xa4full", b"\xa5patch"),
            "another run": by(cast.identity, msgspec.structs.replace(next_, run="other")),
            "older": old.data,
            "the same": publisher._held.signed.data,
            "other shapes": by(cast.identity, with_spec((8,))),
            "huge": by(cast.identity, with_spec((2**40, 2**40))),
            "not its weights": by(cast.identity, msgspec.structs.replace(next_, weights_sha256=bytes(32))),
            "no chain": by(cast.identity, msgspec.structs.replace(next_, codec="patch", parent=manifests.Parent(2, bytes(32)))),
        }[kind]
        cast.node.serve[named(HEAD, RUN)] = answering(data)
        for _ in range(2):
            assert await follower.update() == 2
        assert follower.refused == {reason: 2 if kind == "no chain" else 1}  # who has it may turn up; the others are not looked at again
        assert holds(follower, weights)
        assert follower._shelf.get(hashlib.sha256(data).digest()) is None or kind in ("the same", "older")
        await cast.end()

    play(scene)


def test_a_chain_whose_links_do_not_fit_is_refused() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        await publisher.publish(model())
        assert publisher._held is not None
        first = publisher._held.signed
        body = msgspec.structs.replace(first.manifest, version=5, codec="patch", parent=manifests.Parent(3, first.digest))
        publisher._desk.newest = manifests.sign(body, cast.identity)
        assert await follower.update() == 0
        assert follower.weights() is None
        assert follower.refused == {"chain broken": 1}
        await cast.end()

    play(scene)


@pytest.mark.parametrize("answer", [b"", b"\xc1", msgspec.msgpack.encode([b"\xff" * 9000]), pack(Holdings(b"", b"\xff" * 8, ()))])
def test_answers_about_chunks_that_are_no_such_thing_stop_nothing(answer: bytes) -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        await publisher.publish(model())
        cast.node.serve[named(CHUNKS, RUN)] = answering(answer)
        assert await follower.update() == 1  # after its patience, from the publisher
        await cast.end()

    play(scene)


@pytest.mark.parametrize("question", [HEAD, CHUNKS, "publish/manifest"])
@pytest.mark.parametrize("request_", [b"", b"\xc1", b"\x91", bytes(32), msgspec.msgpack.encode([2**63, []]), bytes(60_000)])
def test_questions_that_are_no_such_thing_are_refused(question: str, request_: bytes) -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        follower = await cast.join()
        await publisher.publish(model())
        with pytest.raises(PeerError):
            await cast.nodes[0].ask(cast.node.key, named(question, RUN), request_)
        assert await follower.update() == 1
        await cast.end()

    play(scene)


def test_what_subscribers_are_told_of_others_fits_its_bounds() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        await publisher.publish(model())
        assert publisher._held is not None
        digest = publisher._held.signed.digest
        for i in range(60):
            node = cast.network.node(bytes([i, 7]) * 16)
            await node.start()
            await node.ask(cast.node.key, named(HEAD, RUN), pack(Head(0, ("x" * 256,) * 8)))
            answer = await node.ask(cast.node.key, named(CHUNKS, RUN), pack(Want(digest, b"\x01")), 1 << 20)
        assert len(unpack(answer, Holdings).holders) == 32
        await cast.end()

    play(scene)


def test_options_and_tensors_that_cannot_work_are_refused_with_the_remedy() -> None:
    async def scene() -> None:
        cast = Cast()
        publisher = await cast.publish_from_here()
        with pytest.raises(ValueError, match="runs under another key"):
            Publisher(cast.node, RUN, identity=Identity.generate())
        with pytest.raises(ValueError, match="already publishes or follows 'run'"):
            await Publisher(cast.node, RUN, identity=cast.identity).start()
        with pytest.raises(ValueError, match="no publisher is pinned"):
            Subscriber(cast.node, RUN, publishers=[])
        with pytest.raises(ValueError, match="keep at least the newest"):
            Publisher(cast.node, RUN, identity=cast.identity, keep=0)
        with pytest.raises(ValueError, match="1 to 64 characters"):
            Publisher(cast.node, "", identity=cast.identity)
        with pytest.raises(ValueError, match="full_every=0"):
            Publisher(cast.node, RUN, identity=cast.identity, full_every=0)
        for tensors in ({}, {"steps": torch.zeros(3, dtype=torch.int64)}):
            with pytest.raises(ValueError, match="publish"):
                await publisher.publish(tensors)
        with pytest.raises(ValueError, match="put large things elsewhere"):
            await publisher.publish(model(), extra={"log": "x" * 20_000})
        assert publisher.manifest is None
        await cast.end()

    play(scene)
