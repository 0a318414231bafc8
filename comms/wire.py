"""The frame around every payload (wire format v1): fixed size, little-endian, refused unless every field is the expected one.

    offset  0  magic    4 bytes  b"TWIR"
            4  version  u16      1
            6  flags    u16      ABSTAIN | LEAVING | SHARD
            8  run      u64      hash of the run's name: frames of another run are refused
           16  plan     u64      hash of model layout, codec and settings
           24  round    u64
           32  epoch    u32      generation of the membership
           36  fragment u32
           40  member   u32      who sent it
           44  steps    u32      inner steps behind this payload
           48  state    u64      hash of the sender's anchor before the round, 0 when not taken
           56  nbytes   u64      payload length
           64  checksum u64      xxh3-64 of bytes 0..63 and the payload
           72  payload

The receiver knows every size from its own plan, so nothing is allocated from what a frame claims.
"""

import struct
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

MAGIC = b"TWIR"
VERSION = 1
HEADER_NBYTES = 72
ABSTAIN = 1  # the payload must not be counted: its sender held non-finite numbers
LEAVING = 2  # the sender has no more training steps to contribute
SHARD = 4  # a part of a dense payload on its way to the member that sums it
_FLAGS = ABSTAIN | LEAVING | SHARD

_FIELDS = struct.Struct("<4sHHQQQIIIIQQ")
_CHECKSUM = struct.Struct("<Q")
assert _FIELDS.size + _CHECKSUM.size == HEADER_NBYTES


class WireError(ValueError):
    """What a peer sent is not what the plan says: the only thing a bad payload can cause."""


@dataclass(frozen=True)
class RoundKey:
    """Names one exchange: `epoch` of the membership, `round` agreed by the group, `fragment` of the model."""

    epoch: int
    round: int
    fragment: int


@dataclass(frozen=True)
class Header:
    """The fields of a frame; `nbytes` is the payload's length, `state` a hash of the sender's anchor or 0."""

    run: int
    plan: int
    key: RoundKey
    member: int
    flags: int
    steps: int
    state: int
    nbytes: int


def bytes_of(payload: Tensor) -> memoryview:
    """The bytes of a CPU tensor, without a copy where it is contiguous."""
    return memoryview(payload.detach().contiguous().view(torch.uint8).numpy().data).cast("B")


def frame(header: Header, payload: Tensor) -> Tensor:
    """Put `payload` (1-D uint8, CPU) behind its header; returns (72 + nbytes,) uint8.

    Raises `ValueError` when the payload is not `header.nbytes` long.

    >>> head = Header(1, 2, RoundKey(0, 3, 0), member=0, flags=0, steps=5, state=0, nbytes=4)
    >>> frame(head, torch.zeros(4, dtype=torch.uint8)).numel()
    76
    """
    if payload.dtype != torch.uint8 or payload.shape != (header.nbytes,):
        raise ValueError(f"frame needs a (nbytes={header.nbytes},) uint8 payload, got {tuple(payload.shape)} {payload.dtype}")
    key = header.key
    head = _FIELDS.pack(
        MAGIC, VERSION, header.flags, header.run, header.plan, key.round, key.epoch, key.fragment,
        header.member, header.steps, header.state, header.nbytes,
    )  # fmt: skip
    out = torch.empty(HEADER_NBYTES + header.nbytes, dtype=torch.uint8)
    view = bytes_of(out)
    view[: _FIELDS.size] = head
    out[HEADER_NBYTES:] = payload
    view[_FIELDS.size : HEADER_NBYTES] = _CHECKSUM.pack(_digest(head, view[HEADER_NBYTES:]))
    return out


def unframe(message: Tensor, *, run: int, plan: int, key: RoundKey, member: int, nbytes: int) -> tuple[Header, Tensor]:
    """Check a received frame against what this side expects; returns its header and a view of the payload.

    `flags`, `steps` and `state` are the sender's to say; every other field must be the expected one.
    Raises `WireError`, and nothing else, for any other bytes.

    >>> want = dict(run=1, plan=2, key=RoundKey(0, 3, 0), member=0, nbytes=4)
    >>> unframe(torch.zeros(76, dtype=torch.uint8), **want)
    Traceback (most recent call last):
    ...
    thinwire.comms.wire.WireError: magic is b'\\x00\\x00\\x00\\x00', expected b'TWIR'
    """
    if message.dtype != torch.uint8 or message.dim() != 1 or message.numel() != HEADER_NBYTES + nbytes:
        raise WireError(f"frame is {tuple(message.shape)} {message.dtype}, expected ({HEADER_NBYTES + nbytes},) uint8")
    view = bytes_of(message)
    head = bytes(view[: _FIELDS.size])
    magic, version, flags, got_run, got_plan, round_, epoch, fragment, sender, steps, state, length = _FIELDS.unpack(head)
    for name, got, want in (
        ("magic", magic, MAGIC),
        ("version", version, VERSION),
        ("payload length", length, nbytes),
        ("run", got_run, run),
        ("plan", got_plan, plan),
        ("epoch", epoch, key.epoch),
        ("round", round_, key.round),
        ("fragment", fragment, key.fragment),
        ("member", sender, member),
        ("unknown flags", flags & ~_FLAGS, 0),
    ):
        if got != want:
            raise WireError(f"{name} is {got!r}, expected {want!r}")
    (checksum,) = _CHECKSUM.unpack(view[_FIELDS.size : HEADER_NBYTES])
    if checksum != _digest(head, view[HEADER_NBYTES:]):
        raise WireError("checksum does not match the frame")
    return Header(run, plan, key, member, flags, steps, state, nbytes), message[HEADER_NBYTES:]


def peek(message: Tensor) -> Header | None:
    """The header of a frame that may be for another round or plan, or None when it is not a sound frame of ours."""
    if message.dtype != torch.uint8 or message.dim() != 1 or message.numel() < HEADER_NBYTES:
        return None
    head = bytes(bytes_of(message)[: _FIELDS.size])
    magic, version, flags, run, plan, round_, epoch, fragment, member, steps, state, nbytes = _FIELDS.unpack(head)
    if magic != MAGIC or version != VERSION or nbytes != message.numel() - HEADER_NBYTES:
        return None
    return Header(run, plan, RoundKey(epoch, round_, fragment), member, flags, steps, state, nbytes)


def with_checksum(message: Tensor) -> Tensor:
    """The same frame with its checksum made right again: how tests and attack tools reach the checks behind it."""
    fixed = message.clone()
    view = bytes_of(fixed)
    view[_FIELDS.size : HEADER_NBYTES] = _CHECKSUM.pack(_digest(bytes(view[: _FIELDS.size]), view[HEADER_NBYTES:]))
    return fixed


def _digest(head: bytes, payload: memoryview) -> int:
    hasher = xxhash.xxh3_64(head)
    hasher.update(payload)
    return hasher.intdigest()
