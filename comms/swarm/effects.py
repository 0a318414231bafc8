"""What a machine asks its driver to do. Nothing else leaves it."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from thinwire.comms.swarm.decision import Decision
from thinwire.comms.swarm.messages import Message
from thinwire.comms.swarm.view import Key, Slot


@dataclass(frozen=True)
class Send:
    """A control message to each of these."""

    to: tuple[Key, ...]
    message: Message


@dataclass(frozen=True)
class Want:
    """Fetch the payload of `key`, likeliest holders first, and tell by `holds`; may be asked again while it is under way."""

    slot: Slot
    key: Key
    digest: bytes
    nbytes: int
    holders: tuple[Key, ...]


@dataclass(frozen=True)
class Push:
    """Send this payload, this member's own or one that it passes on, to each of these, unless it is under way already."""

    slot: Slot
    key: Key
    digest: bytes
    to: tuple[Key, ...]


@dataclass(frozen=True)
class Decided:
    """The group has decided, and every payload that counts is here."""

    decision: Decision


@dataclass(frozen=True)
class Rejoin:
    """This machine cannot go on with the group: adopt the state of one of `toward`, and follow it with a new machine and nonce."""

    why: str
    toward: tuple[Key, ...]


@dataclass(frozen=True)
class Record:
    """A line for the history: its kind and fields."""

    kind: str
    fields: dict[str, Any]


Effect: TypeAlias = Send | Want | Push | Decided | Rejoin | Record
