"""What is decided about a slot, and what follows from it.

A `Value` is what travels: relative to the view that decides. A `Decision` is the same spelled out, with the hash of all decisions before
it. The ballot is not part of the hash: members may learn the same value from different ballots.
"""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from thinwire.comms.swarm.view import MAX_MEMBERS, Epoch, EpochId, Key, Nonce, Slot, View, digest_of, following, number_of

MAX_NEWCOMERS = 64
STAYS, DOWN, SILENT, LEFT, ELSEWHERE, REPLACED = range(6)
REASONS = ("late", "down", "silent", "left", "in another lineage", "replaced by a restarted process")

KeyField = Annotated[bytes, Meta(min_length=32, max_length=32)]
NonceField = Annotated[bytes, Meta(min_length=8, max_length=8)]
HashField = Annotated[bytes, Meta(min_length=32, max_length=32)]
EpochField = Annotated[bytes, Meta(min_length=16, max_length=16)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Newcomer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An incarnation that is to be a member."""

    key: KeyField
    nonce: NonceField


class Value(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What may be decided: a byte for every member of the view (2 * why it goes, + 1 if its payload counts), and who joins.

    `digests` are those of the counted payloads, joined, and `sizes` their bytes, in member order.
    """

    fates: Annotated[bytes, Meta(min_length=1, max_length=MAX_MEMBERS)]
    digests: Annotated[bytes, Meta(max_length=32 * MAX_MEMBERS)]
    sizes: Annotated[tuple[Count, ...], Meta(max_length=MAX_MEMBERS)]
    joined: Annotated[tuple[Newcomer, ...], Meta(max_length=MAX_NEWCOMERS)] = ()

    @property
    def check(self) -> bytes:
        """16 bytes that stand for this value and no other."""
        return digest_of(msgspec.msgpack.encode(self))[:16]

    def counted(self, view: View) -> list[tuple[Key, bytes, int]]:
        """Member, digest and size of every payload that counts, ascending."""
        keys = [key for key, fate in zip(view.members, self.fates, strict=True) if fate & 1]
        return [(key, self.digests[32 * i : 32 * i + 32], self.sizes[i]) for i, key in enumerate(keys)]

    def why_not(self, view: View) -> str:
        """What makes it impossible in this view, or nothing."""
        counted = sum(fate & 1 for fate in self.fates)
        if len(self.fates) != len(view.members) or any(fate >> 1 >= len(REASONS) for fate in self.fates):
            return "fates"
        if not counted or len(self.digests) != 32 * counted or len(self.sizes) != counted:
            return "payloads"
        members = [n.key for n in self.joined] + [key for key, fate in zip(view.members, self.fates, strict=True) if not fate >> 1]
        if not members or len(members) > MAX_MEMBERS or len({number_of(key) for key in members}) != len(members):
            return "next members"
        return ""


@dataclass(frozen=True)
class Decision:
    """What was decided about `slot`: payloads that count (member, digest, bytes; ascending), why others do not, who decides next.

    `work` is how many payloads its lineage has counted up to here; `ballot` is where this member learnt it from, for the record only.
    """

    epoch: Epoch
    slot: Slot
    counted: tuple[tuple[Key, bytes, int], ...]
    skipped: dict[Key, str] = field(hash=False)
    members: tuple[Key, ...]
    nonces: tuple[Nonce, ...]
    chain: bytes
    work: int
    value: Value
    ballot: int = field(default=0, compare=False)

    @property
    def view(self) -> View:
        """Who decides the next slot."""
        return View(self.epoch, self.members, self.nonces)


class Standing(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a lineage stands: all that a newcomer needs besides the shared state before `slot`."""

    number: Count
    epoch: EpochField
    slot: Slot
    chain: HashField
    work: Count
    members: Annotated[tuple[KeyField, ...], Meta(min_length=1, max_length=MAX_MEMBERS)]
    nonces: Annotated[tuple[NonceField, ...], Meta(min_length=1, max_length=MAX_MEMBERS)]
    ancestors: Annotated[tuple[EpochField, ...], Meta(max_length=8)] = ()

    @property
    def why_not(self) -> str:
        """What makes it impossible, or nothing."""
        if len(self.members) != len(self.nonces) or list(self.members) != sorted(set(self.members)):
            return "members"
        return "" if len({number_of(key) for key in self.members}) == len(self.members) else "members with one number"

    @property
    def view(self) -> View:
        """Who decides `slot`."""
        return View(Epoch(self.number, self.epoch), self.members, self.nonces)


def decide(view: View, slot: Slot, value: Value, *, chain: bytes, work: int, ballot: int = 0) -> Decision:
    """The decision that `value` makes of `slot` after all that `chain` and `work` stand for."""
    counted = tuple(value.counted(view))
    fates = list(zip(view.members, view.nonces, value.fates, strict=True))
    skipped = {key: REASONS[fate >> 1] for key, _, fate in fates if not fate & 1}
    stay = [(key, nonce) for key, nonce, fate in fates if not fate >> 1] + [(n.key, n.nonce) for n in value.joined]
    members, nonces = zip(*sorted(stay), strict=True)
    place = f"{slot.round} {slot.fragment}".encode()
    chain = digest_of(b"decision", chain, view.epoch.digest, place, *view.members, *view.nonces, msgspec.msgpack.encode(value))
    return Decision(view.epoch, slot, counted, skipped, members, nonces, chain, work + len(counted), value, ballot)


def standing_after(decision: Decision, fragments: int, ancestors: tuple[EpochId, ...]) -> Standing:
    """Where the lineage stands after `decision`."""
    slot, epoch = following(decision.slot, fragments), decision.epoch
    return Standing(epoch.number, epoch.digest, slot, decision.chain, decision.work, decision.members, decision.nonces, ancestors)
