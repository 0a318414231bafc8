"""One Ed25519 key is everything a member is: its name, its libp2p identity, what signs its words and records.

The key file is what libp2p calls a private key protobuf, so `p2pd -id` reads the very same file. The peer id of an Ed25519 key holds
the public key itself: names and peer ids turn into one another without a table.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thinwire.comms.swarm.transport import Key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_FILE_HEAD = bytes([0x08, 0x01, 0x12, 0x40])  # protobuf: key type 1 = Ed25519, 64 bytes: seed and public key
_ID_HEAD = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])  # multihash "identity" of a protobuf: key type 1, 32 bytes
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
SIGNATURE_NBYTES = 64


class IdentityFileError(RuntimeError):
    """A key file that must not or cannot be used; says what to do."""


@dataclass(frozen=True, eq=False, repr=False)
class Identity:
    """A private key and the name that goes with it."""

    key: Key
    _private: "Ed25519PrivateKey"

    @classmethod
    def generate(cls) -> "Identity":
        """A new one, in memory only."""
        return cls.from_seed(os.urandom(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> "Identity":
        """The one that 32 secret bytes stand for."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(private.public_key().public_bytes_raw(), private)

    @classmethod
    def load(cls, path: str | Path) -> "Identity":
        """Read a key file; raises `IdentityFileError` when it is damaged or others can read it, `FileNotFoundError` when absent."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise IdentityFileError(f"{path} is no ordinary file")
            if status.st_mode & 0o077:
                raise IdentityFileError(f"others can read the key in {path}: chmod 600 {path}, or make another with thinwire keygen")
            data = file.read(69)
        if len(data) != 68 or not data.startswith(_FILE_HEAD):
            raise IdentityFileError(f"{path} holds no Ed25519 key: make one with thinwire keygen")
        identity = cls.from_seed(data[4:36])
        if identity.key != data[36:]:
            raise IdentityFileError(f"{path} is damaged: its halves do not belong together")
        return identity

    @classmethod
    def load_or_create(cls, path: str | Path) -> "Identity":
        """Read a key file, or make one where there is none; two processes that do so at once get the same key."""
        try:
            return cls.load(path)
        except FileNotFoundError:
            identity = cls.generate()
            try:
                identity.save(path)
            except FileExistsError:
                return cls.load(path)
            return identity

    def save(self, path: str | Path) -> None:
        """Write the key file, 0600, whole or not at all; raises `FileExistsError` rather than replace one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(descriptor)
            os.link(draft, path)  # unlike a rename, never over another key
        finally:
            os.unlink(draft)

    def to_bytes(self) -> bytes:
        """The content of the key file: 68 secret bytes."""
        return _FILE_HEAD + self._private.private_bytes_raw() + self.key

    def sign(self, data: bytes) -> bytes:
        """A signature of 64 bytes."""
        return self._private.sign(data)

    @property
    def peer_id(self) -> str:
        """How libp2p writes the name."""
        return peer_id_of(self.key)

    def __repr__(self) -> str:
        return f"Identity({self.key.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a private key does not travel: save it to a file of its own")


def verify(key: Key, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is what the owner of `key` made of `data`; False for anything malformed."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def peer_id_of(key: Key) -> str:
    """The libp2p peer id (base58) of a member."""
    if len(key) != 32:
        raise ValueError(f"a key has 32 bytes, not {len(key)}")
    return base58(_ID_HEAD + key)


def raw_peer_id_of(key: Key) -> bytes:
    """The libp2p peer id of a member, 38 bytes."""
    return _ID_HEAD + key


def key_of(peer_id: str | bytes) -> Key | None:
    """The member behind a peer id, base58 or raw; None when it is not that of an Ed25519 key."""
    raw = unbase58(peer_id) if isinstance(peer_id, str) else peer_id
    return raw[6:] if raw is not None and len(raw) == 38 and raw.startswith(_ID_HEAD) else None


def base58(data: bytes) -> str:
    """Bytes in the alphabet of Bitcoin, as libp2p writes them."""
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def unbase58(text: str, limit: int = 128) -> bytes | None:
    """What `base58` wrote, at most `limit` characters; None when it is nothing of the kind."""
    number = 0
    if len(text) > limit:
        return None
    for character in text:
        digit = _BASE58.find(character)
        if digit < 0:
            return None
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
