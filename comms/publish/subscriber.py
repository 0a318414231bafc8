"""One that follows a run: learns of versions, fetches what it lacks, checks everything, and only then has the new weights, all at once."""

import asyncio
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import Tensor

from thinwire.comms.publish import coding
from thinwire.comms.publish.desk import Desk, named
from thinwire.comms.publish.download import Download, Peers
from thinwire.comms.publish.manifest import MAX_MANIFEST_NBYTES, Manifest, RefusedManifest, Signed, read
from thinwire.comms.publish.publisher import Held
from thinwire.comms.publish.questions import HEAD, MANIFEST, NOTICE, Head, pack
from thinwire.comms.publish.shelf import Entry, Shelf
from thinwire.comms.publish.weights import sha256_of, split
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.transport import Key, PeerError, Transport
from thinwire.comms.wire import WireError

log = logging.getLogger("thinwire")

MAX_CHAIN = 256
_MAX_BAD = 256  # manifests remembered as not to be tried again
_ASK_S = 5.0


class Subscriber:
    """Follows the weights of one run, and serves them to others. All methods run in the transport's event loop, except `weights()`,
    `version` and `manifest`, which any thread may read; `SubscriberThread` is for other threads.

    - `publishers`: the pinned keys; nobody else's versions are taken.
    - `peers`: others that may be asked, in addition to those that the publisher names.
    - `shapes`: of the model that is expected, by tensor name; None takes any model up to `limit_nbytes` of bfloat16 weights.
    - `keep`: how many versions are served to others.
    - `poll_s`: how often to ask for a newer version when no notice comes; `patience_s`: without any chunk, before the publisher is asked
      for chunks that others were to give. After as long again a download is given up until the next poll; what has come stays.

    `refused` counts what was not taken, by reason.
    """

    def __init__(
        self,
        transport: Transport,
        run: str,
        *,
        publishers: Collection[Key],
        peers: Iterable[Key] = (),
        shapes: Mapping[str, Sequence[int]] | None = None,
        limit_nbytes: int = 1 << 36,
        keep: int = 5,
        poll_s: float = 1.0,
        patience_s: float = 5.0,
    ) -> None:
        if not publishers:
            raise ValueError("no publisher is pinned: give the key of the one whose versions are to be taken")
        self.refused: Counter[str] = Counter()
        self._transport, self._run, self._publishers = transport, run, tuple(publishers)
        self._shapes, self._limit_nbytes = shapes, limit_nbytes
        self._poll_s, self._patience_s = poll_s, patience_s
        self._shelf = Shelf(transport.blobs, keep=keep)
        self._desk = Desk(transport, run, self._shelf, grants=False)
        self._peers = Peers(transport, [*publishers, *peers])
        self._chance = random.Random(transport.key)
        self._lock = asyncio.Lock()
        self._held: Held | None = None
        self._pending: Signed | None = (
            None  # a sound head that could not be fetched yet: it may come from others when its publisher is gone
        )
        self._bad: dict[bytes, None] = {}
        self._news, self._changed = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, follow: bool = True) -> None:
        """Answer questions from now on, and with `follow` keep up with the run by itself; else `update()` does."""
        self._desk.open()
        self._desk.answer(NOTICE, self._noticed)
        if follow:
            self._task = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop following and serving; the weights stay."""
        if self._task is not None:
            await end([self._task])
        self._desk.close()
        self._peers.close()
        self._shelf.clear()

    @property
    def version(self) -> int:
        """That is held; 0 before the first."""
        held = self._held
        return 0 if held is None else held.signed.manifest.version

    @property
    def manifest(self) -> Manifest | None:
        """Of the version that is held."""
        held = self._held
        return None if held is None else held.signed.manifest

    def weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """The version that is held and its bfloat16 tensors by name, always of one version; None before the first. The caller's own."""
        held = self._held
        return None if held is None else (held.signed.manifest.version, split(held.signed.manifest.tensors, held.flat))

    async def wait_for(self, version: int) -> int:
        """Until this or a later version is held."""
        while self.version < version:
            self._changed.clear()
            await self._changed.wait()
        return self.version

    async def update(self) -> int:
        """Ask for the newest version and take it; returns the version that is then held, the old one where anything was wrong."""
        async with self._lock:
            for signed in await self._heads():
                try:
                    await self._take(signed)
                    break
                except PeerError as error:
                    self.refused[error.reason] += 1
                    self._pending = signed if self._pending is None else max(signed, self._pending, key=_version)
                except WireError as error:
                    self.refused[error.reason if isinstance(error, RefusedManifest) else "wrong payload"] += 1
                    self._condemn(signed.digest)
                    self._shelf.drop([signed.digest])
        return self.version

    # ------------------------------------------------------------------ what is new

    async def _follow(self) -> None:
        while True:
            self._news.clear()
            try:
                await self.update()
            except Exception:  # a store that is too small, say; following goes on
                log.exception("%r could not be brought up to date", self._run)
                self.refused["failed here"] += 1
            try:
                await asyncio.wait_for(self._news.wait(), self._poll_s)
            except asyncio.TimeoutError:
                continue

    async def _noticed(self, peer: Key, request: bytes) -> bytes:
        self._news.set()
        return b""

    async def _heads(self) -> list[Signed]:
        """Sound manifests above what is held, the newest first: from the publishers, or when none answers from others."""
        answers = await asyncio.gather(*(self._head(key) for key in self._publishers))
        if all(answer is None for answer in answers):
            others = [key for key in self._peers.keys if key not in self._publishers]
            answers = await asyncio.gather(*(self._head(key) for key in self._chance.sample(others, min(16, len(others)))))
        found = {signed.digest: signed for answer in answers for signed in answer or ()}
        if self._pending is not None and self._pending.manifest.version > self.version and self._pending.digest not in self._bad:
            found[self._pending.digest] = self._pending
        return sorted(found.values(), key=_version, reverse=True)

    async def _head(self, peer: Key) -> list[Signed] | None:
        """What a peer says is newest, if it may be taken; None when it does not answer."""
        question = pack(Head(self.version, tuple(address[:256] for address in self._transport.addresses()[:8])))
        try:
            data = await self._ask(peer, HEAD, question)
        except PeerError as error:
            self.refused[error.reason] += 1
            return None
        if not data or hashlib.sha256(data).digest() in self._bad:
            return []
        try:
            signed = self._read(data)
            if signed.manifest.version <= self.version:
                raise RefusedManifest("replayed", f"version {signed.manifest.version} when {self.version} is held")
        except RefusedManifest as error:
            self.refused[error.reason] += 1
            self._condemn(hashlib.sha256(data).digest())
            return []
        return [signed]

    # ------------------------------------------------------------------ taking it

    async def _take(self, head: Signed) -> None:
        """Fetch, apply and check every version from the one that is held, or the last full one, up to `head`; then swap."""
        held = self._held
        flat = None if held is None else held.flat
        chain = await self._chain(head)
        self._check_room(chain)
        for signed in chain:
            entry = self._shelf.entry(signed)
            await self._download(entry)
            flat = await asyncio.get_running_loop().run_in_executor(None, _applied, signed.manifest, flat, entry.payload())
        assert flat is not None
        self._held, self._desk.newest = Held(head, flat), head
        self._shelf.trim(head)
        self._changed.set()

    def _check_room(self, chain: list[Signed]) -> None:
        needed, room = self._shelf.kept_nbytes(chain), self._transport.blobs.limit_nbytes
        if needed > room:
            raise ValueError(f"the versions to keep take {needed} bytes, the transport's store {room}: give it a larger BlobStore")

    async def _chain(self, head: Signed) -> list[Signed]:
        """The versions to apply, oldest first; each names the one before by its digest."""
        held, chain = self._held, [head]
        while (parent := chain[0].manifest.parent) is not None and (held is None or parent.digest != held.signed.digest):
            if len(chain) >= MAX_CHAIN:
                raise RefusedManifest("chain too long", f"more than {MAX_CHAIN} versions")
            signed = await self._parent(parent.digest)
            if signed.manifest.version != parent.version or signed.manifest.tensors != head.manifest.tensors:
                raise RefusedManifest("chain broken", f"version {parent.version} is not what version {head.manifest.version} says")
            chain.insert(0, signed)
        return chain

    async def _parent(self, digest: bytes) -> Signed:
        """A manifest by its digest, from whoever has it."""
        entry = self._shelf.get(digest)
        if entry is not None:
            return entry.signed
        why = ""
        for peer in list(self._peers.keys):
            try:
                data = await self._ask(peer, MANIFEST, digest)
            except PeerError as error:
                why = str(error)
                continue
            if hashlib.sha256(data).digest() == digest:
                return self._read(data)
            self.refused["wrong bytes"] += 1
        raise PeerError("no holder left", why)

    async def _download(self, entry: Entry) -> None:
        work = Download(self._transport, self._run, self._shelf, entry, self._publishers, self._peers, self._patience_s, self._chance)
        await work.run_to_end()

    async def _ask(self, peer: Key, question: str, request: bytes) -> bytes:
        work = self._transport.ask(peer, named(question, self._run), request, MAX_MANIFEST_NBYTES, timeout_s=_ASK_S)
        try:
            return await asyncio.wait_for(work, _ASK_S)
        except asyncio.TimeoutError:
            raise PeerError("stalled", question) from None

    def _read(self, data: bytes) -> Signed:
        return read(data, run=self._run, publishers=self._publishers, shapes=self._shapes, limit_nbytes=self._limit_nbytes)

    def _condemn(self, digest: bytes) -> None:
        """Never try that manifest again."""
        self._bad[digest] = None
        while len(self._bad) > _MAX_BAD:
            del self._bad[next(iter(self._bad))]


def _version(signed: Signed) -> int:
    return signed.manifest.version


def _applied(manifest: Manifest, flat: Tensor | None, payload: bytes) -> Tensor:
    """The weights of a version; raises `WireError` when they are not what its publisher has signed."""
    made = coding.apply(manifest.codec, flat, payload, manifest.numel)
    if sha256_of(made) != manifest.weights_sha256:
        raise WireError(f"version {manifest.version} does not come to the weights that its publisher has signed")
    return made
