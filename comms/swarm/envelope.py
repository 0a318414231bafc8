"""Signed, replay-proof frames around control messages (stand-in)."""

import struct
from collections.abc import Collection

from thinwire.comms.swarm.identity import Identity, verify

_HEAD = struct.Struct("<Q8sQ")


class EnvelopeError(ValueError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Envelopes:
    def __init__(self, identity: Identity, nonce: bytes, run: int, *, trust: str = "lan", allowed: Collection[bytes] = ()) -> None:
        self._identity, self._nonce, self._run, self._allowed = identity, nonce, run, frozenset(allowed)
        self._trust = trust
        self._count = 0

    def close(self, body: bytes) -> bytes:
        self._count += 1
        head = _HEAD.pack(self._run, self._nonce, self._count)
        return self._identity.sign(b"thinwire control 1\0" + head + body) + head + body

    def open(self, peer: bytes, data: bytes) -> tuple[bytes, bytes]:
        if len(data) < 64 + _HEAD.size:
            raise EnvelopeError("short")
        if not verify(peer, b"thinwire control 1\0" + data[64:], data[:64]):
            raise EnvelopeError("signature")
        run, nonce, _ = _HEAD.unpack_from(data, 64)
        if run != self._run:
            raise EnvelopeError("run")
        return nonce, data[64 + _HEAD.size :]
