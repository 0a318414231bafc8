"""One string that is all a newcomer needs: the run's name, where its members are, whom to trust, and a pass.

    tw1 + base58( flags 1 | run id | members: key 32 each | addresses: member's number, head | secret 32 | sha256 of all, 4 )

Letters and digits only, so a double click selects it and no shell or chat program changes it. An invitation with a secret is one: who
reads it can join.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import get_args

from thinwire.comms.swarm.envelope import Trust
from thinwire.comms.swarm.identity import base58, key_of, peer_id_of, unbase58
from thinwire.comms.swarm.transport import Key

PREFIX = "tw1"
# The environment that `thinwire join` sets and `SwarmGroup.from_env` reads: this string, a key file, a folder for the history.
INVITE, IDENTITY, HISTORY = "THINWIRE_INVITE", "THINWIRE_IDENTITY", "THINWIRE_HISTORY"
MAX_ADDRESSES = 16
MAX_MEMBERS = 64
_MAX_LENGTH = 6000
_TRUST = get_args(Trust)
_CHECK_NBYTES = 4


class InviteError(ValueError):
    """A string that is no invitation; says in one sentence why."""


@dataclass(frozen=True)
class Invite:
    """An invitation.

    - `addresses`: multiaddrs with /p2p/<peer id>, tried in this order.
    - `members`: keys to trust in a federation, at least those in the addresses.
    - `secret`: 32 bytes that members know; who proves to know it (`pass_for`) may join a federation. Empty: nobody need.
    """

    run_id: str
    addresses: tuple[str, ...]
    trust: Trust = "federation"
    members: tuple[Key, ...] = ()
    secret: bytes = b""

    def __post_init__(self) -> None:
        """Check everything that would not survive the journey; raises `InviteError`."""
        if not 1 <= len(self.run_id.encode()) <= 128:
            raise InviteError("a run id has 1 to 128 bytes")
        if self.trust not in _TRUST:
            raise InviteError(f"trust is one of {', '.join(_TRUST)}")
        if len(self.secret) not in (0, 32):
            raise InviteError("a secret has 32 bytes")
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise InviteError(f"an invitation has 1 to {MAX_ADDRESSES} addresses")
        if any(len(key) != 32 for key in self.members):
            raise InviteError("a key has 32 bytes")
        known = dict.fromkeys([*(_split(address)[1] for address in self.addresses), *self.members])
        if len(known) > MAX_MEMBERS:
            raise InviteError(f"an invitation names at most {MAX_MEMBERS} members")
        object.__setattr__(self, "members", tuple(known))

    def __str__(self) -> str:
        """The string to paste."""
        run = self.run_id.encode()
        out = bytearray([_TRUST.index(self.trust) | (0x80 if self.secret else 0), len(run)]) + run
        out += bytes([len(self.members)]) + b"".join(self.members) + bytes([len(self.addresses)])
        for address in self.addresses:
            head, key = _split(address)
            out += struct.pack("<BH", self.members.index(key), len(head)) + head.encode()
        out += self.secret
        return PREFIX + base58(b"\1" + out + _check(bytes(out)))  # the 1 keeps leading zeros

    @classmethod
    def parse(cls, text: str) -> "Invite":
        """Read the string, whatever white space it collected; raises `InviteError`."""
        text = "".join(text.split())
        if not text.startswith("tw"):
            raise InviteError("this is no invitation: those begin with tw1")
        if not text.startswith(PREFIX):
            raise InviteError("this invitation is of another version: both sides need the same thinwire")
        raw = unbase58(text[len(PREFIX) :], _MAX_LENGTH)
        if raw is None or len(raw) < 8 or raw[0] != 1:
            raise InviteError("this invitation is damaged: copy all of it, and nothing else")
        body, check = raw[1:-_CHECK_NBYTES], raw[-_CHECK_NBYTES:]
        if _check(body) != check:
            raise InviteError("this invitation is damaged or incomplete: its checksum is wrong")
        try:
            return _read(body)
        except (IndexError, UnicodeDecodeError, struct.error) as error:
            raise InviteError("this invitation makes no sense: ask for another") from error

    def __repr__(self) -> str:
        return f"Invite({self.run_id!r}, {len(self.addresses)} addresses, {self.trust})"  # no secret in a log


def pass_for(secret: bytes, run_id: str, key: Key) -> bytes:
    """What proves that the owner of `key` knows the secret of a run, 32 bytes; useless to anybody else."""
    return hmac.digest(secret, b"thinwire pass\0" + run_id.encode() + b"\0" + key, "sha256")


def is_pass(proof: bytes, secret: bytes, run_id: str, key: Key) -> bool:
    """Whether `proof` is the pass of `key`; always False where there is no secret."""
    return len(secret) == 32 and hmac.compare_digest(proof, pass_for(secret, run_id, key))


def _check(body: bytes) -> bytes:
    return hashlib.sha256(b"thinwire invite\0" + body).digest()[:_CHECK_NBYTES]


def _split(address: str) -> tuple[str, Key]:
    """A multiaddr as the way to a member and its key."""
    head, found, peer_id = address.rpartition("/p2p/")
    key = key_of(peer_id) if found else None
    if key is None or not head.startswith("/") or not head.isascii() or not head.isprintable() or len(head) > 512:
        raise InviteError(f"{address[:120]!r} is no address of a member: /ip4/.../tcp/.../p2p/12D3Koo...")
    return head, key


def _read(body: bytes) -> Invite:
    """An invitation from its bytes; raises IndexError and the like when they run over the end."""
    at = 0

    def take(nbytes: int) -> bytes:
        nonlocal at
        at += nbytes
        if at > len(body):
            raise IndexError
        return body[at - nbytes : at]

    flags = take(1)[0]
    run_id = take(take(1)[0]).decode()
    members = [take(32) for _ in range(take(1)[0])]
    addresses = []
    for _ in range(take(1)[0]):
        member, size = struct.unpack("<BH", take(3))
        addresses.append(f"{take(size).decode('ascii')}/p2p/{peer_id_of(members[member])}")
    secret = take(32) if flags & 0x80 else b""
    if at != len(body):
        raise IndexError
    return Invite(run_id, tuple(addresses), _TRUST[flags & 0x7F], tuple(members), secret)
