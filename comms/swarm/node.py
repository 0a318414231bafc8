"""A member's end of the network over libp2p: hivemind's p2pd and DHT, in the event loop that starts it.

p2pd is watched: when it dies alone, it is started again under the same identity and port, and streams are made again.
"""

import asyncio
import contextlib
import logging
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinwire.comms.swarm.blobs import Blob, BlobStore
from thinwire.comms.swarm.bulk import ASK, PUSH, Bulk
from thinwire.comms.swarm.chunks import Streams
from thinwire.comms.swarm.dht import Board
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.fetching import FETCH
from thinwire.comms.swarm.identity import Identity, key_of, raw_peer_id_of
from thinwire.comms.swarm.notices import QUESTION, Notices
from thinwire.comms.swarm.p2pd import Daemon, DaemonOptions, can_relay, is_public, key_in
from thinwire.comms.swarm.streams import Peers
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key, PeerError, Transport

log = logging.getLogger("thinwire")

LINK = "/thinwire/link/1"
CLOCK = "thinwire/clock"  # the question that asks for the time
_DIAL_S = 15.0
_FIND_S = 5.0
_RESTART_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


class Node(Transport):
    """A member that others reach over libp2p.

    `identity` is the key, or the file that holds it (`Identity.save`); `initial_peers` are multiaddrs of members to start from, any of
    which may be away (those that `AddressBook.recall` returns, say).
    """

    def __init__(
        self,
        identity: Identity | str | Path,
        *,
        initial_peers: Sequence[str] = (),
        options: DaemonOptions | None = None,
        store: BlobStore | None = None,
    ) -> None:
        self.identity = identity if isinstance(identity, Identity) else Identity.load(identity)
        super().__init__(self.identity.key, store=store)
        self.initial_peers = [address for address in initial_peers if key_in(address) != self.key]
        self.restarts = 0
        self._options = options or DaemonOptions()
        if self._options.relays is not None and not self._options.relays:
            self._options = replace(self._options, relays=tuple(filter(can_relay, self.initial_peers)))
        if self._options.punches is None:  # a router is in between only where peers are on the internet, and this node is not
            reached = self._options.public or any(map(is_public, self._options.announce))
            others = [*self.initial_peers, *(self._options.relays or ())]
            self._options = replace(self._options, punches=not reached and any(map(is_public, others)))
        self._daemon: Daemon | None = None
        self._addresses: list[str] = []
        self._standing = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._peers = Peers(self.key, self.nonce, self._dial, self.refused)
        self._bulk = Bulk(self._open, self.blobs, self.serve, self.traffic)
        self._board = Board(self.key, lambda peer: self.admit(peer), self.refused)
        self._notices = Notices(self.identity, self._board, self._bulk.ask, self._known, self.refused)
        self.serve[QUESTION] = self._notices.answer
        self.serve[CLOCK] = _clock

    async def start(self) -> None:
        self._peers.on_message = self._heard
        self._peers.on_turn = lambda peer, up: self.on_up(peer) if up else self.on_down(peer)
        self._bulk.accept = lambda peer, digest, nbytes: self.accept_blob(peer, digest, nbytes)
        self._bulk.on_blob = lambda peer, digest, data: self.on_blob(peer, digest, data)
        await self._launch()
        self._watcher = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        self._standing.clear()
        try:
            if self._watcher is not None:
                await end([self._watcher])
                self._watcher = None
            await self._peers.close()
            await end(self._serving)
            await self._board.detach()
        finally:  # whoever waits for all that may lose patience: p2pd is not left alone
            if self._daemon is not None:
                daemon, self._daemon = self._daemon, None
                await daemon.close()

    def addresses(self) -> list[str]:
        return [f"{address}/p2p/{self.identity.peer_id}" for address in self._addresses]

    def is_up(self, peer: Key) -> bool:
        return self._peers.is_up(peer)

    def process(self, peer: Key) -> bytes | None:
        return self._peers.process(peer)

    def connect(self, peer: Key, addresses: Sequence[str] = ()) -> None:
        self._peers.connect(peer, tuple(addresses))

    def disconnect(self, peer: Key) -> None:
        self._peers.disconnect(peer)

    def send(self, peer: Key, message: bytes) -> None:
        if self._peers.send(peer, message):
            self.traffic.sent_nbytes += len(message)

    def push(self, peer: Key, blob: Blob) -> "asyncio.Future[None]":
        return self._keep(self._bulk.push(peer, blob))

    async def fetch(self, digest: bytes, nbytes: int, holders: Sequence[Key], into: memoryview | None = None) -> bytes:
        return await self._bulk.fetch(digest, nbytes, holders, into)

    async def ask(self, peer: Key, name: str, request: bytes, limit_nbytes: int = MAX_MESSAGE_NBYTES, *, timeout_s: float = 10.0) -> bytes:
        return await self._bulk.ask(peer, name, request, limit_nbytes, timeout_s)

    async def announce(self, run: str, record: bytes) -> None:
        await self._board.meet(self._known())
        await self._notices.announce(run, record)

    async def lookup(self, run: str) -> dict[Key, bytes]:
        return await self._notices.lookup(run)

    # ------------------------------------------------------------------ p2pd

    async def _launch(self) -> None:
        """Start p2pd, take streams, find the initial peers."""
        with tempfile.TemporaryDirectory(prefix="thinwire-key-") as folder:  # p2pd reads it once: a key that is not kept leaves no file
            key_file = Path(folder, "key")
            self.identity.save(key_file)
            daemon = await Daemon.start(key_file, self._options)
        try:
            if daemon.p2p.peer_id.to_bytes() != raw_peer_id_of(self.key):
                raise PeerError("p2pd did not start", "it runs under another identity")
            self._addresses = await daemon.addresses()
            self._options = self._options.with_ports_of(self._addresses)
            await daemon.p2p.add_binary_stream_handler(LINK, self._handler(self._peers.welcome))
            for protocol in (PUSH, FETCH, ASK):
                await daemon.p2p.add_binary_stream_handler(protocol, self._handler(self._bulk_welcome(protocol)))
            await self._find(daemon)
            await self._board.attach(daemon.p2p, self._known(), client_mode=self._options.client_mode)
        except BaseException as error:
            await daemon.close()
            if isinstance(error, Exception) and not isinstance(error, PeerError):  # hivemind raises anything when p2pd dies now
                raise PeerError("p2pd did not start", repr(error)) from error
            raise
        self._daemon = daemon
        self._standing.set()

    async def _find(self, daemon: Daemon) -> None:
        """Connect to the initial peers, all at once; who is not there in a few seconds is dialled when it is needed."""
        known = [(key_in(address), address) for address in self.initial_peers]
        dials = [self._keep(daemon.dial(raw_peer_id_of(key), [address])) for key, address in known if key is not None]
        if dials:
            await asyncio.wait(dials, timeout=_FIND_S)

    def _known(self) -> list[Key]:
        """Peers that are up, then those to start from."""
        initial = [key_in(address) for address in self.initial_peers]
        return [*self._peers.up(), *(key for key in initial if key is not None)]

    async def _watch(self) -> None:
        """Start p2pd again whenever it has died."""
        pause_s = _RESTART_PAUSE_S
        while True:
            assert self._daemon is not None
            await asyncio.wait([self._daemon.ended])
            self._standing.clear()
            await self._board.detach()
            await self._daemon.close()
            while not self._standing.is_set():
                self.restarts += 1
                try:
                    await self._launch()
                    pause_s = _RESTART_PAUSE_S
                except PeerError as error:
                    self.refused[error.reason] += 1
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    await asyncio.sleep(pause_s)

    async def _open(self, peer: Key, protocol: str) -> Streams:
        daemon = self._daemon
        if daemon is None or not self._standing.is_set():
            raise PeerError("p2pd is gone", "it is being started again")
        try:
            return await asyncio.wait_for(daemon.open(raw_peer_id_of(peer), protocol), _DIAL_S)
        except asyncio.TimeoutError as error:
            raise PeerError("unreachable", f"no answer in {_DIAL_S:.0f} s") from error

    async def _dial(self, peer: Key, addresses: tuple[str, ...]) -> Streams:
        """A control stream, over a connection made to one of `addresses` if there is none."""
        await self._standing.wait()
        if addresses and self._daemon is not None:
            with contextlib.suppress(PeerError, asyncio.TimeoutError):  # p2pd may know better ones
                await asyncio.wait_for(self._daemon.dial(raw_peer_id_of(peer), addresses), _DIAL_S)
        return await self._open(peer, LINK)

    def _bulk_welcome(self, protocol: str) -> Callable[[Key, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        return lambda peer, reader, writer: self._bulk.welcome(protocol, peer, reader, writer)

    def _handler(self, welcome: Callable[[Key, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> Any:
        """What p2pd calls for each stream that a peer opens: nothing that the peer does gets out of here."""

        async def handle(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            try:
                peer = key_of(info.peer_id.to_bytes())
                if peer is None or not self.admit(peer):
                    raise PeerError("stranger")
                await welcome(peer, reader, writer)
            except PeerError as error:
                self.refused[error.reason] += 1
            except asyncio.CancelledError:
                pass  # of close: asyncio would report it
            except Exception:
                log.exception("a stream of a peer could not be served")
            finally:
                self._serving.discard(task)
                writer.close()

        return handle

    def _heard(self, peer: Key, message: bytes) -> None:
        self.traffic.received_nbytes += len(message)
        self.on_message(peer, message)

    def _keep(self, work: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        task = asyncio.ensure_future(work)
        self._serving.add(task)
        task.add_done_callback(self._kept)
        return task

    def _kept(self, task: "asyncio.Task[None]") -> None:
        self._serving.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; nobody need


async def _clock(peer: Key, request: bytes) -> bytes:
    """What time it is here, for `thinwire doctor` over there."""
    return struct.pack("<d", time.time())
