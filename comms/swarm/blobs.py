"""Content-addressed bytes: a blob is named by its sha256, so whoever holds it can serve it and nobody can pass off another."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

CHUNK_NBYTES = 512 << 10
DIGEST_NBYTES = 32


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """The name of `data`: its sha256, 32 bytes."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True, eq=False)
class Blob:
    """Bytes and their name; `Blob.of` computes the name."""

    digest: bytes
    data: bytes | memoryview

    @classmethod
    def of(cls, data: bytes | memoryview) -> "Blob":
        """A blob of `data`, which must not change afterwards; it is not copied."""
        return cls(digest_of(data), data if isinstance(data, bytes) else memoryview(data).cast("B"))

    @property
    def nbytes(self) -> int:
        return len(self.data)


class BlobStore:
    """What this member serves to others: at most `limit_nbytes`, the oldest go first."""

    def __init__(self, limit_nbytes: int = 1 << 30) -> None:
        self.limit_nbytes = limit_nbytes
        self.nbytes = 0
        self.evicted = 0
        self._blobs: OrderedDict[bytes, Blob] = OrderedDict()

    def put(self, blob: Blob) -> None:
        """Keep `blob`, as the newest; raises `ValueError` when it alone is above the limit."""
        if blob.nbytes > self.limit_nbytes:
            raise ValueError(f"a blob of {blob.nbytes} bytes does not fit into a store of {self.limit_nbytes}")
        self.drop(blob.digest)
        self._blobs[blob.digest] = blob
        self.nbytes += blob.nbytes
        while self.nbytes > self.limit_nbytes:
            self.drop(next(iter(self._blobs)))
            self.evicted += 1

    def get(self, digest: bytes) -> Blob | None:
        """The blob of that name, if it is here."""
        return self._blobs.get(digest)

    def drop(self, digest: bytes) -> None:
        """Forget a blob; nothing happens when it is not here."""
        blob = self._blobs.pop(digest, None)
        if blob is not None:
            self.nbytes -= blob.nbytes

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blobs

    def __len__(self) -> int:
        return len(self._blobs)
