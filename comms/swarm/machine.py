"""The round protocol as a pure state machine: no I/O, no clock, no threads, no randomness.

Inputs are what happens to a member (`start`, `holds`, `receive`, `up`, `down`, `tick`, `leave`), each with the time; what they return is
what the driver has to do (`effects`). The same inputs in the same order give the same effects. docs/round-protocol.md tells the rules.
"""

from collections import Counter

from thinwire.comms.swarm import messages as m
from thinwire.comms.swarm.archive import Archive
from thinwire.comms.swarm.deadline import DEFAULT, Patience, Timing
from thinwire.comms.swarm.decision import LEFT, Decision, Standing, standing_after
from thinwire.comms.swarm.effects import Effect, Rejoin
from thinwire.comms.swarm.lineage import Lineage, founding
from thinwire.comms.swarm.messages import Message
from thinwire.comms.swarm.observers import Observers
from thinwire.comms.swarm.payloads import AHEAD, Offered, Payloads
from thinwire.comms.swarm.peers import NOBODY, Peer
from thinwire.comms.swarm.round import Round, RoundMessage
from thinwire.comms.swarm.seat import Seat
from thinwire.comms.swarm.view import MAX_MEMBERS, EpochId, Key, Nonce, Slot, View, following

OF_ROUND = (m.Ready, m.Have, m.Propose, m.Accept, m.Commit, m.Prepare, m.Promise)
MAX_STASHED = 4 * MAX_MEMBERS
ORDER = ("beat", "flush", "deadline", "ballot", "nudge", "want", "join", "bereaved")
FAR_FUTURE = 1e18
SPLITS = ("continue", "wait")


