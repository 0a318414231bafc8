"""`SwarmGroup`: a group whose members come and go, found through a DHT, with rounds that all of them decide alike or not at all.

    opt = thinwire.DiLoCo(opt, group=SwarmGroup("my run"))                                     founds a run
    opt = thinwire.DiLoCo(opt, group=SwarmGroup("my run", initial_peers=["/ip4/..."]))         joins it

The event loop (driver, machine, transport) decides rounds; the courier of the group waits for them; the training loop waits for neither
longer than `patience_s`.
"""

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import xxhash
from torch import Tensor

from thinwire.comms.door import Door, RefusedError, Snapshot, plan_id
from thinwire.comms.group import Group, Job, Pending, Waiting
from thinwire.comms.rounds import Arrivals, Outcome, TransportError
from thinwire.comms.swarm.access import Access
from thinwire.comms.swarm.account import Account
from thinwire.comms.swarm.addressbook import AddressBook
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.board import Board
from thinwire.comms.swarm.driver import Driver, Settled
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.entry import Doorkeeper, Found, has_counted
from thinwire.comms.swarm.envelope import Envelopes, Trust
from thinwire.comms.swarm.history import History
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.invite import HISTORY, IDENTITY, INVITE, Invite
from thinwire.comms.swarm.lineage import founding
from thinwire.comms.swarm.loop import LoopThread
from thinwire.comms.swarm.offers import Offers
from thinwire.comms.swarm.status import QUESTION, encode
from thinwire.comms.swarm.transport import Transport
from thinwire.comms.swarm.view import Key, Slot, number_of
from thinwire.comms.wire import Header, bytes_of, peek

log = logging.getLogger("thinwire")

FOREVER_S = 1e9  # a round has no deadline of its own: who has waited long enough goes on training
REJOIN_S = 60.0  # of looking for the others; who finds nobody goes on alone


@dataclass
class _SwarmLink:
    """One round: a single all-gather whose outcome the swarm decides."""

    group: "SwarmGroup"
    members: tuple[int, ...] = ()
    sharded: bool = False

    @property
    def rank(self) -> int:
        return self.group.rank

    def all_gather(self, message: Tensor) -> Arrivals:
        header = peek(message)
        assert header is not None
        settled = self.group._decide(header, self.group._post(message))
        arrivals: dict[int, Tensor | str] = {number_of(key): why for key, why in settled.decision.skipped.items()}
        arrivals |= {number_of(key): frame for key, frame in settled.frames.items()}
        self.members = tuple(sorted(arrivals))
        return {member: arrivals[member] for member in self.members}

    def all_to_all(self, messages: Tensor) -> Arrivals:
        raise NotImplementedError("a swarm decides about whole payloads")


class Astray(Exception):
    """The group has gone on without this member."""


