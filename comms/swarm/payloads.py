"""Whose payloads are announced and held, for the slot being decided and a few after it."""

from dataclasses import dataclass, field

from thinwire.comms.swarm.view import Key, Slot

AHEAD = 8  # slots
MAX_HELD = 2048  # payloads of one slot: every member's, and what stays from other incarnations and lineages


@dataclass(slots=True)
class Offered:
    """A payload that its member has announced."""

    digest: bytes
    nbytes: int
    via: Key | None = None


@dataclass(slots=True)
class Desk:
    """The payloads of one slot."""

    announced: dict[Key, Offered] = field(default_factory=dict)  # by members, first word counts
    held: dict[tuple[Key, bytes], int] = field(default_factory=dict)  # nbytes

    def holds(self, key: Key) -> bool:
        """Whether the payload that this member announced is here."""
        offered = self.announced.get(key)
        return offered is not None and (key, offered.digest) in self.held


class Payloads:
    """Desks by slot."""

    def __init__(self) -> None:
        self._desks: dict[Slot, Desk] = {}

    def desk(self, slot: Slot) -> Desk:
        """Of one slot."""
        return self._desks.setdefault(slot, Desk())

    def hold(self, slot: Slot, key: Key, digest: bytes, nbytes: int) -> bool:
        """A payload is here; whether there was room to note it."""
        held = self.desk(slot).held
        if len(held) >= MAX_HELD and (key, digest) not in held:
            return False
        held[key, digest] = nbytes
        return True

    def announce(self, slot: Slot, key: Key, offered: Offered) -> bool:
        """A member has said what its payload is; whether it had room and had not said so before."""
        announced = self.desk(slot).announced
        if key in announced or len(announced) >= MAX_HELD:
            return False
        announced[key] = offered
        return True

    def forget_before(self, slot: Slot) -> None:
        """Drop what is decided."""
        for old in [old for old in self._desks if old < slot]:
            del self._desks[old]

    def forget_announced(self, me: Key) -> None:
        """Another view decides now: what others have announced counts no more until they announce it there."""
        for desk in self._desks.values():
            desk.announced = {key: offered for key, offered in desk.announced.items() if key == me}
