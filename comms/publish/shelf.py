"""The versions that a member can serve: their manifests, and of their chunks those that it has."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from thinwire.comms.publish.manifest import Signed
from thinwire.comms.swarm.blobs import Blob, BlobStore


@dataclass(eq=False)
class Entry:
    """One version; `blobs` are its chunks that are here, by their index."""

    signed: Signed
    blobs: dict[int, Blob] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """The chunks that are not here."""
        return [i for i in range(len(self.signed.manifest.chunks)) if i not in self.blobs]

    @property
    def bits(self) -> int:
        """The chunks that are here, as bits."""
        return sum(1 << i for i in self.blobs)

    def payload(self) -> bytes:
        """All chunks, joined; they have to be here."""
        return b"".join(bytes(self.blobs[i].data) for i in range(len(self.signed.manifest.chunks)))


class Shelf:
    """The last `keep` versions and all that their chains start from, in the transport's store.

    The store may drop what others put it under pressure for; the shelf holds on to its blobs and puts them back when they are asked for.
    """

    def __init__(self, store: BlobStore, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep} versions: keep at least the newest")
        self._store, self._keep = store, keep
        self._entries: dict[bytes, Entry] = {}

    def entry(self, signed: Signed) -> Entry:
        """Where that version lies, from now on."""
        return self._entries.setdefault(signed.digest, Entry(signed))

    def get(self, digest: bytes) -> Entry | None:
        """The version whose manifest has that digest, if it is here."""
        return self._entries.get(digest)

    def put(self, entry: Entry, index: int, blob: Blob) -> None:
        """A chunk has come; its digest has been checked."""
        entry.blobs[index] = blob
        self._store.put(blob)

    def serve(self, digest: bytes) -> Entry | None:
        """The version that a peer asks for, with all that is here of it in the store."""
        entry = self._entries.get(digest)
        if entry is not None:
            for blob in entry.blobs.values():
                if blob.digest not in self._store:
                    self._store.put(blob)
        return entry

    def kept_nbytes(self, more: Iterable[Signed] = ()) -> int:
        """What the chunks of everything that has to be kept take, with `more` versions on top."""
        manifests = {signed.digest: signed for signed in [*(entry.signed for entry in self._entries.values()), *more]}
        wanted = self._wanted(manifests)
        return sum({c.digest: c.nbytes for digest in wanted for c in manifests[digest].manifest.chunks}.values())

    def trim(self, *also: Signed) -> None:
        """Forget what no kept version needs; `also` are versions to keep, with their chains, however old."""
        wanted = self._wanted({digest: entry.signed for digest, entry in self._entries.items()}, *also)
        self.drop([digest for digest in self._entries if digest not in wanted])

    def drop(self, digests: Iterable[bytes]) -> None:
        """Forget these versions, and their chunks that no other version needs."""
        dropped = [self._entries.pop(digest) for digest in list(digests) if digest in self._entries]
        needed = {blob.digest for entry in self._entries.values() for blob in entry.blobs.values()}
        for entry in dropped:
            for blob in entry.blobs.values():
                if blob.digest not in needed:
                    self._store.drop(blob.digest)

    def clear(self) -> None:
        """Forget everything."""
        self.drop(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def _wanted(self, manifests: dict[bytes, Signed], *also: Signed) -> set[bytes]:
        newest = sorted(manifests.values(), key=lambda signed: signed.manifest.version)[-self._keep :]
        wanted: set[bytes] = set()
        for signed in [*newest, *also]:
            link: Signed | None = signed
            while link is not None and link.digest in manifests and link.digest not in wanted:
                wanted.add(link.digest)
                parent = link.manifest.parent
                link = None if parent is None else manifests.get(parent.digest)
        return wanted
