"""Who decides: slots, epochs, views and their quorums."""

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

Key = bytes  # 32: the Ed25519 public key that names a member
Nonce = bytes  # 8: fresh whenever a state is taken; (key, nonce) is one incarnation
EpochId = bytes  # 16

MAX_MEMBERS = 1024


class Slot(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True):
    """What one decision is about."""

    round: Annotated[int, Meta(ge=0, le=2**53)]
    fragment: Annotated[int, Meta(ge=0, le=65535)] = 0


def following(slot: Slot, fragments: int) -> Slot:
    """The slot that is decided after `slot` where a round has so many fragments."""
    return Slot(slot.round, slot.fragment + 1) if slot.fragment + 1 < fragments else Slot(slot.round + 1)


@dataclass(frozen=True)
class Epoch:
    """A lineage of decisions; only bereavement makes a new one."""

    number: int
    digest: EpochId


@dataclass(frozen=True)
class View:
    """The incarnations that decide a slot, ascending by key."""

    epoch: Epoch
    members: tuple[Key, ...]
    nonces: tuple[Nonce, ...]

    def index(self, key: Key) -> int | None:
        """Place of `key` among the members, or None."""
        at = bisect_left(self.members, key)
        return at if at < len(self.members) and self.members[at] == key else None

    def has(self, key: Key, nonce: Nonce) -> bool:
        """Whether this incarnation is a member."""
        at = self.index(key)
        return at is not None and self.nonces[at] == nonce

    def quorum(self, present: Collection[Key]) -> bool:
        """Whether these members may decide: more than half, or half with the lowest key (so that 2 -> 1 goes on with the senior)."""
        twice = 2 * len(present)
        return twice > len(self.members) or (twice == len(self.members) and self.members[0] in present)

    def leader(self, turn: int) -> Key:
        """Whose turn it is to lead."""
        return self.members[turn % len(self.members)]

    def bits(self, keys: Iterable[Key]) -> int:
        """These members as a bitmap; keys of others are left out."""
        found = 0
        for key in keys:
            at = self.index(key)
            if at is not None:
                found |= 1 << at
        return found


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 of parts, each with its length, so that no two lists of parts look alike."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()


def number_of(key: Key) -> int:
    """A member's number in frames and exchanges; in the order of the keys."""
    return int.from_bytes(key[:4], "big")
