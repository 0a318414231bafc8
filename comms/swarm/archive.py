"""Decisions: those that are known and wait for their payloads, those that are done, and catching up with others."""

from collections.abc import Iterable
from itertools import islice

from thinwire.comms.swarm.decision import Decision, Value, decide
from thinwire.comms.swarm.effects import Decided, Rejoin, Want
from thinwire.comms.swarm.messages import CatchUp, Ruling, Rulings, fit
from thinwire.comms.swarm.payloads import Payloads
from thinwire.comms.swarm.seat import Seat
from thinwire.comms.swarm.view import EpochId, Key, Slot, View, following

KEPT = 256  # decisions
AHEAD = 256  # decisions that may wait for payloads
FETCHED = 4  # decisions whose payloads are fetched at a time
MAX_HOLDERS = 16


class Archive:
    """What this member knows to be decided in its lineage."""

    def __init__(self, seat: Seat, payloads: Payloads) -> None:
        self._seat, self._payloads = seat, payloads
        self.decisions: dict[Slot, Decision] = {}
        self._waiting: dict[Slot, Decision] = {}
        self._wanted: set[Slot] = set()  # asked for since the last time
        self._stuck = 0.0
        self._untold_s = 0.0  # for which others have been ahead and have told this member nothing

    def clear(self) -> None:
        """Another lineage begins: what was decided in the old one and is not done counts no more."""
        self._waiting, self._wanted, self._untold_s = {}, set(), 0.0
        self._seat.disarm("want")

    @property
    def behind(self) -> bool:
        """Whether a decision waits for its payloads."""
        return bool(self._waiting)

    def _end(self) -> tuple[Slot, View, bytes, int]:
        """What follows on the last decision known."""
        if not self._waiting:
            return self._seat.slot, self._seat.view, self._seat.chain, self._seat.work
        last = next(reversed(self._waiting.values()))
        return following(last.slot, self._seat.fragments), last.view, last.chain, last.work

    @property
    def next_unknown(self) -> Slot:
        """The first slot whose decision this member does not know."""
        return self._end()[0]

    def learn(self, value: Value, ballot: int, chain: bytes | None = None) -> bool:
        """The next decision, as a value of a quorum or as told with its `chain`; whether it follows on what is known here."""
        slot, view, before, work = self._end()
        if len(self._waiting) >= AHEAD or value.why_not(view):
            return False
        decision = decide(view, slot, value, chain=before, work=work, ballot=ballot)
        if chain is not None and decision.chain != chain:
            return False
        self._waiting[slot] = decision
        return True

    def apply(self, now: float) -> Decision | None:
        """The next decision if its payloads are here; else they are wanted, and those of the decisions after it."""
        decision = self._waiting.get(self._seat.slot)
        if decision is None:
            return None
        if not self._missing(decision):
            del self._waiting[decision.slot]
            self._untold_s = 0.0
            self._wanted.discard(decision.slot)
            self._seat.disarm("want")
            self.decisions[decision.slot] = decision
            if len(self.decisions) > KEPT:
                del self.decisions[next(iter(self.decisions))]
            self._record(decision)
            return decision
        if "want" not in self._seat.due:
            self._stuck = now + self._seat.timing.stuck_s
            self._seat.arm("want", now + self._seat.timing.want_s)
        self._want()
        return None

    def want_again(self, now: float) -> None:
        """Payloads are still not here."""
        if self._seat.slot in self._waiting:
            if now >= self._stuck:
                self._seat.emit(Rejoin("nobody sends a payload that counts", self._members_ahead()))
            self._seat.arm("want", now + self._seat.timing.want_s)
            self._wanted = set()
            self._want()

    def _want(self) -> None:
        for slot, decision in islice(self._waiting.items(), FETCHED):
            if slot not in self._wanted:
                self._wanted.add(slot)
                want(self._seat, slot, self._missing(decision), ())

    def _missing(self, decision: Decision) -> list[tuple[Key, bytes, int]]:
        held = self._payloads.desk(decision.slot).held
        return [counted for counted in decision.counted if counted[:2] not in held]

    def _record(self, decision: Decision) -> None:
        counted = {key: digest for key, digest, _ in decision.counted}
        self._seat.record(
            "commit", round=decision.slot.round, fragment=decision.slot.fragment, ballot=decision.ballot, counted=counted,
            skipped=decision.skipped, members=list(decision.members), chain=decision.chain,
        )  # fmt: skip
        self._seat.emit(Decided(decision))

    def mind_others(self, seconds: float, patience_s: float) -> None:
        """Another beat's time has passed. Members that are there decide on and tell this one nothing, whatever it asks: it goes in anew.

        Time is counted in beats, so that a process that stood still has waited for nobody.
        """
        ahead = () if self._waiting else self._members_ahead()
        self._untold_s = self._untold_s + seconds if ahead else 0.0
        if self._untold_s > max(patience_s, self._seat.timing.stuck_s):
            self._untold_s = 0.0
            self._seat.refuse("untold")
            self._seat.emit(Rejoin("the others decide and tell this member nothing", ahead))

    def _members_ahead(self) -> tuple[Key, ...]:
        return tuple(key for key in self._seat.peers.further(self._seat.slot) if self._seat.view.index(key) is not None)

    # -- others ------------------------------------------------------------------------------------------------------------------

    def ask(self, peer: Key) -> None:
        """Let a peer tell what this member has missed."""
        self._seat.send((peer,), CatchUp(self._seat.epoch, self.next_unknown))

    def tell(self, peer: Key, epoch: EpochId, slot: Slot) -> None:
        """Decisions of an epoch from `slot` on; nothing, if it is this member's epoch and they are not kept any more."""
        own = epoch == self._seat.epoch
        if own and slot >= self.next_unknown:
            return
        found = []
        known = self.decisions | self._waiting
        while (decision := known.get(slot)) is not None and decision.epoch.digest == epoch:
            found.append(Ruling(slot, decision.ballot, decision.value, decision.chain))
            slot = following(slot, self._seat.fragments)
        if found or own:
            self._seat.send((peer,), Rulings(epoch, fit(found)))

    def on_rulings(self, peer: Key, message: Rulings) -> None:
        """A member tells what was decided."""
        if not message.rulings:
            peer_slot = getattr(self._seat.peers.get(peer), "slot", None)
            if peer_slot is not None and peer_slot > self.next_unknown:
                self._seat.emit(Rejoin("what this member has missed is no longer kept", (peer,)))
            return
        for ruling in message.rulings:
            if ruling.slot == self.next_unknown and not self.learn(ruling.value, ruling.ballot, ruling.chain):
                self._seat.refuse("chain")
                return


def want(seat: Seat, slot: Slot, missing: Iterable[tuple[Key, bytes, int]], first: tuple[Key, ...]) -> None:
    """Ask for payloads: of their owners, then of `first`, then of the other members and of all who have come further."""
    up = [key for key in (*seat.others, *seat.peers.further(slot)) if seat.peers.up(key)]
    for key, digest, nbytes in missing:
        likely = dict.fromkeys((key, *first, *up))
        holders = [k for k in likely if k != seat.me and seat.peers.up(k)]
        seat.emit(Want(slot, key, digest, nbytes, tuple(holders[:MAX_HOLDERS])))
