"""What the parts of a machine share: who it is, where it stands, who is there, when it is due, and what it asks for."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec.structs import asdict

from thinwire.comms.swarm.deadline import Silence, Timing
from thinwire.comms.swarm.decision import DOWN, ELSEWHERE, LEFT, REPLACED, SILENT, STAYS, Standing
from thinwire.comms.swarm.effects import Effect, Record, Send
from thinwire.comms.swarm.messages import Beat, Here, Message
from thinwire.comms.swarm.peers import Peers
from thinwire.comms.swarm.view import EpochId, Key, Nonce, Slot, View


class Presence:
    """Members as bits of the view: who can take part (also as a set), for whom a leader waits (all of them but those that leave and those
    that have just come in), who never comes back as who it was, and who has a link.
    """

    def __init__(self) -> None:
        self.present: set[Key] = set()
        self.present_bits = self.waited_bits = self.gone_bits = self.linked_bits = 0

    def put(self, key: Key, at: int, *, present: bool, waited: bool, gone: bool, linked: bool) -> None:
        """What is now true of one member."""
        (self.present.add if present else self.present.discard)(key)
        self.present_bits = self.present_bits & ~(1 << at) | present << at
        self.waited_bits = self.waited_bits & ~(1 << at) | waited << at
        self.gone_bits = self.gone_bits & ~(1 << at) | gone << at
        self.linked_bits = self.linked_bits & ~(1 << at) | linked << at


class Seat:
    """One incarnation's place in a lineage."""

    def __init__(self, me: Key, nonce: Nonce, timing: Timing, fragments: int) -> None:
        self.me, self.nonce, self.timing, self.fragments = me, nonce, timing, fragments
        self.peers = Peers()
        self.silence = Silence(timing)
        self.counts: Counter[str] = Counter()  # refusals, by reason
        self.leaving = False
        self.yielding = False  # to another lineage
        self.fresh: frozenset[Key] = frozenset()  # members that have brought nothing yet: they are in the middle of a window
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

    def changed(self, key: Key | None = None) -> None:
        """A member came or went; None: anybody."""
        if key is None or self._presence is None:
            self._presence = None
        else:
            self._note(self._presence, key, self.view.index(key))

    def _note(self, presence: Presence, key: Key, at: int | None) -> None:
        if at is not None:
            fate = self.fate(key, self.view.nonces[at])
            here = self.view.nonces[at] == self.nonce if key == self.me else self.peers.up(key)
            present = here and fate in (STAYS, LEFT)
            gone = not present and fate in (LEFT, REPLACED)
            presence.put(
                key,
                at,
                present=present,
                waited=present and fate == STAYS and key not in self.fresh,
                gone=gone,
                linked=self.peers.linked(key),
            )

    def has_brought(self, key: Key) -> None:
        """A member has a payload: from now on it is waited for."""
        if key in self.fresh:
            self.fresh -= {key}
            self.changed(key)

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
    def presence(self) -> Presence:
        """Which members can take part."""
        if self._presence is None:
            self._presence = Presence()
            for at, key in enumerate(self.view.members):
                self._note(self._presence, key, at)
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
        quorate = self.is_member and self.quorate()
        return Beat(self.epoch, self.view.epoch.number, self.slot, self.work, quorate, self.yielding, self.ancestors)

    def here(self, token: int) -> Here:
        """The same, for who has asked."""
        return Here(**asdict(self.beat()), token=token)

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
