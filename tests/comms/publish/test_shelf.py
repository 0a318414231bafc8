"""What is kept: the newest versions and all that their chains start from; what only dropped versions needed goes."""

from thinwire.comms.publish.manifest import Chunk, Manifest, Parent, Signed, sign
from thinwire.comms.publish.shelf import Shelf
from thinwire.comms.publish.weights import TensorSpec
from thinwire.comms.swarm.blobs import Blob, BlobStore
from thinwire.comms.swarm.identity import Identity

ME = Identity.from_seed(bytes(32))


def version(number: int, parent: Signed | None, data: bytes) -> Signed:
    """A version whose payload is one chunk."""
    link = None if parent is None else Parent(parent.manifest.version, parent.digest)
    return sign(
        Manifest(
            run="run",
            version=number,
            parent=link,
            codec="full" if link is None else "patch",
            tensors=(TensorSpec("w", (100,), "float32"),),
            chunks=(Chunk(Blob.of(data).digest, len(data)),),
            weights_sha256=bytes(32),
            extra={},
            publisher=ME.key,
        ),
        ME,
    )


def put(shelf: Shelf, signed: Signed, data: bytes) -> None:
    shelf.put(shelf.entry(signed), 0, Blob.of(data))


def test_a_chain_stays_while_a_kept_version_needs_it_and_shared_chunks_stay_with_it() -> None:
    store = BlobStore()
    shelf = Shelf(store, keep=1)
    full = version(1, None, b"full")
    second = version(2, full, b"two")
    third = version(3, second, b"full")  # the same bytes as the first: one chunk of two versions
    for signed, data in ((full, b"full"), (second, b"two"), (third, b"full")):
        put(shelf, signed, data)
        shelf.trim()
    assert len(shelf) == 3
    assert shelf.kept_nbytes() == len(b"full") + len(b"two")
    fourth = version(4, None, b"full")
    put(shelf, fourth, b"full")
    shelf.trim(third)
    assert len(shelf) == 4  # the third is still held by who asks
    shelf.trim()
    assert len(shelf) == len(store) == 1
    assert shelf.serve(fourth.digest) is shelf.get(fourth.digest) is not None
    assert shelf.serve(third.digest) is None


def test_what_comes_next_is_counted_before_it_is_put() -> None:
    shelf = Shelf(BlobStore(), keep=2)
    full = version(1, None, b"x" * 50)
    put(shelf, full, b"x" * 50)
    assert shelf.kept_nbytes([version(2, full, b"y" * 7)]) == 57
    assert shelf.kept_nbytes([version(2, None, b"y" * 7), version(3, None, b"z" * 9)]) == 16
