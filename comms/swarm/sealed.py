"""A payload on its way through the swarm: the frame with its sender's signature before it, so that anybody may pass it on.

    offset  0  signature  64 bytes  Ed25519 over everything behind it
           64  key        32        who made it
           96  nonce       8        of which incarnation
          104  frame                wire format v1: run, plan, round, fragment, member, checksum, payload

The sha256 of all of it names the payload in the round protocol.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.comms.swarm.identity import Identity, verify
from thinwire.comms.swarm.view import number_of
from thinwire.comms.wire import HEADER_NBYTES, Header, WireError, peek

SEAL_NBYTES = 104
_DOMAIN = b"thinwire payload 1\0"  # a signature of something else must not pass for one of a payload


@dataclass(frozen=True, eq=False)
class Sealed:
    """An opened payload: who made it, in which incarnation, and its frame with the header read."""

    key: bytes
    nonce: bytes
    header: Header
    frame: Tensor


def seal(identity: Identity, nonce: bytes, frame: bytes) -> bytes:
    """`frame` with the signature of this member before it."""
    body = identity.key + nonce + frame
    return identity.sign(_DOMAIN + body) + body


def unseal(blob: bytes, *, run: int, plan: int) -> Sealed:
    """Check who made a payload and that it is of this run and plan; its checksum and sizes are the judge's.

    Raises `WireError`, and nothing else, for any other bytes.
    """
    if len(blob) < SEAL_NBYTES + HEADER_NBYTES:
        raise WireError(f"sealed payload of {len(blob)} bytes, expected at least {SEAL_NBYTES + HEADER_NBYTES}")
    key, nonce = blob[64:96], blob[96:SEAL_NBYTES]
    if not verify(key, _DOMAIN + blob[64:], blob[:64]):
        raise WireError("signature does not match the payload")
    frame = torch.frombuffer(bytearray(blob[SEAL_NBYTES:]), dtype=torch.uint8)
    header = peek(frame)
    if header is None:
        raise WireError("payload holds no frame")
    for name, got, want in (("run", header.run, run), ("plan", header.plan, plan), ("member", header.member, number_of(key))):
        if got != want:
            raise WireError(f"{name} is {got!r}, expected {want!r}")
    return Sealed(key, nonce, header, frame)
