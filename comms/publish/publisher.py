"""The one that makes versions: codes them in the smallest form, signs them, and serves them together with those that already have them."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from torch import Tensor

from thinwire.comms.publish import coding
from thinwire.comms.publish.desk import Desk, named
from thinwire.comms.publish.manifest import MAX_CHUNK_NBYTES, MAX_CHUNKS, Chunk, Extra, Manifest, Parent, Signed, sign
from thinwire.comms.publish.questions import NOTICE
from thinwire.comms.publish.shelf import Shelf
from thinwire.comms.publish.weights import NamedTensors, Snapshot, sha256_of, snapshot, split
from thinwire.comms.swarm.blobs import CHUNK_NBYTES, Blob
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.transport import Key, PeerError, Transport

MIN_CHUNK_NBYTES = 16 << 10
_PIECES = 32  # a payload is cut into, so that as many members can be served at once
_NOTICE_S = 5.0


@dataclass(frozen=True, eq=False)
class Held:
    """One version and its weights, `(numel,)` bfloat16."""

    signed: Signed
    flat: Tensor


class Publisher:
    """Publishes the weights of one run. All methods run in the transport's event loop; `PublisherThread` is for other threads.

    - `identity`: the key that signs; subscribers pin it, and reach the publisher under it, so it is the transport's own.
    - `keep`: how many versions stay to be had, each with the chain that it starts from.
    - `full_every`: at least every so many versions is full, which bounds the chain of a late joiner.
    - `patch_ratio`: a step above this part of the plain bfloat16 bytes is not worth a longer chain.
    - `lossy`: whether steps may be int8 deltas; what they decode to is then what everybody holds (`weights()`), not what was given.
    - `first_version`: after a restart, above the last one published: subscribers take no older one.

    Raises `ValueError` for a key that is not the transport's, or options out of range.
    """

    def __init__(
        self,
        transport: Transport,
        run: str,
        *,
        identity: Identity,
        keep: int = 5,
        full_every: int = 20,
        patch_ratio: float = 0.6,
        lossy: bool = False,
        first_version: int = 1,
    ) -> None:
        if identity.key != transport.key:
            raise ValueError("the transport runs under another key than `identity`: publish over a transport of that identity")
        if full_every < 1 or first_version < 1:
            raise ValueError(f"full_every={full_every}, first_version={first_version}: both are at least 1")
        self.lossy = lossy
        self._transport, self._run, self._identity = transport, run, identity
        self._full_every, self._patch_ratio, self._next = full_every, patch_ratio, first_version
        self._shelf = Shelf(transport.blobs, keep=keep)
        self._desk = Desk(transport, run, self._shelf, grants=True)
        self._lock = asyncio.Lock()
        self._held: Held | None = None
        self._since_full = 0
        self._notices: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Answer questions from now on."""
        self._desk.open()

    async def close(self) -> None:
        """Answer no more, and let go of all chunks."""
        self._desk.close()
        await end(self._notices)
        self._shelf.clear()

    @property
    def manifest(self) -> Manifest | None:
        """Of the newest version."""
        return None if self._held is None else self._held.signed.manifest

    def weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest version and what everybody holds who has it: bfloat16 tensors by name."""
        held = self._held
        return None if held is None else (held.signed.manifest.version, split(held.signed.manifest.tensors, held.flat))

    async def publish(self, named_tensors: NamedTensors | Snapshot, *, extra: Extra | None = None) -> Manifest:
        """Make these weights the next version, copied before anything is awaited, and tell those who follow.

        Raises `ValueError`, with nothing changed, for tensors that cannot be published, a large `extra`, or a store that is too small.
        """
        new = named_tensors if isinstance(named_tensors, Snapshot) else snapshot(named_tensors, exact=self.lossy)
        async with self._lock:
            signed, blobs, held = await asyncio.get_running_loop().run_in_executor(None, self._make, new, extra or {})
            needed = self._shelf.kept_nbytes([signed])
            if needed > self._transport.blobs.limit_nbytes:
                raise ValueError(
                    f"the versions to keep take {needed} bytes, the transport's store {self._transport.blobs.limit_nbytes}: "
                    "give the transport a larger BlobStore, keep fewer versions, or lower full_every"
                )
            entry = self._shelf.entry(signed)
            for i, blob in enumerate(blobs):
                self._shelf.put(entry, i, blob)
            self._held, self._desk.newest = held, signed
            self._next = signed.manifest.version + 1
            self._since_full = 0 if signed.manifest.codec == "full" else self._since_full + 1
            self._shelf.trim()
        for peer in list(self._desk.known):
            self._start(self._notify(peer))
        return signed.manifest

    def _make(self, new: Snapshot, extra: Extra) -> tuple[Signed, list[Blob], Held]:
        held = self._held
        chained = held is not None and held.signed.manifest.tensors == new.tensors and self._since_full + 1 < self._full_every
        coded = coding.choose(held.flat if held is not None and chained else None, new, patch_ratio=self._patch_ratio)
        blobs = [Blob.of(piece) for piece in _pieces(coded.payload)]
        parent = None
        if held is not None and coded.codec != "full":
            parent = Parent(held.signed.manifest.version, held.signed.digest)
        manifest = Manifest(
            run=self._run,
            version=self._next,
            parent=parent,
            codec=coded.codec,
            tensors=new.tensors,
            chunks=tuple(Chunk(blob.digest, blob.nbytes) for blob in blobs),
            weights_sha256=sha256_of(coded.flat),
            extra=msgspec.convert(extra, type=dict[str, Any]),
            publisher=self._identity.key,
        )
        signed = sign(manifest, self._identity)
        return signed, blobs, Held(signed, coded.flat)

    async def _notify(self, peer: Key) -> None:
        """Tell one who follows; whoever does not hear it asks by itself, and is told again from then on."""
        try:
            await asyncio.wait_for(self._transport.ask(peer, named(NOTICE, self._run), b"", timeout_s=_NOTICE_S), _NOTICE_S)
        except (PeerError, asyncio.TimeoutError):
            self._desk.known.pop(peer, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)


def _pieces(payload: bytes) -> Iterator[bytes]:
    nbytes = min(max(MIN_CHUNK_NBYTES, -(-len(payload) // _PIECES)), CHUNK_NBYTES)
    nbytes = min(max(nbytes, -(-len(payload) // MAX_CHUNKS)), MAX_CHUNK_NBYTES)
    for at in range(0, len(payload), nbytes):
        yield payload[at : at + nbytes]
