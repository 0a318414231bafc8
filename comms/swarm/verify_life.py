"""The laws that hold within one incarnation, line by line."""

from thinwire.comms.swarm.history import Event, Place
from thinwire.comms.swarm.verdict import Slot, follows, short, slot_of
from thinwire.comms.swarm.verify_run import Run

At = tuple[Slot, bool]  # True: the slot that is due; False: the one before it


class Life:
    """One incarnation, line by line; None and "" are what a hole has left unknown."""

    def __init__(self, run: Run) -> None:
        self._run, self._expect = run, run.verdict.expect
        self._seq = 0
        self._last: tuple[Place, float] | None = None
        self._decided: At | None = None
        self._applied: At | None = None
        self._known_from: Slot | None = (0, 0)  # decisions of earlier slots may have been in a hole: members hear them ahead of applying
        self._state = ""
        self._sums: tuple[int, int] | None = (0, 0)
        self._epochs: dict[Slot, str] = {}  # of decided slots that are to be applied

    def take(self, place: Place, event: Event) -> None:
        """The next line."""
        self._order(place, event)
        if event.kind in ("join", "rejoin"):
            self._join(place, event)
        elif event.kind == "epoch":
            self._epoch(place, event)
        elif event.kind == "commit":
            self._commit(place, event)
        elif event.kind in ("apply", "skip"):
            self._apply(place, event)
        elif event.kind == "fail":
            self._same(place, event.after or self._state, event.before or self._state, f"round {event.round} failed and changed the state")
            self._still(place, event)
        elif event.kind == "begin":
            self._still(place, event)
        self._bytes(place, event)

    def _order(self, place: Place, event: Event) -> None:
        missing = event.seq - self._seq
        rotated = missing > 0 and place.line == 1
        if missing > 0 and (event.lost or rotated):
            self._hole()
        said = f"event {event.seq} comes where {self._seq} is due and {event.lost} are declared lost"
        self._expect("whole", rotated or missing == event.lost, said, place)
        if self._last:
            said = f"the clock of the process went back by {self._last[1] - event.mono:.3f} s"
            self._expect("whole", event.mono >= self._last[1], said, place, self._last[0])
        self._seq, self._last = event.seq + 1, (place, event.mono)

    def _hole(self) -> None:
        self._run.holes += 1
        self._decided = self._applied = self._known_from = self._sums = None
        self._state = ""
        self._epochs = {}

    def _join(self, place: Place, event: Event) -> None:
        slot = slot_of(event)
        self._run.saw(event.digest, place)
        self._decided = self._applied = slot, True
        self._known_from = slot
        self._state = event.after
        self._epochs = {}
        if event.after:
            self._run.joined.append((place, event.digest, slot, event.after))

    def _epoch(self, place: Place, event: Event) -> None:
        self._follow("the first of its epoch", place, event, self._decided)
        self._decided = slot_of(event), True
        self._run.declare(place, event)

    def _commit(self, place: Place, event: Event) -> None:
        slot = slot_of(event)
        self._run.saw(event.digest, place)
        self._follow("decided", place, event, self._decided)
        self._decided = slot, False
        self._known_from = self._known_from or slot
        self._epochs[slot] = event.digest
        self._run.decide(place, event)

    def _apply(self, place: Place, event: Event) -> None:
        slot = slot_of(event)
        digest = self._epochs.pop(slot, None)
        if digest is None and self._known_from is not None and slot >= self._known_from:
            self._expect("once", False, f"round {event.round} is applied again, or before it was decided", place)
        elif digest is not None:
            said = f"round {event.round} was decided in epoch {digest[:8]} and applied in {event.digest[:8]}"
            self._expect("once", digest == event.digest, said, place)
            if digest == event.digest:
                self._run.apply(place, event)
        self._follow("applied", place, event, self._applied)
        self._applied = slot, False
        self._still(place, event)
        if event.kind == "skip":
            self._same(place, event.after, event.before, f"round {event.round} was skipped and changed the state")
        self._state = event.after

    def _follow(self, what: str, place: Place, event: Event, at: At | None) -> None:
        if at is not None:
            slot, (other, due) = slot_of(event), at
            said = f"round {event.round}.{event.fragment} is {what}, {'due was' if due else 'the one before was'} {other[0]}.{other[1]}"
            self._expect("gap-free", slot == other if due else follows(other, slot), said, place)

    def _still(self, place: Place, event: Event) -> None:
        said = f"before round {event.round} ({event.kind}) the state is another than its last change left"
        self._same(place, event.before, self._state, said)

    def _same(self, place: Place, state: str, known: str, said: str) -> None:
        if state and known:
            self._expect("untouched", state == known, f"{said}: {short(state)}, not {short(known)}", place)

    def _bytes(self, place: Place, event: Event) -> None:
        if self._sums is None:
            return
        self._sums = self._sums[0] + (event.sent or 0), self._sums[1] + (event.received or 0)
        for what, reported, counted in (
            ("sent", self._sums[0], event.sent_counted), ("received", self._sums[1], event.received_counted),
        ):  # fmt: skip
            if counted is not None:
                said = f"reported {reported} bytes {what} in all, the transport counted {counted}"
                self._expect("bytes", reported == counted, said, place)