class Machine:
    """One incarnation's part in the protocol. `found` a run or `follow` one, then feed it."""

    def __init__(
        self,
        me: Key,
        nonce: Nonce,
        *,
        split: str = "continue",
        timing: Timing = DEFAULT,
        fragments: int = 1,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; one of {', '.join(SPLITS)}")
        self._seat = Seat(me, nonce, timing, fragments)
        self._payloads = Payloads()
        self._patience = Patience(timing)
        self._archive = Archive(self._seat, self._payloads)
        self._observers = Observers(self._seat)
        self._lineage = Lineage(self._seat, self._archive, split)
        self._stash: dict[tuple[Key, type], tuple[Nonce, RoundMessage]] = {}  # of the slot after this one
        self._replaced = False  # by a later process with the same key
        self._round: Round

    # -- what a driver reads -----------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """Who decides the next slot."""
        return self._seat.view

    @property
    def next_slot(self) -> Slot:
        """The slot that is decided next here: all before it are decided, with their payloads at hand."""
        return self._seat.slot

    @property
    def epoch(self) -> EpochId:
        """Of this member's lineage."""
        return self._seat.epoch

    @property
    def others(self) -> tuple[Key, ...]:
        """The other members of the view."""
        return self._seat.others

    @property
    def is_member(self) -> bool:
        """Whether this incarnation takes part in deciding the next slot."""
        return self._seat.is_member

    @property
    def decisions(self) -> dict[Slot, Decision]:
        """The last ones, in order."""
        return self._archive.decisions

    @property
    def counts(self) -> Counter[str]:
        """What was refused, by reason."""
        return self._seat.counts

    def standing(self, slot: Slot | None = None) -> Standing | None:
        """What a newcomer has to follow who holds the state before `slot` (by default the next one); None: not known any more."""
        if slot is None or slot == self._seat.slot:
            return self._seat.standing
        for decision in reversed(self._archive.decisions.values()):
            if following(decision.slot, self._seat.fragments) == slot:
                if decision.epoch.digest == self._seat.epoch:
                    return standing_after(decision, self._seat.fragments, self._seat.ancestors)
                return None
        return None

    def patience_s(self) -> float:
        """How long a round under way may usefully be waited for."""
        return self._patience.gather_s() + self._patience.straggle_s()

    def silence_s(self) -> float:
        """Without a word from a member, before it counts as silent."""
        return self._seat.silence.seconds()

    def beat(self) -> m.Beat:
        """What this member says of itself now."""
        return self._seat.beat()

    def present(self) -> tuple[Key, ...]:
        """The members that can take part now, ascending."""
        return tuple(sorted(self._seat.presence.present))

    def absent(self) -> dict[Key, str]:
        """Who cannot be talked to, and why; who went last comes last."""
        return self._seat.peers.absent()

    def wake_at(self) -> float | None:
        """When `tick` is due."""
        return min(self._seat.due.values(), default=None)

    # -- inputs ------------------------------------------------------------------------------------------------------------------

    def found(self, now: float, slot: Slot = Slot(0)) -> list[Effect]:  # noqa: B008
        """Be the first member of a run, whose state before `slot` is here."""
        return self.follow(founding(slot, self._seat.me, self._seat.nonce), now)

    def follow(self, standing: Standing, now: float) -> list[Effect]:
        """Follow a group, whose state before `standing.slot` is here, and become a member as soon as it decides so.

        Raises `ValueError` for a standing that no member has.
        """
        if standing.why_not:
            raise ValueError(f"cannot follow from there: {standing.why_not}")
        self._seat.stand(standing)
        if standing.work:
            self._patience.unknown_s = self._seat.timing.early_s
        if standing == founding(standing.slot, self._seat.me, self._seat.nonce):
            self._seat.record("epoch", round=standing.slot.round, fragment=standing.slot.fragment, members=list(standing.members))
        self._begin(now)
        self._seat.arm("beat", now)
        self._ask_to_join(now)
        return self._done(now)

    def start(self, slot: Slot, digest: bytes, nbytes: int, now: float, *, via: Key | None = None) -> list[Effect]:
        """This member's payload of a slot is ready, and final. With `via` it is sent to that member only, which passes it on.

        Raises `ValueError` for a slot more than 8 ahead.
        """
        seat = self._seat
        seat.has_brought(seat.me)
        if slot < seat.slot:
            seat.refuse("started late")
            return self._done(now)
        if slot.round > seat.slot.round + AHEAD:
            raise ValueError(f"slot {slot} is started while {seat.slot} is not decided")
        if self._payloads.announce(slot, seat.me, Offered(digest, nbytes, via)):
            self._payloads.hold(slot, seat.me, digest, nbytes)
            if slot == seat.slot:
                self._round.open()
        return self._done(now)

    def holds(self, slot: Slot, key: Key, digest: bytes, nbytes: int, now: float) -> list[Effect]:
        """A payload has arrived whole, and has this hash."""
        if not self._seat.slot <= slot or slot.round > self._seat.slot.round + AHEAD:
            self._seat.refuse("payload of another time")
        elif not self._payloads.hold(slot, key, digest, nbytes):
            self._seat.refuse("too many payloads")
        elif slot == self._seat.slot:
            self._round.hold(key, digest)
        return self._done(now)

    def up(self, key: Key, now: float, *, process: bytes | None = None) -> list[Effect]:
        """A link to a peer stands, and to this process of it."""
        peer = self._seat.peers.find(key, now)
        if peer is None:
            self._seat.refuse("too many peers")
        elif key != self._seat.me:
            self._seat.peers.begin(peer, key, now, process)
            self._changed(now, key)
            self._seat.send((key,), self._seat.beat())
            self._round.greet(key)
            if "join" in self._seat.due:
                self._seat.send((key,), m.Join(self._seat.epoch, self._seat.slot))
        return self._done(now)

    def down(self, key: Key, now: float) -> list[Effect]:
        """It has ended, or could not be made."""
        if self._seat.peers.end(key):
            self._observers.drop(key)
            self._changed(now, key)
            self._round.lost(key)
        return self._done(now)

    def leave(self, now: float) -> list[Effect]:
        """Take part until the slot under way is decided, and no longer."""
        self._seat.leaving = True
        self._seat.send(self._seat.peers.connected(), m.Leave(self._seat.epoch))
        self._seat.record("leave")
        self._changed(now)
        return self._done(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        for name in ORDER:
            if self._seat.due.get(name, FAR_FUTURE) <= now:
                self.fire(name, now)
        return self._done(now)

    def fire(self, name: str, now: float) -> None:
        """A timer has run out."""
        late = now - self._seat.due.pop(name, now)
        if name == "beat":
            self._beat(now, late)
        elif name == "flush":
            self._round.flush()
        elif name == "deadline":
            self._round.on_deadline(now)
        elif name == "ballot":
            self._round.on_ballot(now)
        elif name == "nudge":
            self._round.nudge(now)
        elif name == "want":
            self._archive.want_again(now)
        elif name == "join":
            self._ask_to_join(now)
        elif name == "bereaved":
            self._enter(self._lineage.bereaved(now), now)

    def receive(self, sender: Key, nonce: Nonce, message: Message, now: float) -> list[Effect]:
        """A message from this incarnation of `sender`, who has really sent it."""
        seat = self._seat
        peer = seat.peers.find(sender, now) if sender != seat.me else None
        if peer is None:
            seat.refuse("own key" if sender == seat.me else "too many peers")
        elif peer.bound and peer.nonce not in (nonce, peer.left):
            seat.refuse("key in use")
        elif nonce == peer.left != peer.nonce:  # under way since before its successor spoke
            seat.refuse("has left")
        else:
            self._hear(sender, peer, nonce, message, now)
            self._take(sender, nonce, peer, message, now)
        return self._done(now)

    # -- who is there ------------------------------------------------------------------------------------------------------------

    def _hear(self, sender: Key, peer: Peer, nonce: Nonce, message: Message, now: float) -> None:
        if isinstance(message, m.Beat):
            if peer.beat is not None:
                self._seat.silence.learn(now - peer.beat)
            peer.beat = now
        elsewhere = peer.elsewhere
        if message.epoch == self._seat.epoch:
            peer.elsewhere = False
        elif isinstance(message, m.Beat):
            peer.elsewhere = message.epoch not in self._seat.ancestors
        news = peer.silent or peer.nonce != nonce or elsewhere != peer.elsewhere
        if peer.nonce not in (None, NOBODY, nonce, peer.left):  # without a word of leaving: perhaps another process, by a way around
            peer.process = None
        peer.heard, peer.silent, peer.bound, peer.nonce = now, False, True, nonce
        if news:
            self._changed(now, sender)

    def _changed(self, now: float, key: Key | None = None) -> None:
        self._seat.changed(key)
        self._lineage.check(now)

    def _beat(self, now: float, late: float) -> None:
        seat = self._seat
        patience = seat.silence.seconds()
        if late > patience / 3:  # this process itself has stood still
            seat.peers.excuse(late)
        news = False
        for key, peer in seat.peers.items():
            if peer.link and not peer.silent and now - peer.heard > patience:
                peer.silent, peer.bound, news = True, False, True
                self._observers.drop(key)
        if news:
            self._changed(now)
        self._lineage.stay(now)
        between_s = seat.timing.beat_s * seat.silence.scale
        self._archive.mind_others(between_s, self._patience.ballot_s(0, patience))
        seat.send(seat.peers.connected(), seat.beat())
        seat.arm("beat", now + between_s)

    def _ask_to_join(self, now: float) -> None:
        seat = self._seat
        if seat.is_member or seat.leaving or self._replaced:
            seat.disarm("join")
            return
        seat.send(seat.others, m.Join(seat.epoch, seat.slot))
        seat.arm("join", now + seat.timing.join_s)

    # -- messages ----------------------------------------------------------------------------------------------------------------

    def _take(self, sender: Key, nonce: Nonce, peer: Peer, message: Message, now: float) -> None:
        seat = self._seat
        asked = self._lineage.consented
        if asked is not None and message.epoch == asked.epoch:  # who speaks in it knows that all have consented
            self._enter(self._lineage.on_begun(sender, asked, now), now)
        if isinstance(message, m.Leave):
            peer.left = nonce
            self._observers.drop(sender)
            self._changed(now)
        elif isinstance(message, m.CatchUp):  # of this epoch, or of one before it
            self._archive.tell(sender, message.epoch, message.slot)
        elif isinstance(message, m.Where):
            seat.send((sender,), seat.here(message.token))
        elif message.epoch != seat.epoch:
            if isinstance(message, m.Beat):
                self._lineage.meet(sender, message, now)
            else:
                seat.refuse("another epoch")
                seat.send((sender,), seat.beat())
        elif isinstance(message, OF_ROUND):
            self._take_of_round(sender, nonce, peer, message, now)
        elif isinstance(message, m.Beat):
            peer.slot, peer.unfit = message.slot, None if message.quorate else message.slot
            if message.slot > self._archive.next_unknown:
                self._archive.ask(sender)
        elif isinstance(message, m.Join):
            self._observers.add(sender, nonce, message.slot)
            self._archive.tell(sender, seat.epoch, message.slot)
        elif isinstance(message, m.Begun):
            self._enter(self._lineage.on_begun(sender, message.standing, now), now)
        elif isinstance(message, m.Rulings) and not seat.quorate():  # of whoever has followed for longer
            self._archive.on_rulings(sender, message)
        elif not seat.view.has(sender, nonce):
            seat.refuse("no member")
        elif isinstance(message, m.Rulings):
            self._archive.on_rulings(sender, message)
        elif isinstance(message, m.Found):
            self._lineage.on_found(sender, message)
        else:
            self._enter(self._lineage.on_consent(sender, message), now)

    def _take_of_round(self, sender: Key, nonce: Nonce, peer: Peer, message: RoundMessage, now: float) -> None:
        seat = self._seat
        if peer.slot is None or message.slot > peer.slot:
            peer.slot = message.slot
        if isinstance(message, m.Ready):
            seat.has_brought(sender)
        if message.slot < seat.slot:
            seat.refuse("decided")
            if isinstance(message, (m.Propose, m.Prepare, m.Promise)):
                self._archive.tell(sender, seat.epoch, message.slot)
            elif isinstance(message, m.Have):
                seat.send((sender,), seat.beat())
        elif message.slot > seat.slot:
            if message.slot == following(seat.slot, seat.fragments) and len(self._stash) < MAX_STASHED:
                self._stash[sender, type(message)] = nonce, message
            else:
                seat.refuse("ahead")
                self._archive.ask(sender)
        elif not seat.view.has(sender, nonce):
            seat.refuse("no member")
        elif not seat.is_member:
            seat.refuse("no member here")
        else:
            self._round.receive(sender, message, now)

    # -- from slot to slot -------------------------------------------------------------------------------------------------------

    def _done(self, now: float) -> list[Effect]:
        seat = self._seat
        self._round.advance(now)
        while True:
            outcome = self._round.outcome
            if outcome is not None and self._archive.next_unknown == seat.slot:
                self._archive.learn(outcome[1], outcome[0])
            decision = self._archive.apply(now)
            if decision is None:
                return seat.take()
            self._apply(decision, now)

    def _apply(self, decision: Decision, now: float) -> None:
        seat = self._seat
        self._round.close(now)
        at = seat.view.index(seat.me) if seat.is_member else None
        seat.fresh |= {newcomer.key for newcomer in decision.value.joined}
        seat.stand(standing_after(decision, seat.fragments, seat.ancestors))
        seat.fresh &= set(seat.view.members)
        if at is not None and decision.value.fates[at] >> 1 == LEFT:
            seat.leaving = True
        self._payloads.forget_before(seat.slot)
        self._observers.settle()
        self._tell_observers(decision)
        self._begin(now)
        if at is not None and seat.view.index(seat.me) is not None and not seat.is_member:
            self._replaced = True
            seat.emit(Rejoin("another process has joined with this key", ()))
        self._ask_to_join(now)

    def _tell_observers(self, decision: Decision) -> None:
        seat, round_ = self._seat, self._round
        if round_.outcome is not None and round_.ballots.leader(decision.ballot) == seat.me:
            told = [*self._observers.keys(), *(n.key for n in decision.value.joined)]
            for key in told:
                self._archive.tell(key, seat.epoch, decision.slot)

    def _begin(self, now: float) -> None:
        self._round = Round(self._seat, self._payloads, self._archive, self._patience, self._observers)
        self._lineage.check(now)
        stash, self._stash = self._stash, {}
        self._round.open()
        for (sender, _), (nonce, message) in stash.items():
            peer = self._seat.peers.get(sender)
            if peer is not None and message.slot == self._seat.slot and message.epoch == self._seat.epoch:
                self._take_of_round(sender, nonce, peer, message, now)
        self._round.advance(now)

    def _enter(self, standing: Standing | None, now: float) -> None:
        """Go on in another epoch."""
        if standing is None:
            return
        seat, parent = self._seat, self._seat.epoch
        seat.stand(standing)
        seat.record(
            "epoch", parent=parent, round=seat.slot.round, fragment=seat.slot.fragment, chain=seat.chain, members=list(seat.view.members)
        )
        for key in seat.others:
            peer = seat.peers.get(key)
            if peer is not None:
                peer.elsewhere, peer.unfit = False, None
        self._archive.clear()
        self._payloads.forget_announced(seat.me)
        self._observers.clear()
        self._lineage.begin(standing)
        self._stash = {}
        self._begin(now)
        self._ask_to_join(now)
