"""The laws that hold between members: what one told of a slot or an epoch, all others must have told alike."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from thinwire.comms.swarm.history import Event, Place
from thinwire.comms.swarm.verdict import Slot, Verdict, follows, named, short, slot_of


@dataclass(frozen=True)
class _Lineage:
    """An epoch as it was declared."""

    place: Place
    number: int
    parent: str
    first: Slot
    chain: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class _Decided:
    """What was decided about a slot."""

    place: Place
    counted: dict[str, str]
    skipped: dict[str, str]
    members: list[str]
    chain: str

    def difference(self, other: "_Decided") -> str:
        """The first field that differs, with both values, or nothing."""
        for name in ("counted", "skipped", "members", "chain"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} is {short(mine)} here and {short(theirs)} there"
        return ""


class Run:
    """What incarnations are compared by: decisions, states and epochs; the first to tell stands, later ones must be alike."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.decided: dict[tuple[str, Slot], _Decided] = {}
        self.states: dict[tuple[str, Slot], tuple[Place, str]] = {}
        self.lineages: dict[str, _Lineage] = {}
        self.seen: dict[str, Place] = {}  # epochs in which anything was decided or joined
        self.joined: list[tuple[Place, str, Slot, str]] = []
        self.holes = 0
        self._order: dict[str, list[Slot]] = {}

    def saw(self, digest: str, place: Place) -> None:
        """Something has happened in this epoch; a founder's join comes before its epoch has a name."""
        if digest:
            self.seen.setdefault(digest, place)

    def decide(self, place: Place, event: Event) -> None:
        key = event.digest, slot_of(event)
        found = _Decided(place, event.counted, event.skipped, event.members, event.chain)
        known = self.decided.setdefault(key, found)
        if known is not found:
            difference = found.difference(known)
            self.verdict.expect("same decision", not difference, f"{named(key)}: {difference}", place, known.place)
        both = event.counted.keys() & event.skipped.keys()
        self.verdict.expect("once", not both, f"{named(key)} both counts and skips {short(sorted(both))}", place)

    def apply(self, place: Place, event: Event) -> None:
        key = event.digest, slot_of(event)
        known = self.decided.get(key)
        assert known is not None  # the incarnation itself has told it
        said = f"{named(key)}: {event.kind} of {short(event.counted)}, decided was {short(known.counted)}"
        self.verdict.expect("once", event.counted == known.counted, said, place, known.place)
        if event.after:
            self.state(place, key, event.after)

    def state(self, place: Place, key: tuple[str, Slot], state: str) -> None:
        other, known = self.states.setdefault(key, (place, state))
        if other is not place:
            said = f"{named(key)}: state is {short(state)} here and {short(known)} there"
            self.verdict.expect("same state", state == known, said, place, other)

    def declare(self, place: Place, event: Event) -> None:
        found = _Lineage(place, event.epoch, event.parent, slot_of(event), event.chain, tuple(event.members))
        known = self.lineages.setdefault(event.digest, found)
        same = (known.number, known.parent, known.first, known.chain, known.members) == (
            found.number, found.parent, found.first, found.chain, found.members,
        )  # fmt: skip
        said = f"epoch {event.digest[:8]} is declared as {_epoch(found)} here and as {_epoch(known)} there"
        self.verdict.expect("lineage", same, said, place, known.place)

    # -- what can only be told when all lines are read ---------------------------------------------------------------------------

    def finish(self) -> None:
        for digest, slot in sorted(self.decided):
            self._order.setdefault(digest, []).append(slot)
        self.verdict.decisions = len(self.decided)
        self._lineages()
        for place, digest, first, state in self.joined:
            known = self._state_before(digest, first)
            if known:
                said = f"joined at {named((digest, first))} with state {short(state)}; the state before it was {short(known[1])}"
                self.verdict.expect("same state", state == known[1], said, place, known[0])
        for (digest, slot), decided in self.decided.items():
            view = self._view(digest, slot)
            if view:
                strangers = sorted(decided.counted.keys() - set(view[1]))
                said = f"{named((digest, slot))} counts {short(strangers)}, no members of it"
                self.verdict.expect("lineage", not strangers, said, decided.place, view[0])
        if self.holes:
            self.verdict.notes.append(f"{self.holes} holes that a full disk or rotation left: what needs those lines was not checked")

    def _lineages(self) -> None:
        for digest, place in self.seen.items():
            said = f"epoch {digest[:8]} is declared by nobody; add the history of the member that founded it"
            self.verdict.expect("lineage", digest in self.lineages, said, place)
        children: dict[str, list[str]] = {}
        for digest, lineage in self.lineages.items():
            children.setdefault(lineage.parent, []).append(digest)
            if lineage.parent:
                self._check_parent(digest, lineage)
        for parent, born in children.items():
            firsts = ", ".join(f"{digest[:8]} from round {self.lineages[digest].first[0]}" for digest in born)
            if not parent and len(born) > 1:
                self.verdict.forks.append(f"founded {len(born)} times: {firsts}")
            elif parent:
                went_on = any(slot >= self.lineages[digest].first for digest in born for slot in self._order.get(parent, [])[-1:])
                if len(born) > 1 or went_on:
                    self.verdict.forks.append(f"{parent[:8]} split{' and went on' if went_on else ''}: {firsts}")

    def _check_parent(self, digest: str, lineage: _Lineage) -> None:
        if lineage.parent not in self.lineages:
            said = f"epoch {digest[:8]} goes on from {lineage.parent[:8]}, which is declared by nobody"
            self.verdict.expect("lineage", False, said, lineage.place)
            return
        numbered = lineage.number > self.lineages[lineage.parent].number
        said = f"epoch {digest[:8]} has number {lineage.number}, its parent {self.lineages[lineage.parent].number}"
        self.verdict.expect("lineage", numbered, said, lineage.place, self.lineages[lineage.parent].place)
        last = self._decision_before(digest, lineage.first)
        if last is None:
            told = bool(self.holes) or lineage.first == (0, 0)
            said = f"epoch {digest[:8]} goes on from a decision before round {lineage.first[0]} that no history holds"
            self.verdict.expect("lineage", told, said, lineage.place)
        elif lineage.chain:
            said = f"epoch {digest[:8]} goes on from chain {short(lineage.chain)}; the decision before it has {short(last.chain)}"
            self.verdict.expect("lineage", lineage.chain == last.chain, said, lineage.place, last.place)

    def _before(self, digest: str, slot: Slot) -> tuple[str, Slot] | None:
        """The decision that comes right before a slot, in this epoch or in those it goes on from."""
        for _ in range(len(self.lineages) + 1):  # a tampered history may hold a circle
            slots = self._order.get(digest, [])
            at = bisect_left(slots, slot)
            if at:
                found = slots[at - 1]
                return (digest, found) if follows(found, slot) else None
            lineage = self.lineages.get(digest)
            if lineage is None or not lineage.parent:
                return None
            digest, slot = lineage.parent, min(slot, lineage.first)
        return None

    def _decision_before(self, digest: str, slot: Slot) -> _Decided | None:
        key = self._before(digest, slot)
        return self.decided[key] if key else None

    def _state_before(self, digest: str, slot: Slot) -> tuple[Place, str] | None:
        key = self._before(digest, slot)
        return self.states.get(key) if key else None

    def _view(self, digest: str, slot: Slot) -> tuple[Place, Iterable[str]] | None:
        lineage = self.lineages.get(digest)
        if lineage is not None and slot == lineage.first:
            return (lineage.place, lineage.members) if lineage.members else None
        before = self._decision_before(digest, slot)
        return (before.place, before.members) if before and before.members else None


def _epoch(lineage: _Lineage) -> str:
    return f"number {lineage.number} after {lineage.parent[:8] or 'nothing'} from round {lineage.first[0]} with {short(lineage.members)}"
