"""A process's end of a run: a libp2p node in a thread of its own, a notice of its role on the board, and who else is there.

Whoever is found is connected to; questions go to one peer by name. The transport bounds all that a peer may send; the handlers given to
`serve` check the rest.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Literal

from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.board import read_notice, write_notice
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.loop import LoopThread
from thinwire.comms.swarm.p2pd import key_in
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key, PeerError, Transport

log = logging.getLogger("thinwire")

Role = Literal["trainer", "worker", "verifier"]
ROLES: tuple[Role, ...] = ("trainer", "worker", "verifier")
ANNOUNCE_S = 20.0  # a notice is read for 60 s
LOOK_S, LOOK_AGAIN_S = 0.5, 5.0  # while nobody is known, and after
MAX_PEERS = 256
Handler = Callable[[Key, bytes], Awaitable[bytes]]


class Network:
    """`transport(identity)` makes the node; by default one over libp2p that listens on `listen`."""

    def __init__(
        self,
        run: str,
        role: Role,
        *,
        identity: Identity,
        initial_peers: Sequence[str] = (),
        listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
        transport: Callable[[Identity], Transport] | None = None,
    ) -> None:
        self.run, self.role, self.identity = run, role, identity
        self._board = f"rl/{run}"
        self._initial = tuple(initial_peers)
        self._listen = tuple(listen)
        self.loop = LoopThread(f"thinwire-rl-{role}")
        self.transport = transport(identity) if transport else self._node()
        self._roles: dict[Key, Role] = {}
        self._held: Counter[bytes] = Counter()  # what several parts of a process give to others
        self._up = threading.Condition()
        self._task: asyncio.Task[None] | None = None
        self.transport.on_up = self.transport.on_down = self._turned

    def _node(self) -> Transport:
        from thinwire.comms.swarm.node import Node
        from thinwire.comms.swarm.p2pd import DaemonOptions

        options = DaemonOptions(listen=self._listen, port_map=not any("/127.0.0.1/" in address for address in self._listen))
        return Node(self.identity, initial_peers=self._initial, options=options)

    # -- life --------------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be reachable and announced; raises `PeerError` when that cannot be done."""
        self.loop.submit(self._start()).result()

    async def _start(self) -> None:
        await self.transport.start()
        for address in self._initial:
            key = key_in(address)
            if key is not None and key != self.identity.key:
                self.transport.connect(key, (address,))
        self._task = asyncio.ensure_future(self._live())

    def close(self) -> None:
        """Be gone; may be called twice."""
        if self.loop.loop.is_closed():
            return
        try:
            self.loop.submit(self._close()).result(10.0)
        except FutureTimeoutError:
            log.warning("the network did not close within 10 s")
        self.loop.close()

    async def _close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self.transport.close()

    def __enter__(self) -> Network:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _live(self) -> None:
        announced = float("-inf")
        while True:
            if time.monotonic() - announced > ANNOUNCE_S:
                announced = time.monotonic()
                await self._announce()
            await self._look()
            await asyncio.sleep(LOOK_AGAIN_S if self._roles else LOOK_S)

    async def _announce(self) -> None:
        try:
            await self.transport.announce(self._board, write_notice(self.role, self.transport.addresses()))
        except PeerError as error:
            log.debug("notice board: %s", error)

    async def _look(self) -> None:
        try:
            records = await self.transport.lookup(self._board)
        except PeerError as error:
            log.debug("notice board: %s", error)
            return
        for key, record in list(records.items())[:MAX_PEERS]:
            role, addresses = read_notice(record)
            if key == self.identity.key or role not in ROLES:
                continue
            if key not in self._roles and len(self._roles) >= MAX_PEERS:
                continue
            self.transport.connect(key, addresses)  # where it is now: one that was started again has moved
            with self._up:
                self._roles[key] = next(known for known in ROLES if known == role)
                self._up.notify_all()

    def _turned(self, peer: Key) -> None:
        with self._up:
            self._up.notify_all()

    # -- others ------------------------------------------------------------------------------------------------------------------------

    def serve(self, name: str, handler: Handler) -> None:
        """Answer the question `name`; the handler runs in the event loop and must not block it."""
        self.transport.serve[name] = handler

    def hold(self, blob: Blob) -> None:
        """Let others fetch it until as many `release` it as have held it; in the event loop."""
        self._held[blob.digest] += 1
        self.transport.blobs.put(blob)

    def release(self, digest: bytes) -> None:
        """One of those that held it needs it no more; in the event loop."""
        self._held[digest] -= 1
        if self._held[digest] <= 0:
            del self._held[digest]
            self.transport.blobs.drop(digest)

    def peers(self, role: Role) -> list[Key]:
        """Who has that role and can be reached now."""
        return [key for key, theirs in list(self._roles.items()) if theirs == role and self.transport.is_up(key)]

    def wait_for(self, good: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `good()`, looked at whenever somebody comes or goes; False when the time is up."""
        with self._up:
            return self._up.wait_for(good, timeout_s)

    def ask(self, peer: Key, name: str, request: bytes, *, limit_nbytes: int = MAX_MESSAGE_NBYTES, timeout_s: float = 10.0) -> bytes:
        """A question from another thread; raises `PeerError`."""
        return self.loop.submit(self.transport.ask(peer, name, request, limit_nbytes, timeout_s=timeout_s)).result()

    def fetch(self, digest: bytes, nbytes: int, holders: Sequence[Key]) -> bytes:
        """A blob from another thread; raises `PeerError`."""
        return self.loop.submit(self.transport.fetch(digest, nbytes, holders)).result()

    @property
    def addresses(self) -> list[str]:
        """Where others reach this process."""
        return self.transport.addresses()