class SwarmGroup(Group):
    """A member of the run `run_id`; without `initial_peers` it founds it.

    - `initial_peers`: multiaddrs of any members or of `thinwire serve`.
    - `identity`: an `Identity`, or the file of one (made when absent); by default a new one for this process.
    - `trust`: "lan" (any key, signed; refused where addresses are public), "federation" (`allowed` keys, and who knows the `secret` of
      an invitation; the default with either), "open" (any key, anywhere).
    - `listen`, `announce`: multiaddrs to listen on and to tell others.
    - `history`: a folder for what this member did (`thinwire verify`).
    - `split`: what is left of a group without a quorum goes on alone ("continue") or waits ("wait").

    >>> from thinwire import SwarmGroup                                              # doctest: +SKIP
    >>> group = SwarmGroup("my run", initial_peers=["/ip4/10.0.0.1/tcp/7000/p2p/12D3..."])  # doctest: +SKIP
    >>> opt = thinwire.DiLoCo(torch.optim.AdamW(model.parameters()), group=group)    # doctest: +SKIP
    """

    elastic = True

    def __init__(
        self,
        run_id: str,
        initial_peers: Sequence[str] | None = None,
        *,
        identity: Identity | str | Path | None = None,
        trust: Trust | None = None,
        allowed: Collection[Key] = (),
        secret: bytes = b"",
        listen: Sequence[str] = ("/ip4/0.0.0.0/tcp/0",),
        announce: Sequence[str] = (),
        history: str | Path | None = None,
        split: str = "continue",
        transport: Callable[[Identity], Transport] | None = None,
    ) -> None:
        if initial_peers is not None and not initial_peers:
            raise ValueError("initial_peers is empty: give the address of a member or of thinwire serve; None founds a run")
        if isinstance(identity, Identity):
            self.identity = identity
        else:
            self.identity = Identity.generate() if identity is None else Identity.load_or_create(identity)
        number = number_of(self.identity.key)
        super().__init__(number, (number,), run=xxhash.xxh3_64_intdigest(run_id.encode()), timeout_s=FOREVER_S)
        self.run_id = run_id
        named = tuple(initial_peers or ())
        self.access = Access(run_id, self.identity.key, trust=trust, allowed=allowed, secret=secret, addresses=(*named, *listen, *announce))
        self.trust = self.access.trust
        self._founds = initial_peers is None
        self._split, self._history_folder = split, history
        self._loop = LoopThread(f"thinwire-swarm-{self.rank}")
        self._transport = transport(self.identity) if transport else self._node(named, listen, announce)
        self._board = Board(self._transport, run_id, named, self.access, None if transport else AddressBook())
        self._account = Account(self._transport)
        self._offers = Offers(self._keep, self._drop)
        self._news = threading.Condition()
        self._driver: Driver | None = None
        self._doorkeeper: Doorkeeper | None = None
        self._journal: History | None = None
        self._plan = 0
        self._lines: list[str] | None = None
        self._state = ""
        self._rounds: list[Waiting[Any]] = []  # whose bytes are not in the history yet
        self._counted = self._counted_before = (0, 0)  # by the transport: up to the last round, and when this incarnation began
        self._delivered = False  # whether what this member brought last counted, once it is astray
        self._started_transport = False
        self._background: set[asyncio.Task[None]] = set()

    def _node(self, initial_peers: Sequence[str], listen: Sequence[str], announce: Sequence[str]) -> Transport:
        from thinwire.comms.swarm.node import Node
        from thinwire.comms.swarm.p2pd import DaemonOptions

        options = DaemonOptions(listen=tuple(listen), announce=tuple(announce), public=not initial_peers)  # others come by way of the first
        return Node(self.identity, initial_peers=initial_peers, options=options)

    # -- what an elastic group has -------------------------------------------------------------------------------------------------

    @property
    def patience_s(self) -> float:
        return self._driver.machine.patience_s() if self._driver is not None else 0.0

    def enter(self, door: Door) -> None:
        """Found the run or join it; blocks until this member holds the state of the others.

        Again, when it was sent away before it had begun: the same as `rejoin`. Raises `RefusedError` when the members refuse this one, with
        the first difference.
        """
        self._open_transport()
        self._lines = list(door.lines)
        self._plan = plan_id(self._lines)
        if self._driver is None:
            self._come_in(door, "join")
        else:
            self.rejoin(door)

    def rejoin(self, door: Door) -> None:
        """Take the state of the others once more, in a new incarnation."""
        self._loop.submit(self._end_driver()).result()
        self._come_in(door, "rejoin")

    def is_ahead(self, round: int) -> bool:
        return self._driver is not None and Slot(round) < self._driver.machine.next_slot

    def offer(self, snapshot: Snapshot) -> None:
        if self._journal is not None and snapshot.round == self._account.applied + 1:
            self._tell_applied(snapshot)
        self._account.applied = snapshot.round
        self._offers.put(snapshot)

    def tell(self, *, loss: float) -> None:
        """What `thinwire status` shows as this member's loss."""
        self._account.loss = float(loss)

    @classmethod
    def from_invite(cls, text: str, **settings: Any) -> "SwarmGroup":
        """The run that an invitation names; settings as in the constructor. Raises `InviteError`."""
        invite = Invite.parse(text)
        given: dict[str, Any] = {"trust": invite.trust, "allowed": invite.members, "secret": invite.secret}
        return cls(invite.run_id, invite.addresses, **(given | settings))

    @classmethod
    def from_env(cls, **settings: Any) -> "SwarmGroup":
        """As `thinwire join` has set it up; alone in a shell: founds the run "default", whose `invite()` is for others."""
        kept: dict[str, Any] = {"identity": os.environ.get(IDENTITY), "history": os.environ.get(HISTORY)}
        settings = {name: value for name, value in kept.items() if value} | settings
        text = os.environ.get(INVITE)
        if text:
            return cls.from_invite(text, **settings)
        settings.setdefault("secret", secrets.token_bytes(32))
        return cls("default", **settings)

    def invite(self) -> str:
        """The string to paste for whoever is to join; blocks until this member can be reached."""
        return str(Invite(self.run_id, tuple(self.addresses()[:4]), self.access.trust, (self.identity.key,), self.access.secret))

    def addresses(self) -> list[str]:
        """Where this member is reached; for the `initial_peers` of others. Blocks until it can be."""
        self._open_transport()
        return self._transport.addresses()

    # -- entering ------------------------------------------------------------------------------------------------------------------

    def _come_in(self, door: Door, kind: Literal["join", "rejoin"]) -> None:
        self._account.enters()
        mine = door.snapshot()
        found = None
        if kind == "rejoin" or not self._founds:
            known = self._driver.machine.others if self._driver else ()
            found = self._loop.submit(self._board.seek(door.lines, mine, known, give_up_s=REJOIN_S if known else None)).result()
        if found is not None:
            door.adopt(found.snapshot)
            mine = door.snapshot()
        nonce = secrets.token_bytes(8)
        why, self.astray = self.astray or "", None
        self._account.applied = mine.round
        self._rounds, self._counted_before = [], self._counted
        if self._history_folder is not None:
            if self._journal is not None:
                self._journal.close()
            self._journal = History(self._history_folder, member=self.identity.key, nonce=nonce)
            self._state = _hash_of(mine)
            epoch = (found.standing if found is not None else founding(Slot(mine.round), self.identity.key, nonce)).epoch
            self._journal.append(kind, digest=epoch, round=mine.round, after=self._state, why=why)
        self._offers.put(mine)
        self._loop.submit(self._begin_driver(found, nonce, door.lines, mine.round)).result()

    def _open_transport(self) -> None:
        if not self._started_transport:
            self._loop.submit(self._open()).result()
            self._started_transport = True

    async def _open(self) -> None:
        await self._transport.start()
        self._transport.serve[QUESTION] = self._tell_status
        self._go_on_with(self._board.keep(lambda: self._lines))

    async def _begin_driver(self, found: Found | None, nonce: bytes, lines: Sequence[str], round: int) -> None:
        driver = Driver(
            self._transport,
            self.identity,
            nonce,
            run=self._run,
            plan=self._plan,
            split=self._split,
            envelopes=self._envelopes(nonce),
            journal=self._journal,
            on_settled=lambda settled: self._on_settled(settled, nonce),
            on_astray=lambda why: self._on_astray(driver, why),
        )
        if self._doorkeeper is None:
            self._doorkeeper = Doorkeeper(self._transport, lines, self._offers, self.access)
        with self._news:
            self._driver = self._doorkeeper.driver = driver
            self._news.notify_all()
        if found is None:
            driver.found(Slot(round))
        else:
            self._doorkeeper.addresses |= found.addresses
            self.access.learn(found.standing.members)
            for key in found.standing.members:
                if key != self.identity.key:
                    self._transport.connect(key, found.addresses.get(key, ()))
            driver.follow(found.standing)
        self._go_on_with(self._board.announce())  # nodes of the board that are gone would be waited for

    def _envelopes(self, nonce: bytes) -> Envelopes:
        access, refused = self.access, self._transport.refused
        made = Envelopes(
            self.identity, self.run_id, nonce=nonce, trust=access.trust, allow=access.allowed, plan=self._plan, refused=refused
        )

        def trust(keys: Iterable[Key]) -> None:
            made.allow = frozenset(keys)

        access.on_trust = trust
        return made

    async def _end_driver(self) -> None:
        """This incarnation is over, and says so: others refuse the next one for as long as this one may still speak."""
        if self._driver is not None:
            self._driver.leave()
            self._driver.close()

    # -- a round -------------------------------------------------------------------------------------------------------------------

    def _settle(self, job: Job, deadline: float) -> Outcome[Any]:
        link = _SwarmLink(self)
        try:
            outcome = job.attempt(link)
        except Astray as error:
            if isinstance(job.pending, Pending):
                job.pending.delivered = bool(error.args[1])
            return Outcome(None, str(error.args[0]))
        finally:
            # All that went by since the last round: heartbeats and what newcomers got are part of what this member sent.
            if self._journal is not None:
                self._rounds.append(job.pending)
            self._counted = self.sent_nbytes, self.received_nbytes = self._transport.sent_nbytes, self._transport.received_nbytes
        return replace(outcome, members=link.members, missing={})

    def _decide(self, header: Header, frame: Tensor) -> Settled:
        """Bring a frame, and wait until its slot is decided."""
        driver = self._driver
        if driver is None:
            raise TransportError("this member has not entered the run")
        slot = Slot(header.key.round, header.key.fragment)
        self._account.brings(header)
        if self._journal is not None:
            self._journal.append("begin", round=slot.round, fragment=slot.fragment, before=self._state)
        self._loop.call(driver.start, slot, header, frame)
        with self._news:
            while (found := driver.settled.get(slot)) is None:
                if self._left:
                    raise TransportError("this member has left the group")
                if self.astray is not None:
                    raise Astray(self.astray, self._delivered)
                if self._driver is not driver:
                    raise TransportError("this member has come back as another incarnation")
                self._news.wait(1.0)
            return found

    def _on_settled(self, settled: Settled, nonce: bytes) -> None:
        self.access.learn(settled.decision.members)
        self._account.settles(settled.decision, self.identity.key, nonce)
        with self._news:
            self._news.notify_all()

    def _on_astray(self, driver: Driver, why: str) -> None:
        self._go_on_with(self._go_astray(driver, why))

    async def _go_astray(self, driver: Driver, why: str) -> None:
        delivered = driver.own is not None and await has_counted(self._transport, driver.machine.others, *driver.own)
        if driver is not self._driver or driver.closed:
            return  # this member has come back meanwhile: the next incarnation stands elsewhere
        with self._news:
            self.astray, self._delivered = why, delivered
            self._news.notify_all()
        log.warning("member %d: %s; it re-joins before its next round", self.rank, why)

    # -- what others may have ------------------------------------------------------------------------------------------------------

    def _keep(self, piece: bytes) -> bytes:
        blob = Blob.of(piece)
        self._loop.call(self._transport.blobs.put, blob)
        return blob.digest

    def _drop(self, digest: bytes) -> None:
        self._loop.call(self._transport.blobs.drop, digest)

    async def _tell_status(self, peer: Key, request: bytes) -> bytes:
        return encode(self._account.status(self._driver, astray=self.astray is not None))

    def _tell_applied(self, snapshot: Snapshot) -> None:
        assert self._journal is not None
        slot = Slot(self._account.applied)
        settled = self._driver.settled.get(slot) if self._driver is not None else None
        before, self._state = self._state, _hash_of(snapshot)
        counted = {key: digest for key, digest, _ in settled.decision.counted} if settled else {}
        digest = settled.decision.epoch.digest if settled else b""
        self._journal.append("apply", round=slot.round, digest=digest, counted=counted, before=before, after=self._state, **self._told())

    def _told(self) -> dict[str, int]:
        """The bytes that rounds have reported since the last event, and what the transport has counted in all."""
        rounds, self._rounds = self._rounds, []
        sent, received = (now - before for now, before in zip(self._counted, self._counted_before, strict=True))
        return {
            "sent": sum(pending.sent_nbytes for pending in rounds),
            "received": sum(pending.received_nbytes for pending in rounds),
            "sent_counted": sent,
            "received_counted": received,
        }

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        with self._news:
            self._news.notify_all()
        if self._started_transport:
            try:
                self._loop.submit(self._shut()).result(10.0)
            except FutureTimeoutError:
                log.warning("member %d: the network did not close within 10 s", self.rank)
        self._offers.close()
        self._loop.close()
        if self._journal is not None:
            self._journal.close()

    def _go_on_with(self, work: Coroutine[Any, Any, None]) -> None:
        """In the event loop: do it in the background, until it is done or this group is closed."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done_with)

    def _done_with(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("member %d: work in the background has failed", self.rank, exc_info=error)

    async def _shut(self) -> None:
        await end(self._background)
        if self._driver is not None:
            self._driver.leave()
            await asyncio.sleep(0.02)  # for the word of leaving to go out
            self._driver.close()
        await self._transport.close()


def _hash_of(snapshot: Snapshot) -> str:
    """A hash of the whole agreed state, for the history."""
    told = xxhash.xxh3_64(b"%d" % snapshot.round)
    for name, tensor in sorted(snapshot.tensors.items()):
        told.update(name.encode())
        if tensor.numel():
            told.update(bytes_of(tensor.detach().cpu().reshape(-1)))
    return told.hexdigest()


__all__ = ["RefusedError", "SwarmGroup"]
