"""Records of the notice board: at most 1 KB, signed, for one run, and short-lived.

    magic 4 | run 16 | expiry 8 (float64, seconds since 1970) | key 32 | record | signature 64

The expiry also says which of two records of a member is the newer one. Only who holds the key can make a later one.
"""

import asyncio
import struct
import time
from dataclasses import dataclass

from thinwire.comms.swarm.envelope import EnvelopeError
from thinwire.comms.swarm.identity import SIGNATURE_NBYTES, Identity, verify
from thinwire.comms.swarm.transport import MAX_RECORD_NBYTES, Key

LIFE_S = 55.0  # of a record; announce it again before
MAX_LIFE_S = 65.0  # what a reader grants; clocks may differ a little
_HEAD = struct.Struct("<4s16sd32s")
_MAGIC = b"tw\1r"
MAX_NBYTES = _HEAD.size + MAX_RECORD_NBYTES + SIGNATURE_NBYTES


@dataclass(frozen=True)
class Record:
    """A record whose signature was right."""

    run: bytes
    expiry: float
    key: Key
    body: bytes
    raw: bytes


def write_record(identity: Identity, run: bytes, body: bytes, now: float | None = None) -> Record:
    """A signed record that lives `LIFE_S` from `now`; raises `ValueError` when it is too large."""
    if len(body) > MAX_RECORD_NBYTES:
        raise ValueError(f"a record of {len(body)} bytes is above {MAX_RECORD_NBYTES}")
    expiry = (time.time() if now is None else now) + LIFE_S
    signed = _HEAD.pack(_MAGIC, run, expiry, identity.key) + body
    return Record(run, expiry, identity.key, body, signed + identity.sign(signed))


def read_record(raw: object, *, run: bytes | None = None, now: float | None = None) -> Record:
    """Check a record and its signature, and its time unless `now` is None; raises `EnvelopeError` with the reason."""
    record = peek_record(raw, now=now)
    if run is not None and record.run != run:
        raise EnvelopeError("record: wrong run")
    if not verify(record.key, record.raw[:-SIGNATURE_NBYTES], record.raw[-SIGNATURE_NBYTES:]):
        raise EnvelopeError("record: bad signature")
    return record


def peek_record(raw: object, *, now: float | None = None) -> Record:
    """The same but for the signature, which costs a thousand times more."""
    if not isinstance(raw, bytes) or not _HEAD.size + SIGNATURE_NBYTES <= len(raw):
        raise EnvelopeError("record: malformed")
    if len(raw) > MAX_NBYTES:
        raise EnvelopeError("record: too large", f"{len(raw)} bytes")
    magic, run, expiry, key = _HEAD.unpack_from(raw)
    if magic != _MAGIC:
        raise EnvelopeError("record: malformed", "unsigned, or of another version")
    if now is not None and not expiry > now:
        raise EnvelopeError("record: expired")
    if now is not None and not expiry <= now + MAX_LIFE_S:
        raise EnvelopeError("record: far expiry", f"{expiry - now:.0f} s from now")
    return Record(run, expiry, key, raw[_HEAD.size : -SIGNATURE_NBYTES], raw)


async def read_many(raws: list[object], *, run: bytes, now: float | None, refused: "dict[str, int]") -> dict[Key, Record]:
    """The newest good record of each member; others are served between signatures."""
    newest: dict[Key, Record] = {}
    for i, raw in enumerate(raws):
        if i % 8 == 7:
            await asyncio.sleep(0)
        try:
            record = read_record(raw, run=run, now=now)
        except EnvelopeError as error:
            refused[error.reason] += 1
            continue
        if record.key not in newest or record.expiry > newest[record.key].expiry:
            newest[record.key] = record
    return newest
