"""What every control message travels in: signed by its sender, for one run, and good for one reading.

    magic 4 | run 16 | plan 8 | epoch 16 | round 8 | fragment 4 | sender 32 | nonce 8 | counter 8 | body | signature 64

little-endian; the signature is of everything before it. No time of day is in it: a clock that is wrong changes nothing. A replay is known
by its counter, within one incarnation (key, nonce) of the sender; whether the incarnation, the epoch and the slot are still current is for
the protocol above to say, which knows.
"""

import hashlib
import os
import struct
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from thinwire.comms.swarm.identity import SIGNATURE_NBYTES, Identity, verify
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key

Trust = Literal["lan", "federation", "open"]
MAX_SENDERS = 4096  # whose windows are remembered; those silent longest are forgotten first
MAX_INCARNATIONS = 4  # of one sender
_MAGIC = b"tw\1e"
_HEAD = struct.Struct("<4s16sQ16sQI32s8sQ")
_WINDOW = 1024  # counters below the highest that may still come, out of order
OVERHEAD_NBYTES = _HEAD.size + SIGNATURE_NBYTES
MAX_BODY_NBYTES = MAX_MESSAGE_NBYTES - OVERHEAD_NBYTES


class EnvelopeError(ValueError):
    """A message that is not taken; `reason` is a word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """What a message is about: the hash of model layout and settings, the lineage (first 16 bytes of its digest), the slot."""

    plan: int = 0
    epoch: bytes = bytes(16)
    round: int = 0
    fragment: int = 0


@dataclass(frozen=True)
class Letter:
    """An opened envelope."""

    sender: Key
    nonce: bytes
    counter: int
    place: Place
    body: bytes


class Envelopes:
    """Seals this member's messages and opens those of others.

    - `trust`: "lan" and "open" take a message signed by any key, "federation" only by those in `allow`.
    - `plan`: when not None, messages about another plan are refused.
    - `refused`: how many were not taken, by reason.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: str,
        *,
        nonce: bytes | None = None,
        trust: Trust = "federation",
        allow: Collection[Key] = (),
        plan: int | None = None,
        refused: Counter[str] | None = None,
    ) -> None:
        if trust not in get_args(Trust):
            raise ValueError(f"trust is one of {', '.join(get_args(Trust))}, not {trust!r}")
        self.nonce = os.urandom(8) if nonce is None else nonce
        self.plan = plan
        self.trust: Trust = trust
        self.allow = frozenset(allow) | {identity.key}
        self.refused = Counter[str]() if refused is None else refused
        self._identity = identity
        self._run = run_tag(run_id)
        self._counter = 0
        self._windows: OrderedDict[Key, OrderedDict[bytes, _Window]] = OrderedDict()

    def seal(self, body: bytes, place: Place = Place()) -> bytes:
        """`body` in an envelope; raises `ValueError` above `MAX_BODY_NBYTES`."""
        if len(body) > MAX_BODY_NBYTES:
            raise ValueError(f"a message of {len(body)} bytes is above {MAX_BODY_NBYTES}")
        self._counter += 1
        head = _HEAD.pack(
            _MAGIC, self._run, place.plan, place.epoch[:16], place.round, place.fragment, self._identity.key, self.nonce, self._counter
        )  # fmt: skip
        return head + body + self._identity.sign(head + body)

    def open(self, frame: bytes, peer: Key | None = None) -> Letter:
        """What is in an envelope that came from `peer` (None: whoever brought it); raises `EnvelopeError` and counts it."""
        try:
            return self._open(frame, peer)
        except EnvelopeError as error:
            self.refused[error.reason] += 1
            raise

    def trusts(self, key: Key) -> bool:
        """Whether messages signed by `key` are taken."""
        return self.trust != "federation" or key in self.allow

    def _open(self, frame: bytes, peer: Key | None) -> Letter:
        """Cheap checks first: a stranger cannot make us verify signatures."""
        if not OVERHEAD_NBYTES <= len(frame) <= MAX_MESSAGE_NBYTES:
            raise EnvelopeError("malformed", f"{len(frame)} bytes")
        magic, run, plan, epoch, round_, fragment, sender, nonce, counter = _HEAD.unpack_from(frame)
        if magic != _MAGIC:
            raise EnvelopeError("malformed", "no envelope of this version")
        if run != self._run:
            raise EnvelopeError("wrong run")
        if peer is not None and sender != peer:
            raise EnvelopeError("wrong sender", "signed in another's name")
        if not self.trusts(sender):
            raise EnvelopeError("not allowed", f"the key {sender.hex()} is not on the list")
        if self.plan is not None and plan != self.plan:
            raise EnvelopeError("wrong plan", "another model, codec or settings")
        window = self._windows.get(sender, {}).get(nonce)
        if window is not None and not window.is_new(counter):
            raise EnvelopeError("replayed")
        signed = frame[:-SIGNATURE_NBYTES]
        if not verify(sender, signed, frame[-SIGNATURE_NBYTES:]):
            raise EnvelopeError("bad signature")
        self._window(sender, nonce).mark(counter)
        return Letter(sender, nonce, counter, Place(plan, epoch, round_, fragment), signed[_HEAD.size :])

    def _window(self, sender: Key, nonce: bytes) -> "_Window":
        """The window of an incarnation, which becomes the one heard last."""
        incarnations = self._windows.setdefault(sender, OrderedDict())
        window = incarnations.setdefault(nonce, _Window())
        for table, key, limit in ((incarnations, nonce, MAX_INCARNATIONS), (self._windows, sender, MAX_SENDERS)):
            table.move_to_end(key)
            if len(table) > limit:
                table.popitem(last=False)
        return window


class _Window:
    """Which counters have been seen: all up to some, and a bit for each of the last ones."""

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit i: highest - i

    def is_new(self, counter: int) -> bool:
        behind = self._highest - counter
        return counter > 0 and (behind < 0 or (behind < _WINDOW and not self._seen >> behind & 1))

    def mark(self, counter: int) -> None:
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, _WINDOW) | 1) & ((1 << _WINDOW) - 1)
            self._highest = counter
        else:
            self._seen |= 1 << -ahead


def run_tag(run_id: str) -> bytes:
    """The name of a run in 16 bytes."""
    return hashlib.sha256(b"thinwire run\0" + run_id.encode()).digest()[:16]
