"""What trainers, workers and verifiers say to each other: questions by name, msgpack arrays, strict."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from thinwire.comms.swarm.transport import PeerError

GROUP, PENDING, VERDICT, SHARED, LEARNERS = "rl/group", "rl/pending", "rl/verdict", "rl/shared", "rl/learners"
INLINE_NBYTES = 48 << 10  # a sealed group above it is fetched
MAX_LISTED = 64
S = TypeVar("S", bound="Message")


class MessageError(PeerError):
    """Bytes that are no such message."""

    def __init__(self, detail: str) -> None:
        super().__init__("garbage", detail)


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Knows how to travel."""

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls: type[S], data: bytes) -> S:
        """Raises `MessageError`."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MessageError(f"no {cls.__name__}: {error}") from None


class Parcel(Message):
    """A sealed group: itself when it is small, else where its bytes are found. `work_s` and `since_s` are hints for `capacity.Meter`: what
    a group takes this worker (0: not known yet), and for how long it has had the version."""

    data: bytes
    digest: bytes = b""
    nbytes: int = 0
    work_s: float = 0.0
    since_s: float = 0.0


class Receipt(Message):
    """What became of a parcel; `head` is the newest version, `wanted` whether more groups of it are."""

    accepted: bool
    reason: str
    head: int
    wanted: bool


class Sample(Message):
    """A group that a verifier is to look at: a blob of the trainer, and the beacon's round that draws what is looked at."""

    digest: bytes
    nbytes: int
    worker: bytes
    round: int


class Look(Message):
    """A verifier asks what there is, and for the beacon's links after a tick."""

    tick: int


class Samples(Message):
    """Answer to `PENDING`, with the beacon's anchor and links, and to `SHARED`."""

    samples: tuple[Sample, ...]
    anchor: bytes = b""
    links: tuple[bytes, ...] = ()


class Verdict(Message):
    """What a verifier found; `reason` is a word to count by, empty when all was well."""

    digest: bytes
    accepted: bool
    reason: str
    detail: str = ""
