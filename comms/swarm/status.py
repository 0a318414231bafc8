"""What a member says about itself when asked for its status: a few numbers, checked on reading like everything that a peer sends."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

MAX_NBYTES = 4 << 10
QUESTION = "status"  # the name under which members answer
MOST_REASONS, MOST_ABSENT, MOST_HASHES = 8, 32, 8

Word = Annotated[str, Meta(pattern="^[a-z0-9 ]{0,64}\\Z")]  # it is printed: nothing that a terminal would obey
Reason = Annotated[str, Meta(pattern="^[ -~]{1,64}\\Z")]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Seconds = Annotated[int, Meta(ge=0, le=1 << 31)]
Span = Annotated[float, Meta(ge=0, le=float(1 << 31))]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{16}\\Z")]
Reasons = Annotated[dict[Reason, Count], Meta(max_length=MOST_REASONS)]


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`round` is the next to be decided, `applied` the next that this member's optimizer lands; bytes since it started, by its transport.

    - `epoch` are the first digits of its lineage; `members` how many decide the next round.
    - `state`: "training"; "syncing" while its payload waits for the decision; "joining" before it first is a member, "healing" before it is
      one again. `entering_s` is how long it was that before it became the member that it is since `member_s`.
    - `counted` rounds had its payload in them, which were `payload` bytes; `skipped` are the others in which it was a member, by reason.
    - `rejected` counts messages and payloads that it refused, `reasons` the most frequent of why. `late` are those of rounds that are over
      or not begun here, and attempts to reach who was not there: they come with every round, and say nothing against anybody.
    - `hashes`: of the replica before a round, for the last rounds that verified.
    - `absent`: members that it cannot talk to, by the first digits of their keys: "left", "down" or "silent".
    - `loss` is what the script has told, if anything.
    """

    round: Count
    applied: Count
    epoch: Word = ""
    state: Word = "training"
    members: Count = 0
    loss: float | None = None
    sent: Count = 0
    received: Count = 0
    payload: Count = 0
    counted: Count = 0
    skipped: Reasons = {}
    late: Count = 0
    rejected: Count = 0
    reasons: Reasons = {}
    hashes: Annotated[dict[Count, Hash], Meta(max_length=MOST_HASHES)] = {}
    absent: Annotated[dict[Hash, Word], Meta(max_length=MOST_ABSENT)] = {}
    entering_s: Span = 0.0
    member_s: Span = 0.0
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
