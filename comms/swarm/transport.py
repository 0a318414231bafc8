"""What a group may ask of the network: control messages, blobs, questions, and a notice board; `Node` and `MemoryNode` do it.

A peer is *up* while messages can be sent to it: a control stream stands, whoever opened it. Messages to one peer arrive in order
or not at all; between a down and the next up some may be lost, so a protocol above must be able to say things again.
"""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from thinwire.comms.swarm.blobs import Blob, BlobStore

Key = bytes  # a member's Ed25519 public key, 32 bytes
MAX_MESSAGE_NBYTES = 64 << 10
MAX_RECORD_NBYTES = 900  # with name and signature it is 1 KB
MAX_QUEUED_MESSAGES = 256  # to one peer; beyond, the oldest are dropped


class PeerError(RuntimeError):
    """A peer could not be reached, did not answer in time, refused, or sent what may not be used; `reason` is a word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass
class Traffic:
    """What went through a node: bytes handed over, those that coding has saved of what was sent, and what was refused, by reason."""

    refused: Counter[str] = field(default_factory=Counter)
    sent_nbytes: int = 0
    received_nbytes: int = 0
    saved_nbytes: int = 0


def _nothing(*_: object) -> None:
    return None


def _welcome(*_: object) -> bool:
    return True


def _refuse(*_: object) -> bool:
    return False


class Transport(ABC):
    """One member's end of the network. All methods and callbacks run in the event loop that ran `start`; callbacks must not block.

    - `on_message(peer, message)`: a control message, whole, at most 64 KiB; libp2p has authenticated `peer`.
    - `on_up(peer)`, `on_down(peer)`: messages can be sent to the peer from now on; they cannot any more.
    - `accept_blob(peer, digest, nbytes)`: whether to take a pushed blob, asked before anything is allocated; at first nothing is taken.
    - `on_blob(peer, digest, data)`: a pushed blob is whole, its sha256 right, and it lies in `blobs`.
    - `admit(peer)`: whether to have anything to do with a peer; at first everybody is welcome.
    - `serve`: by name, who answers the questions of `ask`; what a handler raises as `PeerError` reaches the asker.
    - `sent_nbytes`, `received_nbytes`: messages, blobs (as they went, after coding) and answers handed over, without what libp2p adds.
    - `refused`: what was not taken from others, by reason.
    """

    def __init__(self, key: Key, *, store: BlobStore | None = None) -> None:
        if len(key) != 32:
            raise ValueError(f"a key has 32 bytes, not {len(key)}")
        self.key = key
        self.nonce = secrets.token_bytes(8)  # of this process
        self.admit: Callable[[Key], bool] = _welcome
        self.on_message: Callable[[Key, bytes], None] = _nothing
        self.on_up: Callable[[Key], None] = _nothing
        self.on_down: Callable[[Key], None] = _nothing
        self.on_blob: Callable[[Key, bytes, bytes], None] = _nothing
        self.accept_blob: Callable[[Key, bytes, int], bool] = _refuse
        self.serve: dict[str, Callable[[Key, bytes], Awaitable[bytes]]] = {}
        self.blobs = store if store is not None else BlobStore()
        self.traffic = Traffic()

    @property
    def sent_nbytes(self) -> int:
        return self.traffic.sent_nbytes

    @property
    def received_nbytes(self) -> int:
        return self.traffic.received_nbytes

    @property
    def refused(self) -> Counter[str]:
        return self.traffic.refused

    @abstractmethod
    async def start(self) -> None:
        """Be reachable; raises `PeerError` when that cannot be done."""

    @abstractmethod
    async def close(self) -> None:
        """End every stream and free everything; may be called twice."""

    @abstractmethod
    def addresses(self) -> list[str]:
        """Where others reach this member: multiaddrs that end in /p2p/<peer id>."""

    @abstractmethod
    def is_up(self, peer: Key) -> bool:
        """Whether messages can be sent to `peer` now."""

    @abstractmethod
    def process(self, peer: Key) -> bytes | None:
        """Which process of `peer` a message would reach now: another one after it has died and come back. None where that is not known."""

    @abstractmethod
    def connect(self, peer: Key, addresses: Sequence[str] = ()) -> None:
        """Keep a control stream to `peer` until `disconnect`: it is made again whenever it ends."""

    @abstractmethod
    def disconnect(self, peer: Key) -> None:
        """End the streams from and to `peer`; it may come back by itself."""

    @abstractmethod
    def send(self, peer: Key, message: bytes) -> None:
        """Send a control message; never blocks. Raises `ValueError` above 64 KiB."""

    @abstractmethod
    def push(self, peer: Key, blob: Blob) -> "asyncio.Future[None]":
        """Give `blob` to `peer`; the future ends when the peer has it whole, or with `PeerError`."""

    @abstractmethod
    async def fetch(self, digest: bytes, nbytes: int, holders: Sequence[Key], into: memoryview | None = None) -> bytes:
        """Get a blob from those who hold it, from several at once, going on at another when one stalls, ends early or lies.

        The bytes, or b"" when they were written `into` a buffer of `nbytes`. Raises `PeerError` when no holder is left.
        """

    @abstractmethod
    async def ask(self, peer: Key, name: str, request: bytes, limit_nbytes: int = MAX_MESSAGE_NBYTES, *, timeout_s: float = 10.0) -> bytes:
        """The answer of `peer` to one question, at most `limit_nbytes`; raises `PeerError`, also after `timeout_s` without an answer."""

    @abstractmethod
    async def announce(self, run: str, record: bytes) -> None:
        """Put `record` (at most 900 bytes) on the notice board of `run` under this member's key, for 60 s; signed."""

    @abstractmethod
    async def lookup(self, run: str) -> dict[Key, bytes]:
        """The records on the notice board of `run` whose signature is right and whose time has not run out."""
