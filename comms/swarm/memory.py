"""The network inside one process, for tests: members with the interface of `Node`, and faults made at will.

Members may live in different event loops and threads. Between two members everything arrives in the order it was sent, `delay_s`
later; nothing is random. A silent cut loses what is sent meanwhile and tells nobody, as a lost route does; a loud one ends streams, as
a reset does.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from thinwire.comms.swarm.blobs import Blob, BlobStore, digest_of
from thinwire.comms.swarm.coding import travelled
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, MAX_QUEUED_MESSAGES, MAX_RECORD_NBYTES, Key, PeerError, Transport


class Network:
    """Members of one process and what lies between them. `delay_s`: one way, of everything; `stall_s`: when a transfer gives up."""

    def __init__(self, *, delay_s: float = 0.0, stall_s: float = 5.0) -> None:
        self.delay_s = delay_s
        self.stall_s = stall_s
        self.nodes: dict[Key, MemoryNode] = {}
        self.boards: dict[str, dict[Key, bytes]] = {}
        self._lock = threading.RLock()
        self._wishes: dict[tuple[Key, Key], None] = {}  # an ordered set: (who wants, whom)
        self._links: dict[tuple[Key, Key], None] = {}  # an ordered set: smaller key first
        self._silent: set[tuple[Key, Key]] = set()
        self._loud: set[tuple[Key, Key]] = set()
        self._frozen: set[Key] = set()
        self._wires: dict[tuple[Key, Key], _Wire] = {}
        self._changed: set[Callable[[], None]] = set()

    def node(self, key: Key, *, store: BlobStore | None = None) -> "MemoryNode":
        """A member that is not started; again after `kill`: a new incarnation."""
        return MemoryNode(self, key, store=store)

    def cut(self, a: Key, b: Key, *, one_way: bool = False, loud: bool = False) -> None:
        """Lose everything from `a` to `b`, and from `b` to `a` unless `one_way`; a `loud` cut also ends the streams."""
        with self._lock:
            (self._loud if loud else self._silent).update([(a, b)] if one_way else [(a, b), (b, a)])
            self._settle()

    def join(self, a: Key, b: Key) -> None:
        """Undo every cut between `a` and `b`."""
        with self._lock:
            for pair in ((a, b), (b, a)):
                self._silent.discard(pair)
                self._loud.discard(pair)
            self._settle()

    def kill(self, key: Key) -> None:
        """End a member as SIGKILL does: it does and hears nothing more, its peers' streams end at once."""
        with self._lock:
            node = self.nodes.pop(key, None)
            self._frozen.discard(key)
            if node is not None:
                node.alive = False
            self._wishes = {wish: None for wish in self._wishes if wish[0] != key}
            self._settle()

    def freeze(self, key: Key) -> None:
        """Stop a member as SIGSTOP does: streams stay, nothing moves."""
        with self._lock:
            self._frozen.add(key)

    def thaw(self, key: Key) -> None:
        """Let a frozen member go on; what was sent to it and by it meanwhile arrives."""
        with self._lock:
            self._frozen.discard(key)
            for (a, b), wire in self._wires.items():
                if key in (a, b):
                    wire.flow()
            self._settle()

    def _enter(self, node: "MemoryNode") -> None:
        with self._lock:
            if node.key in self.nodes:
                raise PeerError("key in use", "another member of this network has this key")
            self.nodes[node.key] = node
            self._settle()

    def _wish(self, a: Key, b: Key, wanted: bool) -> None:
        with self._lock:
            if wanted:
                self._wishes[a, b] = None
                if not self._possible(a, b):
                    node = self.nodes[a]
                    self._wire(b, a).put(node, lambda: node._turned(b, up=False, failed=True), now=True)
            else:
                self._wishes.pop((a, b), None)
            self._settle()

    def _linked(self, a: Key, b: Key) -> bool:
        return _pair(a, b) in self._links

    def _settle(self) -> None:
        """Make and end streams so that they are what members want and the cuts allow."""
        for a, b in list(self._links):
            if not self._possible(a, b) or not ({(a, b), (b, a)} & self._wishes.keys()):
                del self._links[a, b]
                self._tell(a, b, up=False)
        for wish in list(self._wishes):
            pair = _pair(*wish)
            if pair not in self._links and self._possible(*pair) and self._open(*pair) and self._open(pair[1], pair[0]):
                self._links[pair] = None
                self._tell(*pair, up=True)
        for wake in list(self._changed):
            wake()

    def _possible(self, a: Key, b: Key) -> bool:
        """Whether the two could have a stream, were nothing frozen or silently cut."""
        if a not in self.nodes or b not in self.nodes or (a, b) in self._loud or (b, a) in self._loud:
            return False
        return self.nodes[a].admit(b) and self.nodes[b].admit(a)

    def _open(self, a: Key, b: Key) -> bool:
        """Whether something sent from `a` would reach `b` by and by."""
        return self._possible(a, b) and (a, b) not in self._silent and not {a, b} & self._frozen

    def _tell(self, a: Key, b: Key, *, up: bool) -> None:
        for me, peer in ((a, b), (b, a)):
            node, other = self.nodes.get(me), self.nodes.get(peer)
            if node is not None:
                process = other.nonce if other is not None else b""
                turn = partial(node._turned, peer, up, process=process)
                self._wire(peer, me).put(node, turn, now=True)

    def _wire(self, a: Key, b: Key) -> "_Wire":
        return self._wires.setdefault((a, b), _Wire(self, a, b))

    def _carry(self, a: Key, b: Key, deliver: Callable[["MemoryNode"], object]) -> bool:
        """Hand something to `b`, in order; whether it has a chance to arrive."""
        with self._lock:
            node = self.nodes.get(b)
            if node is None or a not in self.nodes or not self._possible(a, b) or (a, b) in self._silent:
                return False
            self._wire(a, b).put(node, lambda: deliver(node))
            return True


