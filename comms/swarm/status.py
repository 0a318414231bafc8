"""What a member says about itself when asked for its status: a few numbers, checked on reading like everything that a peer sends."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

MAX_NBYTES = 4 << 10
QUESTION = "status"  # the name under which members answer

Word = Annotated[str, Meta(pattern="^[a-z0-9 ]{0,64}$")]  # it is printed: nothing that a terminal would obey
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Seconds = Annotated[int, Meta(ge=0, le=1 << 31)]


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`round` is the next to be decided, `applied` the next that this member's optimizer lands; bytes since it started, by its transport.

    `epoch` are the first digits of its lineage; `state` is "member", "joining" or "alone"; `rejected` counts messages and payloads that it
    refused; `loss` is what the script has told, if anything.
    """

    round: Count
    applied: Count
    epoch: Word = ""
    state: Word = "member"
    members: Count = 0
    loss: float | None = None
    sent: Count = 0
    received: Count = 0
    rejected: Count = 0
    uptime_s: Seconds = 0


def encode(status: Status) -> bytes:
    """At most 4 KiB."""
    return msgspec.msgpack.encode(status)


def decode(blob: bytes) -> Status:
    """Of what a peer sent. Raises `ValueError` when it is no status."""
    if len(blob) > MAX_NBYTES:
        raise ValueError(f"a status of {len(blob)} bytes, at most {MAX_NBYTES}")
    try:
        return msgspec.msgpack.decode(blob, type=Status)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise ValueError(f"no status: {error}") from None
