"""One incarnation of a member at work: feeds the round machine with what the network brings, and does what it asks for.

    start                -> seal the frame, keep it as a blob, machine.start; the machine says to whom it is pushed
    a blob has arrived   -> check its signature, run, plan and incarnation; machine.holds
    a message arrives    -> open its envelope; machine.receive
    the machine decides  -> `settled`: every payload that counts, and why the others do not

The machine decides, the transport moves bytes. Everything here runs in the swarm's event loop.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.decision import Decision, Standing
from thinwire.comms.swarm.effects import Decided, Effect, Push, Record, Rejoin, Send, Want
from thinwire.comms.swarm.envelope import EnvelopeError, Envelopes, Place
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.machine import Machine
from thinwire.comms.swarm.messages import Message, RefusedMessage, pack, unpack
from thinwire.comms.swarm.sealed import SEAL_NBYTES, Sealed, seal, unseal
from thinwire.comms.swarm.transport import PeerError, Transport
from thinwire.comms.swarm.view import Key, Slot
from thinwire.comms.swarm.ways import LOOK_S, Ways
from thinwire.comms.wire import HEADER_NBYTES, Header, WireError, bytes_of

log = logging.getLogger("thinwire")

KEPT_ROUNDS = 256  # decided rounds that are kept with their payloads: for this member's group, and for members that are behind
KEPT_NBYTES = 256 << 20  # of them, whatever their number
FAR = "the group is too far ahead: what counted in that round is not kept here any more"


class Journal(Protocol):
    """Where the history of this member goes."""

    def append(self, kind: Any, **fields: Any) -> None: ...


@dataclass(frozen=True, eq=False)
class Settled:
    """A decided round: its decision, and the frames of the members that count."""

    decision: Decision
    frames: dict[Key, Tensor]


class Driver:
    """Runs one machine over a transport. `on_settled(settled)` and `on_astray(why)` are called in the event loop."""

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        nonce: bytes,
        *,
        run: int,
        plan: int,
        split: str,
        envelopes: Envelopes,
        journal: Journal | None,
        on_settled: Callable[[Settled], None],
        on_astray: Callable[[str], None],
    ) -> None:
        self.transport, self.nonce = transport, nonce
        self.machine = Machine(identity.key, nonce, split=split)
        self.settled: OrderedDict[Slot, Settled] = OrderedDict()
        self._identity, self._run, self._plan = identity, run, plan
        self._envelopes, self._journal = envelopes, journal
        self._on_settled, self._on_astray = on_settled, on_astray
        self._frames: dict[bytes, Sealed] = {}  # opened payloads by digest, until their slot is over
        self._blob_nbytes: int | None = None  # of a payload: all of a run have one size
        self._fetches: dict[tuple[bytes, frozenset[Key]], asyncio.Task[None]] = {}  # of a digest, from whom
        self._pushing: set[tuple[Key, bytes]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.own: tuple[Slot, bytes] | None = None  # this member's last payload
        self._at: Slot | None = None  # where the group is: the slot that it asked for last
        self._ways = Ways(
            transport, word=self._word, deliver=self._open, push=self._send_on, turned=self._turned, patience_s=self.machine.silence_s
        )
        self._looking = self._loop.call_later(LOOK_S, self._look)
        transport.on_message, transport.on_blob, transport.accept_blob = self._message, self._blob, self._accepts
        transport.on_up, transport.on_down = self._up, self._down

    # -- inputs ------------------------------------------------------------------------------------------------------------------

    def found(self, slot: Slot) -> None:
        """Begin a run with this member alone."""
        self._do(self.machine.found(self._now(), slot))

    def follow(self, standing: Standing) -> None:
        """Follow a group whose state before `standing.slot` is here."""
        self._do(self.machine.follow(standing, self._now()))
        for peer in standing.members:
            if self.transport.is_up(peer):
                self._up(peer)

    def start(self, slot: Slot, header: Header, frame: Tensor) -> None:
        """This member's payload of a slot; what was brought first counts."""
        if self._closed:
            return
        self._at = slot
        if slot < self.machine.next_slot:
            if slot not in self.settled:
                self._on_astray(FAR)
            return
        blob = Blob.of(seal(self._identity, self.nonce, bytes(bytes_of(frame))))
        self._blob_nbytes, self.own = blob.nbytes, (slot, blob.digest)
        self.transport.blobs.put(blob)
        self._frames.setdefault(blob.digest, Sealed(self._identity.key, self.nonce, header, frame))
        self._do(self.machine.start(slot, blob.digest, blob.nbytes, self._now()))

    @property
    def closed(self) -> bool:
        """Whether this incarnation is over."""
        return self._closed

    def leave(self) -> None:
        """Say so; the slot under way is still decided."""
        if not self._closed:
            self._do(self.machine.leave(self._now()))

    def close(self) -> None:
        """Take no part any more."""
        self._closed = True
        self._looking.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()
        for peer in self.machine.others:
            self.transport.disconnect(peer)

    # -- what the network brings -------------------------------------------------------------------------------------------------

    def _message(self, peer: Key, data: bytes) -> None:
        if self._closed:
            return
        self._ways.heard(peer, self._now())
        if not self._ways.take(peer, data, self._now()):
            self._open(peer, data)

    def _open(self, peer: Key, data: bytes, genuine: Callable[[], None] = lambda: None) -> None:
        """A message that `peer` has sent, whoever has brought it."""
        try:
            letter = self._envelopes.open(data, peer)
            message = unpack(letter.body)
        except EnvelopeError:  # counted there
            return
        except RefusedMessage:
            self.transport.refused["message"] += 1
            return
        genuine()
        self._do(self.machine.receive(peer, letter.nonce, message, self._now()))

    def _up(self, peer: Key) -> None:
        self._ways.heard(peer, self._now())
        self._turned(peer, True, self.transport.process(peer))

    def _down(self, peer: Key) -> None:
        if self._ways.down(peer, self._now()):
            self._turned(peer, False)
            if not self._closed and peer in self.machine.others:
                self._ways.seek(peer, self.machine.others, self._now())

    def _turned(self, peer: Key, up: bool, process: bytes | None = None) -> None:
        self._do(self.machine.up(peer, self._now(), process=process) if up else self.machine.down(peer, self._now()))

    def _accepts(self, peer: Key, digest: bytes, nbytes: int) -> bool:
        """Only members push, and only what is as large as this member's own payload; before that is known, up to what a frame can be."""
        expected = self._blob_nbytes
        fits = nbytes == expected if expected is not None else SEAL_NBYTES + HEADER_NBYTES <= nbytes <= KEPT_NBYTES
        return not self._closed and fits and self.machine.view.index(peer) is not None

    def _blob(self, peer: Key, digest: bytes, data: bytes) -> None:
        if not self._take(digest, data):
            self.transport.blobs.drop(digest)

    def _take(self, digest: bytes, data: bytes, wanted: tuple[Slot, Key] | None = None) -> bool:
        """Have a look at a payload; what was asked for by its digest is only compared with what was asked for."""
        try:
            sealed = unseal(data, run=self._run, plan=self._plan)
        except WireError as error:
            self.transport.refused[str(error)] += 1
            return False
        slot = Slot(sealed.header.key.round, sealed.header.key.fragment)
        if wanted is None and (slot < self.machine.next_slot or not self.machine.view.has(sealed.key, sealed.nonce)):
            self.transport.refused["payload of another time or incarnation"] += 1
            return False
        if wanted is not None and wanted != (slot, sealed.key):
            self.transport.refused["payload of another slot"] += 1
            return False
        self._frames[digest] = sealed
        self._ways.holds(digest)
        self._do(self.machine.holds(slot, sealed.key, digest, len(data), self._now()))
        return True

    # -- what the machine asks for -----------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if self._closed:
                return
            if isinstance(effect, Send):
                data = self._seal(effect.message)
                for peer in effect.to:
                    self._ways.send(peer, data, self._now())
            elif isinstance(effect, Push):
                for peer in effect.to:
                    self._push(peer, effect.digest)
            elif isinstance(effect, Want):
                self._want(effect)
            elif isinstance(effect, Decided):
                self._decided(effect.decision)
            elif isinstance(effect, Rejoin):
                self._on_astray(effect.why)
            elif isinstance(effect, Record) and self._journal is not None:
                self._journal.append(effect.kind, **effect.fields)
        self._set_alarm()

    def _seal(self, message: Message) -> bytes:
        return self._envelopes.seal(pack(message), Place(self._plan, self.machine.epoch))

    def _word(self) -> bytes:
        return self._seal(self.machine.beat())

    def _send_on(self, peer: Key, digest: bytes) -> bool:
        """Send a payload to whom another member cannot: over the link and no other way, else two could ask each other for ever."""
        if digest in self._frames:
            self._give(peer, digest)
        return digest in self._frames

    def _push(self, peer: Key, digest: bytes) -> None:
        if not self._ways.send_on(peer, digest, self._now()):
            self._give(peer, digest)

    def _give(self, peer: Key, digest: bytes) -> None:
        blob = self.transport.blobs.get(digest)
        if blob is None or (peer, digest) in self._pushing:
            return
        self._pushing.add((peer, digest))

        def over(future: "asyncio.Future[None]") -> None:
            self._pushing.discard((peer, digest))
            if not future.cancelled():
                future.exception()  # who did not get it asks for it

        self.transport.push(peer, blob).add_done_callback(over)

    def _want(self, want: Want) -> None:
        """Fetch a payload from those that are heard, or have a link at least (a newcomer has heard nobody yet, and libp2p would look for
        members that are gone); a second time beside the first when that asks others, who may be silent by now."""
        known = list(dict.fromkeys((*want.holders, *self.machine.others)))
        heard = [key for key in known if self._ways.hears(key, self._now())]
        holders = heard or [key for key in known if self.transport.is_up(key)] or known
        fetch = want.digest, frozenset(holders)
        if fetch not in self._fetches and sum(digest == want.digest for digest, _ in self._fetches) < 2:
            self._fetches[fetch] = self._spawn(self._fetch(want, holders, fetch))

    async def _fetch(self, want: Want, holders: Sequence[Key], fetch: tuple[bytes, frozenset[Key]]) -> None:
        try:
            data = await self.transport.fetch(want.digest, want.nbytes, holders)
        except PeerError as error:  # the machine asks again
            log.debug("payload of round %d: %s", want.slot.round, error)
            return
        finally:
            self._fetches.pop(fetch, None)
        for other in [other for other in self._fetches if other[0] == want.digest]:
            self._fetches.pop(other).cancel()
        self.transport.blobs.put(Blob(want.digest, data))
        self._take(want.digest, data, (want.slot, want.key))

    def _decided(self, decision: Decision) -> None:
        frames = {key: self._frames[digest].frame for key, digest, _ in decision.counted}
        settled = Settled(decision, frames)
        self.settled[decision.slot] = settled
        self._meet(decision.members)
        self._forget()
        self._on_settled(settled)

    def _meet(self, members: Sequence[Key]) -> None:
        for peer in members:
            if peer != self._identity.key:
                self.transport.connect(peer)
        for peer in self.machine.view.members:
            if peer not in members and peer != self._identity.key and not self.transport.is_up(peer):
                self.transport.disconnect(peer)

    def _forget(self) -> None:
        """Free the payloads of old rounds, and what came for rounds that are over."""
        nbytes = sum(size for settled in self.settled.values() for _, _, size in settled.decision.counted)
        while len(self.settled) > KEPT_ROUNDS or (nbytes > KEPT_NBYTES and len(self.settled) > 2):
            _, old = self.settled.popitem(last=False)
            nbytes -= sum(size for _, _, size in old.decision.counted)
            if old.decision.slot == self._at:
                self._on_astray(FAR)
        kept = {digest for settled in self.settled.values() for _, digest, _ in settled.decision.counted}
        newest = next(reversed(self.settled))
        for digest, sealed in list(self._frames.items()):
            key = sealed.header.key
            if digest not in kept and Slot(key.round, key.fragment) <= newest:
                del self._frames[digest]
                self.transport.blobs.drop(digest)

    # -- time --------------------------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        at = self.machine.wake_at()
        if self._alarm is not None:
            if at is not None and not self._alarm.cancelled() and abs(self._alarm.when() - at) < 1e-4:
                return
            self._alarm.cancel()
        self._alarm = None if at is None or self._closed else self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._alarm = None
        if not self._closed:
            self._do(self.machine.tick(self._now()))

    def _look(self) -> None:
        self._ways.look(self.machine.others, self._now())
        self._looking = self._loop.call_later(LOOK_S, self._look)

    def _now(self) -> float:
        return self._loop.time()

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