class _Wire:
    """What is under way from one member to another: first in, first out, also where delays change."""

    def __init__(self, network: Network, a: Key, b: Key) -> None:
        self._network, self._ends = network, (a, b)
        self._queue: deque[tuple[MemoryNode, Callable[[], object], float]] = deque()

    def put(self, node: "MemoryNode", action: Callable[[], object], *, now: bool = False) -> None:
        delay_s = 0.0 if now else self._network.delay_s
        self._queue.append((node, action, node.loop.time() + delay_s))
        self._wake(node, delay_s)

    def flow(self) -> None:
        """Look again after a thaw."""
        for node, _, _ in self._queue:
            self._wake(node, 0.0)

    def _wake(self, node: "MemoryNode", delay_s: float) -> None:
        loop = node.loop
        if loop.is_closed():
            return
        if delay_s:
            loop.call_soon_threadsafe(loop.call_later, delay_s, self._deliver)
        else:
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Run in the receiver's loop: everything whose time has come."""
        while True:
            with self._network._lock:
                if not self._queue or self._network._frozen.intersection(self._ends):
                    return
                node, action, when = self._queue[0]
                early_s = when - node.loop.time()
                if early_s > 0:
                    node.loop.call_later(early_s, self._deliver)
                    return
                self._queue.popleft()
            if node.alive:
                action()


