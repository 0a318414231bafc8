"""What the parts of a machine share: who it is, where it stands, who is there, when it is due, and what it asks for."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from thinwire.comms.swarm.deadline import Silence, Timing
from thinwire.comms.swarm.decision import DOWN, ELSEWHERE, LEFT, REPLACED, SILENT, STAYS, Standing
from thinwire.comms.swarm.effects import Effect, Record, Send
from thinwire.comms.swarm.messages import Beat, Message
from thinwire.comms.swarm.peers import Peers
from thinwire.comms.swarm.view import EpochId, Key, Nonce, Slot, View


class Presence(NamedTuple):
    """The members that can take part; those a leader waits for are not leaving. Also as bits of the view."""

    present: frozenset[Key]
    waited: tuple[Key, ...]
    present_bits: int
    waited_bits: int


class Seat:
    """One incarnation's place in a lineage."""

    def __init__(self, me: Key, nonce: Nonce, timing: Timing, fragments: int) -> None:
        self.me, self.nonce, self.timing, self.fragments = me, nonce, timing, fragments
        self.peers = Peers()
        self.silence = Silence(timing)
        self.counts: Counter[str] = Counter()  # refusals, by reason
        self.leaving = False
        self.yielding = False  # to another lineage
        self.due: dict[str, float] = {}  # timers
        self._effects: list[Effect] = []
        self._presence: Presence | None = None

    def stand(self, standing: Standing) -> None:
        """Stand there from now on."""
        self.view: View = standing.view
        self.slot: Slot = standing.slot  # that is decided next
        self.chain, self.work = standing.chain, standing.work
        self.ancestors: tuple[EpochId, ...] = standing.ancestors
        self.silence.scale = max(1.0, len(self.view.members) / 32)
        self.changed()

    @property
    def standing(self) -> Standing:
        """Where this member stands."""
        view = self.view
        return Standing(
            view.epoch.number, view.epoch.digest, self.slot, self.chain, self.work, view.members, view.nonces, self.ancestors
        )  # fmt: skip

    @property
    def epoch(self) -> EpochId:
        """Of the lineage."""
        return self.view.epoch.digest

    @property
    def is_member(self) -> bool:
        """Whether this incarnation decides the next slot, with others."""
        return self.view.has(self.me, self.nonce)

    @property
    def others(self) -> tuple[Key, ...]:
        """The other members."""
        return tuple(key for key in self.view.members if key != self.me)

    # -- who is there ------------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody came or went."""
        self._presence = None

    def fate(self, key: Key, nonce: Nonce) -> int:
        """Whether a member stays, or why it goes."""
        if key == self.me:
            return LEFT if self.leaving else STAYS
        peer = self.peers.get(key)
        if peer is None:
            return DOWN
        if peer.nonce not in (None, nonce):
            return REPLACED
        if peer.left == nonce:
            return LEFT
        if not peer.link:
            return DOWN
        return SILENT if peer.silent else ELSEWHERE if peer.elsewhere else STAYS

    @property
    def presence(self) -> "Presence":
        """Which members can take part."""
        if self._presence is None:
            pairs = list(zip(self.view.members, self.view.nonces, strict=True))
            fates = {key: self.fate(key, nonce) for key, nonce in pairs}
            if not self.is_member:
                fates.pop(self.me, None)
            present = [key for key, fate in fates.items() if fate == STAYS or (fate == LEFT and (key == self.me or self.peers.up(key)))]
            waited = [key for key in present if fates[key] == STAYS]
            self._presence = Presence(frozenset(present), tuple(waited), self.view.bits(present), self.view.bits(waited))
        return self._presence

    def reachable(self, key: Key) -> bool:
        """Whether a member can take part: it is up, in this lineage, and the incarnation of the view."""
        return key in self.presence.present

    def quorate(self) -> bool:
        """Whether enough members are there to decide."""
        return self.view.quorum(self.presence.present)

    # -- what goes out -----------------------------------------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Ask the driver for something."""
        self._effects.append(effect)

    def send(self, to: Iterable[Key], message: Message) -> None:
        """To others; links that are down are left out."""
        up = tuple(key for key in to if key != self.me and self.peers.linked(key))
        if up:
            self.emit(Send(up, message))

    def record(self, kind: str, **fields: Any) -> None:
        """A line for the history."""
        epoch = {"epoch": self.view.epoch.number, "digest": self.epoch}
        self.emit(Record(kind, epoch | fields))

    def refuse(self, why: str) -> None:
        """Count something that is not taken."""
        self.counts[why] += 1

    def beat(self) -> Beat:
        """Where this member stands, for others."""
        quorate = self.is_member and not self.yielding and self.quorate()
        return Beat(self.epoch, self.view.epoch.number, self.slot, self.work, quorate, self.ancestors)

    def take(self) -> list[Effect]:
        """All that was asked for since the last time."""
        effects, self._effects = self._effects, []
        return effects

    # -- timers ------------------------------------------------------------------------------------------------------------------

    def arm(self, name: str, at: float, *, sooner: bool = False) -> None:
        """Be due then; with `sooner` only if that is before what is armed."""
        if not sooner or at < self.due.get(name, float("inf")):
            self.due[name] = at

    def disarm(self, *names: str) -> None:
        """Not due any more."""
        for name in names:
            self.due.pop(name, None)
