"""What publisher and subscribers ask each other, and the bounds of it. Every name ends with the run's, so runs share a transport.

publish/head      Head -> the manifest of the newest version above `have`, or nothing
publish/manifest  a digest -> that manifest
publish/chunks    Want -> Holdings: which chunks the asked one has, who else has which, and which the asker may take from it
publish/notice    to a subscriber: there is something newer; the answer is empty
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from thinwire.comms.publish.manifest import MAX_CHUNKS, HashField, KeyField
from thinwire.comms.swarm.transport import PeerError

HEAD, MANIFEST, CHUNKS, NOTICE = "publish/head", "publish/manifest", "publish/chunks", "publish/notice"
MAX_HOLDERS = 32  # named in one answer

Addresses = Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=8)]
Bits = Annotated[bytes, Meta(max_length=MAX_CHUNKS // 8)]
S = TypeVar("S", bound=Struct)


class Head(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The asker has version `have` (0: none), and is reached at `addresses`."""

    have: Annotated[int, Meta(ge=0, le=2**53)]
    addresses: Addresses = ()


class Want(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The asker has these chunks of the version, as bits, chunk 0 lowest."""

    digest: HashField
    have: Bits


class Holder(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member that has said that it has these chunks."""

    key: KeyField
    have: Bits
    addresses: Addresses = ()


class Holdings(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`have`: what the answering one has. `granted`: what the asker, and nobody else, is to take from it now."""

    have: Bits
    granted: Bits = b""
    holders: Annotated[tuple[Holder, ...], Meta(max_length=MAX_HOLDERS)] = ()


def pack(struct: Struct) -> bytes:
    """The bytes of a question or an answer."""
    return msgspec.msgpack.encode(struct)


def unpack(data: bytes, kind: type[S]) -> S:
    """What a peer has said; raises `PeerError` for anything that is no `kind`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise PeerError("unreadable", str(error)) from None


def to_bits(bits: int, count: int) -> bytes:
    """A set of chunks of `count` as bytes."""
    return bits.to_bytes(-(-count // 8), "little")


def from_bits(data: bytes, count: int) -> int:
    """The inverse; bits of chunks that do not exist are no matter."""
    return int.from_bytes(data, "little") & (1 << count) - 1


def holdings_nbytes(count: int) -> int:
    """The most bytes that an answer about a version of `count` chunks takes."""
    return 1024 + (MAX_HOLDERS + 2) * (count // 8 + 8 * 260 + 64)
