"""Deciding one slot: who has which payload, when the leader proposes what, and how a member comes to its vote.

What is told is told at once, and again until the slot is decided. `advance` looks at all that is known and does what follows from it.
"""

from typing import TypeAlias

from thinwire.comms.swarm.archive import Archive, want
from thinwire.comms.swarm.ballots import Ballots
from thinwire.comms.swarm.deadline import Patience
from thinwire.comms.swarm.decision import Value
from thinwire.comms.swarm.effects import Push
from thinwire.comms.swarm.messages import Accept, Commit, Have, Prepare, Promise, Propose, Ready
from thinwire.comms.swarm.observers import Observers
from thinwire.comms.swarm.payloads import Offered, Payloads
from thinwire.comms.swarm.proposal import complete, enough, propose
from thinwire.comms.swarm.seat import Seat
from thinwire.comms.swarm.view import Key

SMALL = 16  # members that tell their votes to all, which saves a hop; larger views go through the leader
BRIEF = 32  # members above which a proposal comes without the digests of what its receiver holds
TIMERS = ("flush", "deadline", "ballot", "nudge")

RoundMessage: TypeAlias = Ready | Have | Propose | Accept | Commit | Prepare | Promise


class Round:
    """The slot that the view decides now. `outcome` is ballot and value, once this member knows."""

    def __init__(self, seat: Seat, payloads: Payloads, archive: Archive, patience: Patience, observers: Observers) -> None:
        self._seat, self._archive, self._patience, self._observers = seat, archive, patience, observers
        self.slot, self.view = seat.slot, seat.view
        self._payloads, self._desk = payloads, payloads.desk(seat.slot)
        self.ballots = Ballots(seat.view, seat.slot.round * seat.fragments + seat.slot.fragment, seat.me)
        self.outcome: tuple[int, Value] | None = None
        self._announced = self._held = 0  # members, as bits: whose payload is announced, and is here
        self._haves: dict[Key, int] = {}  # the same of others, as they told this member
        self._told: tuple[int, int] | None = None  # ballot and bits: what the leader was told last
        self._lacking: set[tuple[Key, bytes]] = set()  # payloads, for a vote on what is offered
        self._relayed: set[Key] = set()
        self._first_at: float | None = None
        self._quorum_at: float | None = None
        self._moved_at: float | None = None
        self._overdue = self._nudges = 0
        self._progress = False
        self._doubts = True  # whether a leader that says it is unfit is given up; once, and then again with every nudge
        seat.disarm(*TIMERS)
        for key in list(self._desk.announced):
            self._mark(key)

    # -- payloads ----------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Tell the others of this member's own payload, and send it."""
        own = self._desk.announced.get(self._seat.me)
        if own is not None and self._seat.is_member:
            self._mark(self._seat.me)
            self._seat.send(self._seat.others, self._ready(own))
            self._push(self._seat.me, (own.via,) if own.via is not None and self._seat.peers.up(own.via) else self._seat.others)

    def greet(self, key: Key) -> None:
        """A member has come back: it may have lost what was sent."""
        own = self._desk.announced.get(self._seat.me)
        if own is not None and self._seat.is_member and self.view.index(key) is not None:
            self._seat.send((key,), self._ready(own))
            if own.via is None or not self._seat.peers.up(own.via):
                self._push(self._seat.me, (key,))

    def lost(self, key: Key) -> None:
        """A member has gone: if it was to pass on this member's payload, all get it from here."""
        own = self._desk.announced.get(self._seat.me)
        if own is not None and own.via == key:
            self._push(self._seat.me, self._seat.others)

    def hold(self, key: Key, digest: bytes) -> None:
        """A payload has come."""
        self._lacking.discard((key, digest))
        self._mark(key)

    def _mark(self, key: Key) -> None:
        at = self.view.index(key)
        if at is None or key not in self._desk.announced:
            return
        before = self._announced, self._held
        self._announced |= 1 << at
        if self._desk.holds(key):
            self._held |= 1 << at
            self._pass_on(key)
        self._haves[key] = self._haves.get(key, 0) | 1 << at
        self._progress = self._progress or before != (self._announced, self._held)

    def _pass_on(self, key: Key) -> None:
        if self._desk.announced[key].via == self._seat.me and key not in self._relayed:
            self._relayed.add(key)
            self._push(key, self._seat.others)

    def _push(self, key: Key, to: tuple[Key, ...]) -> None:
        up = tuple(k for k in to if k not in (key, self._seat.me) and self._seat.peers.up(k))
        if up:
            self._seat.emit(Push(self.slot, key, self._desk.announced[key].digest, up))

    def _ready(self, own: Offered) -> Ready:
        return Ready(self._seat.epoch, self.slot, own.digest, own.nbytes, own.via)

    # -- what follows ------------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Do all that follows from what is known."""
        if self.outcome is not None or not self._seat.is_member:
            return
        self._note(now)
        if self.pending and self._leader_lost():
            self._next_ballot(now)
        self._tell_held(now)
        self._lead(now)
        self._vote()
        self._settle()

    @property
    def pending(self) -> bool:
        """Whether there is anything to decide yet."""
        return bool(self._announced or self.ballots.promised or self.ballots.offered)

    def _note(self, now: float) -> None:
        if not self.pending:
            return
        if self._first_at is None:
            self._first_at = now
            self._seat.arm("nudge", now + self._seat.timing.nudge_s)
        if self._quorum_at is None and 2 * self._held.bit_count() > len(self.view.members):
            self._quorum_at = now
        if self._progress or "ballot" not in self._seat.due:
            self._progress, self._moved_at = False, now
            self._seat.arm("ballot", now + self._patience.ballot_s(self.ballots.promised, self._seat.silence.seconds()))

    def _tell_held(self, now: float) -> None:
        self._haves[self._seat.me] = self._held
        if self.ballots.leader() == self._seat.me or self._told == (self.ballots.promised, self._held) or not self._held:
            return
        expected = self._announced | self._seat.presence.waited_bits
        if expected & ~self._held and self.ballots.offered is None:  # more is on its way: not a message for each
            self._seat.arm("flush", now + self._seat.timing.flush_s, sooner=True)
        else:
            self.flush()

    def flush(self) -> None:
        """Tell the leader now what is here."""
        self._seat.disarm("flush")
        if self.outcome is None and self._seat.is_member:
            self._told = self.ballots.promised, self._held
            have = Have(self._seat.epoch, self.slot, self.ballots.promised, self._bits(self._held))
            self._seat.send((self.ballots.leader(),), have)

    def _bits(self, bits: int) -> bytes:
        return bits.to_bytes((bits.bit_length() + 7) // 8, "little")

    def _vote(self) -> None:
        if self.ballots.acceptable() is None or self._lacking:
            return
        vote = self.ballots.accept()
        self._seat.send(self._voters(), Accept(self._seat.epoch, self.slot, *vote))

    def _voters(self) -> tuple[Key, ...]:
        return self._seat.others if len(self.view.members) <= SMALL else (self.ballots.leader(),)

    def _settle(self) -> None:
        vote = self.ballots.decided()
        value = self.ballots.known(vote[1]) if vote else None
        if vote is None or value is None:
            return
        self.outcome = vote[0], value
        if self.ballots.leader(vote[0]) == self._seat.me:
            commit = Commit(self._seat.epoch, self.slot, *vote)
            waiting = [k for k in self._seat.others if len(self.view.members) > SMALL or not self.ballots.accepts(k)]
            self._seat.send(waiting, commit)

    def close(self, now: float) -> None:
        """It is decided: learn from it."""
        self._patience.learn(self._first_at, self._quorum_at, now)
        self._seat.disarm(*TIMERS)

    # -- leading -----------------------------------------------------------------------------------------------------------------

    def _lead(self, now: float) -> None:
        if not self.ballots.may_propose():
            self._seat.disarm("deadline")
            return
        value = self.ballots.forced()
        if value is None:
            counted = complete(self._seat, self._announced, self._haves)
            if not counted and self._overdue:
                counted = enough(self._seat, self._announced, self._haves, anybody=self._overdue > 1)
            if not counted:
                self._arm_deadline()
                return
            value = propose(self._seat, self._desk, counted, self._observers)
        self._seat.disarm("deadline")
        self.ballots.proposed = True
        self._offer(value, self._seat.me)
        self._propose(self._seat.others)

    def _arm_deadline(self) -> None:
        if self._first_at is None or self._overdue > 1:
            return
        at = self._first_at + self._patience.gather_s()
        if self._quorum_at is not None:
            at = min(at, self._quorum_at) + self._patience.straggle_s()
        if self._overdue:
            at += 4 * self._patience.straggle_s()
        self._seat.arm("deadline", at, sooner=True)

    def on_deadline(self, now: float) -> None:
        """The leader has waited long enough; a second time: even for payloads that only some hold."""
        self._overdue += 1

    def _propose(self, to: tuple[Key, ...], *, whole: bool = False) -> None:
        offered = self.ballots.offered
        assert offered is not None
        value, check = offered.value, offered.value.check
        full = Propose(self._seat.epoch, self.slot, offered.ballot, value, check)
        if whole or len(self.view.members) <= BRIEF:
            self._seat.send(to, full)
            return
        counted = sum(1 << at for at, fate in enumerate(value.fates) if fate & 1)
        holds = [key for key in to if not counted & ~self._haves.get(key, 0)]
        brief = Propose(self._seat.epoch, self.slot, offered.ballot, Value(value.fates, b"", (), value.joined), check)
        self._seat.send(holds, brief)
        self._seat.send([key for key in to if key not in set(holds)], full)

    def _offer(self, value: Value, leader: Key) -> None:
        self.ballots.offer(self.ballots.promised, value)
        missing = [counted for counted in value.counted(self.view) if counted[:2] not in self._desk.held]
        self._lacking = {counted[:2] for counted in missing}
        self._progress = True
        want(self._seat, self.slot, missing, (leader,))

    # -- other ballots -----------------------------------------------------------------------------------------------------------

    def _leader_lost(self) -> bool:
        leader = self.ballots.leader()
        if leader == self._seat.me:
            return False
        peer = self._seat.peers.get(leader)
        if peer is None or not self._seat.reachable(leader) or (self._doubts and peer.unfit == self.slot):
            return True
        return bool(self._nudges) and peer.slot is not None and peer.slot < self.slot  # it has not come this far

    def _next_ballot(self, now: float) -> None:
        if not self._seat.quorate():
            return
        for ballot in range(self.ballots.promised + 1, self.ballots.promised + 1 + len(self.view.members)):
            leader = self.ballots.leader(ballot)
            peer = self._seat.peers.get(leader)
            if leader == self._seat.me or (self._seat.reachable(leader) and (peer is None or peer.unfit != self.slot)):
                self._join(ballot, now)
                return

    def on_ballot(self, now: float) -> None:
        """The leader has not got anywhere."""
        self._next_ballot(now)

    def _join(self, ballot: int, now: float) -> None:
        if not self.ballots.join(ballot):
            return
        self._told, self._overdue, self._progress, self._lacking = None, 0, True, set()
        self._doubts = False
        self._seat.disarm("deadline", "flush")
        if self.ballots.leader() == self._seat.me:
            self._seat.send(self._seat.others, Prepare(self._seat.epoch, self.slot, self.ballots.promised))
        else:
            self._promise()

    def _promise(self) -> None:
        ballot = self.ballots.promised
        self._told = ballot, self._held
        promise = Promise(self._seat.epoch, self.slot, ballot, self.ballots.accepted, self._bits(self._held))
        self._seat.send((self.ballots.leader(),), promise)

    def nudge(self, now: float) -> None:
        """Say again what may have been lost."""
        self._nudges += 1
        self._doubts = True
        self._seat.arm("nudge", now + self._seat.timing.nudge_s * self._seat.silence.scale * 2 ** min(self._nudges, 3))
        if self.outcome is not None or not self._seat.is_member:
            return
        ballots, leader, own = self.ballots, self.ballots.leader(), self._desk.announced.get(self._seat.me)
        self._want_again(now)
        if own is not None:
            self._seat.send(self._seat.others, self._ready(own))
        if ballots.accepted is not None and ballots.accepted.ballot == ballots.promised:
            self._seat.send(self._voters(), Accept(self._seat.epoch, self.slot, ballots.promised, ballots.accepted.value.check))
        if leader != self._seat.me:
            (self._promise if ballots.promised else self.flush)()
        elif ballots.proposed:
            self._propose(tuple(key for key in self._seat.others if not ballots.accepts(key)), whole=True)
        elif ballots.promised:
            prepare = Prepare(self._seat.epoch, self.slot, ballots.promised)
            self._seat.send([key for key in self._seat.others if not ballots.promises(key)], prepare)

    def _want_again(self, now: float) -> None:
        """What is voted on is not here yet, or what was announced has not come although nothing else is on its way."""
        offered, timing = self.ballots.offered, self._seat.timing
        if self._lacking and offered is not None:
            missing = [counted for counted in offered.value.counted(self.view) if counted[:2] in self._lacking]
            want(self._seat, self.slot, missing, (self.ballots.leader(),))
        elif self._moved_at is not None and now - self._moved_at >= min(timing.want_s, 2 * self._patience.gather_s()):
            for key, announced in self._desk.announced.items():
                if not self._desk.holds(key):
                    holders = tuple(k for k, bits in self._haves.items() if bits >> (self.view.index(key) or 0) & 1)
                    want(self._seat, self.slot, [(key, announced.digest, announced.nbytes)], holders)

    # -- messages, all of them from other members of the view and about this slot --------------------------------------------------

    def receive(self, sender: Key, message: RoundMessage, now: float) -> None:
        """Take note of what another member says about this slot."""
        if self.outcome is not None:
            self._seat.refuse("decided")
        elif isinstance(message, Ready):
            self._on_ready(sender, message)
        elif isinstance(message, Accept):
            self.ballots.count(sender, (message.ballot, message.check))
        elif isinstance(message, Have):
            self._learn_held(sender, message.held)
        elif isinstance(message, Propose):
            self._on_propose(sender, message, now)
        elif isinstance(message, Commit):
            self._on_commit(sender, message)
        elif isinstance(message, Prepare):
            self._on_prepare(sender, message, now)
        else:
            self._on_promise(sender, message, now)

    def _learn_held(self, sender: Key, held: bytes) -> None:
        bits = int.from_bytes(held, "little") & ((1 << len(self.view.members)) - 1)
        self._haves[sender] = self._haves.get(sender, 0) | bits

    def _on_ready(self, sender: Key, message: Ready) -> None:
        if self._payloads.announce(self.slot, sender, Offered(message.digest, message.nbytes, message.via)):
            self._mark(sender)
        elif self._desk.announced[sender].digest != message.digest:
            self._seat.refuse("second payload")

    def _on_propose(self, sender: Key, message: Propose, now: float) -> None:
        if self.ballots.leader(message.ballot) != sender:
            self._seat.refuse("not the leader")
            return
        if message.ballot < self.ballots.promised:
            self._seat.refuse("old ballot")
            return
        value = self._restored(message.value)
        if value is None or value.check != message.check or value.why_not(self.view):
            self._seat.refuse("proposal")
            return
        self._join(message.ballot, now)
        if self.ballots.promised != message.ballot:
            self._seat.refuse("far ballot")
        elif self.ballots.offered is None or self.ballots.offered.ballot < message.ballot:
            self._offer(value, sender)

    def _restored(self, value: Value) -> Value | None:
        if value.digests or len(value.fates) != len(self.view.members):
            return value
        keys = [key for key, fate in zip(self.view.members, value.fates, strict=True) if fate & 1]
        found = [self._desk.announced.get(key) for key in keys]
        known = [offered for offered in found if offered is not None]
        if len(known) != len(keys):
            return None
        return Value(value.fates, b"".join(o.digest for o in known), tuple(o.nbytes for o in known), value.joined)

    def _on_commit(self, sender: Key, message: Commit) -> None:
        value = self.ballots.known(message.check)
        if value is not None:
            self.outcome = message.ballot, value
        else:
            self._archive.ask(sender)

    def _on_prepare(self, sender: Key, message: Prepare, now: float) -> None:
        if self.ballots.leader(message.ballot) != sender:
            self._seat.refuse("not the leader")
        elif message.ballot < self.ballots.promised:
            self._seat.refuse("old ballot")
        elif message.ballot == self.ballots.promised:
            self._promise()
        else:
            self._join(message.ballot, now)

    def _on_promise(self, sender: Key, message: Promise, now: float) -> None:
        accepted = message.accepted
        if self.ballots.leader(message.ballot) != self._seat.me:
            self._seat.refuse("not the leader")
        elif accepted is not None and (accepted.ballot >= message.ballot or accepted.value.why_not(self.view)):
            self._seat.refuse("promise")
        else:
            self._learn_held(sender, message.held)
            self._join(message.ballot, now)
            self.ballots.promise(sender, message.ballot, accepted)