class MemoryNode(Transport):
    """A member of a `Network`. One that was killed does nothing: its key may be another incarnation's by now."""

    def __init__(self, network: Network, key: Key, *, store: BlobStore | None = None) -> None:
        super().__init__(key, store=store)
        self.network = network
        self.alive = False
        self.loop: asyncio.AbstractEventLoop
        self._up: dict[Key, bytes] = {}  # and which process of the peer that is
        self._early: dict[Key, deque[bytes]] = {}  # said before the stream stood

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.alive = True
        self.network._enter(self)

    async def close(self) -> None:
        if self.alive and self.network.nodes.get(self.key) is self:
            self.network.kill(self.key)

    def addresses(self) -> list[str]:
        return [f"/memory/{self.key.hex()}"]

    def is_up(self, peer: Key) -> bool:
        return peer in self._up

    def process(self, peer: Key) -> bytes | None:
        return self._up.get(peer)

    def connect(self, peer: Key, addresses: Sequence[str] = ()) -> None:
        if self.alive:
            self._early.setdefault(peer, deque(maxlen=MAX_QUEUED_MESSAGES))
            self.network._wish(self.key, peer, True)

    def disconnect(self, peer: Key) -> None:
        if self.alive:
            self._early.pop(peer, None)
            self.network._wish(self.key, peer, False)

    def send(self, peer: Key, message: bytes) -> None:
        if len(message) > MAX_MESSAGE_NBYTES:
            raise ValueError(f"a message of {len(message)} bytes is above {MAX_MESSAGE_NBYTES}")
        if not self.alive:
            return
        if peer in self._up:
            self.traffic.sent_nbytes += len(message)
            self.network._carry(self.key, peer, lambda node: node._heard(self.key, message))
        elif peer in self._early:
            queue = self._early[peer]
            self.refused["queue full"] += len(queue) == queue.maxlen
            queue.append(message)
        else:
            self.refused["not up"] += 1

    def push(self, peer: Key, blob: Blob) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self._push(peer, blob))

    async def _push(self, peer: Key, blob: Blob) -> None:
        taken = await self._call(peer, lambda node: node._offered(self.key, blob))
        if taken is not True:
            raise PeerError("refused", "the peer does not want this blob")
        self._gave(blob)

    async def fetch(self, digest: bytes, nbytes: int, holders: Sequence[Key], into: memoryview | None = None) -> bytes:
        why = "nobody holds it"
        for holder in holders:
            try:
                blob = await self._call(holder, lambda node: node._sought(digest))
            except PeerError as error:
                why = str(error)
                continue
            if not isinstance(blob, Blob) or blob.nbytes != nbytes or digest_of(blob.data) != digest:
                self.refused["wrong bytes" if isinstance(blob, Blob) else "does not hold it"] += 1
                continue
            data, came = travelled(blob)
            self.traffic.received_nbytes += came
            if into is None:
                return data
            into[:] = data
            return b""
        raise PeerError("no holder left", why)

    async def ask(self, peer: Key, name: str, request: bytes, limit_nbytes: int = MAX_MESSAGE_NBYTES, *, timeout_s: float = 10.0) -> bytes:
        self.traffic.sent_nbytes += len(request)
        answer = await self._call(peer, lambda node: node._asked(self.key, name, request), min(timeout_s, self.network.stall_s))
        if isinstance(answer, PeerError):
            raise answer
        if not isinstance(answer, bytes) or len(answer) > limit_nbytes:
            raise PeerError("too large", f"an answer above {limit_nbytes} bytes")
        self.traffic.received_nbytes += len(answer)
        return answer

    async def announce(self, run: str, record: bytes) -> None:
        if len(record) > MAX_RECORD_NBYTES:
            raise ValueError(f"a record of {len(record)} bytes is above {MAX_RECORD_NBYTES}")
        with self.network._lock:
            if self.alive:
                self.network.boards.setdefault(run, {})[self.key] = record

    async def lookup(self, run: str) -> dict[Key, bytes]:
        with self.network._lock:
            return {key: record for key, record in self.network.boards.get(run, {}).items() if key in self.network.nodes}

    def _turned(self, peer: Key, up: bool, *, process: bytes = b"", failed: bool = False) -> None:
        if up == (peer in self._up) and not failed:
            return
        if up:
            self._up[peer] = process
            early = self._early.get(peer)
            while early:
                self.send(peer, early.popleft())
            self.on_up(peer)
        else:
            self._up.pop(peer, None)
            self.on_down(peer)

    def _heard(self, peer: Key, message: bytes) -> None:
        if peer in self._up:
            self.traffic.received_nbytes += len(message)
            self.on_message(peer, message)

    def _offered(self, peer: Key, blob: Blob) -> object:
        if blob.digest in self.blobs:
            return True
        if not self.accept_blob(peer, blob.digest, blob.nbytes):
            self.refused["unwanted blob"] += 1
            return False
        if digest_of(blob.data) != blob.digest:
            self.refused["wrong bytes"] += 1
            return False
        data, came = travelled(blob)
        self.traffic.received_nbytes += came
        self.blobs.put(Blob(blob.digest, data))
        self.on_blob(peer, blob.digest, data)
        return True

    def _sought(self, digest: bytes) -> object:
        blob = self.blobs.get(digest)
        if blob is not None:
            self._gave(blob)
        return blob

    def _gave(self, blob: Blob) -> None:
        went = travelled(blob)[1]
        self.traffic.sent_nbytes += went
        self.traffic.saved_nbytes += blob.nbytes - went

    def _asked(self, peer: Key, name: str, request: bytes) -> object:
        handler = self.serve.get(name)
        if handler is None:
            self.refused["unknown question"] += 1
            return PeerError("refused", f"the peer answers no {name!r}")
        self.traffic.received_nbytes += len(request)
        return asyncio.ensure_future(handler(peer, request))

    async def _call(self, peer: Key, action: Callable[["MemoryNode"], object], timeout_s: float | None = None) -> object:
        """Let `peer` do something in its loop and return what came of it; `PeerError` when it or the way is gone, or stalls."""
        answer: asyncio.Future[object] = self.loop.create_future()

        def back(result: object) -> None:
            self.network._carry(peer, self.key, lambda me: answer.set_result(result) if me is self and not answer.done() else None)

        def there(node: "MemoryNode") -> None:
            result = action(node)
            if isinstance(result, asyncio.Future):
                result.add_done_callback(lambda done: back(_outcome(done)))
            else:
                back(result)

        node = self.network.nodes.get(peer)
        if not self.alive or node is None or not self.network._possible(self.key, peer):
            raise PeerError("unreachable")
        gone = _Watch(self.network, self.loop, lambda: self.network.nodes.get(peer) is node and self.network._possible(self.key, peer))
        self.network._carry(self.key, peer, there)
        try:
            ends: list[asyncio.Future[Any]] = [answer, gone.ended]
            done, _ = await asyncio.wait(ends, timeout=timeout_s or self.network.stall_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.close()
        if answer.done():
            return answer.result()
        raise PeerError("ended early" if done else "stalled")


class _Watch:
    """A future that ends when `good` does not hold any more."""

    def __init__(self, network: Network, loop: asyncio.AbstractEventLoop, good: Callable[[], bool]) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self._network = network

        def end() -> None:
            if not self.ended.done():
                self.ended.set_result(None)

        def wake() -> None:
            if not good() and not loop.is_closed():
                loop.call_soon_threadsafe(end)

        self._wake = wake
        with network._lock:
            network._changed.add(wake)

    def close(self) -> None:
        with self._network._lock:
            self._network._changed.discard(self._wake)


def _pair(a: Key, b: Key) -> tuple[Key, Key]:
    return (a, b) if a < b else (b, a)


def _outcome(done: "asyncio.Future[bytes]") -> object:
    if done.cancelled():
        return PeerError("refused", "the peer gave up")
    error = done.exception()
    if error is None:
        return done.result()
    return error if isinstance(error, PeerError) else PeerError("refused", "the peer failed to answer")
