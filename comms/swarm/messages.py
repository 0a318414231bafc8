"""Control messages between members, and their bounds. What does not fit is refused before anything is made of it.

Every message is a flat, typed struct: nothing nests deeper than message > value > newcomer, every collection has a cap, so that a decoder
neither recurses nor allocates more than the bytes that have arrived.
"""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from thinwire.comms.swarm.decision import Count, EpochField, HashField, KeyField, Standing, Value
from thinwire.comms.swarm.view import MAX_MEMBERS, Slot

MAX_MESSAGE_NBYTES = 64 << 10
MAX_RULINGS = 64

Ballot = Annotated[int, Meta(ge=0, le=2**40)]
Bits = Annotated[bytes, Meta(max_length=MAX_MEMBERS // 8)]
CheckField = EpochField  # 16 bytes as well


class RefusedMessage(ValueError):
    """A message that no sound member sends; says why."""


class Accepted(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A value that a member has accepted, and in which ballot."""

    ballot: Ballot
    value: Value


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    epoch: EpochField


class Ready(_Message, frozen=True, tag="ready"):
    """To all: my payload of this slot; final. With `via` I send it to that member only, which passes it on."""

    slot: Slot
    digest: HashField
    nbytes: Count
    via: KeyField | None = None


class Have(_Message, frozen=True, tag="have"):
    """To the leader: the members (bits, in view order) whose payloads I hold."""

    slot: Slot
    ballot: Ballot
    held: Bits


class Propose(_Message, frozen=True, tag="propose"):
    """To all: accept this. `value` without digests, which the receiver has told that it holds, has the check of the full one."""

    slot: Slot
    ballot: Ballot
    value: Value
    check: CheckField


class Accept(_Message, frozen=True, tag="accept"):
    """I hold all that counts in it, and have accepted this value in this ballot."""

    slot: Slot
    ballot: Ballot
    check: CheckField


class Commit(_Message, frozen=True, tag="commit"):
    """A quorum has accepted it."""

    slot: Slot
    ballot: Ballot
    check: CheckField


class Prepare(_Message, frozen=True, tag="prepare"):
    """From the leader of a ballot above 0: promise it."""

    slot: Slot
    ballot: Ballot


class Promise(_Message, frozen=True, tag="promise"):
    """To the leader of this ballot: I accept nothing below it any more; this is what I have accepted, and whose payloads I hold."""

    slot: Slot
    ballot: Ballot
    accepted: Accepted | None
    held: Bits


class CatchUp(_Message, frozen=True, tag="catchup"):
    """Tell me the decisions from this slot on."""

    slot: Slot


class Ruling(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One decision; `chain` is the hash of it and all before it."""

    slot: Slot
    ballot: Ballot
    value: Value
    chain: HashField


class Rulings(_Message, frozen=True, tag="rulings"):
    """Decisions in order. None: what was asked for is no longer known here, and the asker has to adopt the state."""

    rulings: Annotated[tuple[Ruling, ...], Meta(max_length=MAX_RULINGS)]


class Beat(_Message, frozen=True, tag="beat"):
    """I am alive; this is where I stand: the slot that I decide next, payloads counted so far, whether a quorum of my view is up.

    `yielding`: I am on my way to another lineage; nobody should come to mine.
    """

    number: Count
    slot: Slot
    work: Count
    quorate: bool
    yielding: bool = False
    ancestors: Annotated[tuple[EpochField, ...], Meta(max_length=8)] = ()


class Where(_Message, frozen=True, tag="where"):
    """To somebody of another lineage: where are you now? Asked before giving way to a heartbeat, which may have been long on its way."""

    token: Count


class Here(Beat, frozen=True, tag="here"):
    """A heartbeat that answers a `Where`, with its token."""

    token: Count = 0


class Join(_Message, frozen=True, tag="join"):
    """I hold the state before this slot and follow: let me be a member."""

    slot: Slot


class Leave(_Message, frozen=True, tag="leave"):
    """Do not wait for me any more."""


class Found(_Message, frozen=True, tag="found"):
    """To those who are left of a view that has lost its quorum: go on with me, from where `standing` says, in a new epoch."""

    standing: Standing


class Consent(_Message, frozen=True, tag="consent"):
    """I go on in this new epoch when it begins."""

    founded: EpochField


class Begun(_Message, frozen=True, tag="begun"):
    """An epoch that follows on this one has begun, from where `standing` says: all of its members have consented."""

    standing: Standing


Message: TypeAlias = (
    Ready
    | Have
    | Propose
    | Accept
    | Commit
    | Prepare
    | Promise
    | CatchUp
    | Rulings
    | Beat
    | Where
    | Here
    | Join
    | Leave
    | Found
    | Consent
    | Begun
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """The bytes of a message, at most 64 KiB."""
    packed = _encoder.encode(message)
    if len(packed) > MAX_MESSAGE_NBYTES:
        raise ValueError(f"{type(message).__name__} of {len(packed)} bytes, at most {MAX_MESSAGE_NBYTES}")
    return packed


def unpack(packed: bytes | bytearray | memoryview) -> Message:
    """The message in these bytes. Raises `RefusedMessage` for anything else, and nothing else whatever the bytes are."""
    if len(packed) > MAX_MESSAGE_NBYTES:
        raise RefusedMessage(f"{len(packed)} bytes, at most {MAX_MESSAGE_NBYTES}")
    try:
        return _decoder.decode(packed)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedMessage(str(error)) from None


def fit(rulings: list[Ruling]) -> tuple[Ruling, ...]:
    """As many of the first rulings as one message takes."""
    found: list[Ruling] = []
    room = MAX_MESSAGE_NBYTES - 256
    for ruling in rulings[:MAX_RULINGS]:
        room -= len(_encoder.encode(ruling))
        if room < 0:
            break
        found.append(ruling)
    return tuple(found)
