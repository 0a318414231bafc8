"""Newcomers: they follow the decisions, and are admitted with one when they have caught up."""

from dataclasses import dataclass

from thinwire.comms.swarm.decision import MAX_NEWCOMERS, Newcomer
from thinwire.comms.swarm.seat import Seat
from thinwire.comms.swarm.view import MAX_MEMBERS, Key, Nonce, Slot, number_of

MAX_OBSERVERS = 1024


@dataclass(frozen=True)
class _Observer:
    nonce: Nonce
    slot: Slot  # before which it holds the state


class Observers:
    """Those who follow."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._observers: dict[Key, _Observer] = {}

    def add(self, key: Key, nonce: Nonce, slot: Slot) -> None:
        """An incarnation follows and holds the state before `slot`."""
        if key not in self._observers and len(self._observers) >= MAX_OBSERVERS:
            self._seat.refuse("too many observers")
        else:
            self._observers[key] = _Observer(nonce, slot)

    def drop(self, key: Key) -> None:
        """It has gone."""
        self._observers.pop(key, None)

    def keys(self) -> tuple[Key, ...]:
        """Who has to be told of decisions."""
        return tuple(sorted(key for key, o in self._observers.items() if not self._seat.view.has(key, o.nonce)))

    def clear(self) -> None:
        """Another epoch begins: who follows asks again, in it."""
        self._observers = {}

    def settle(self) -> None:
        """Another view decides: its members follow no more."""
        for key in [key for key, o in self._observers.items() if self._seat.view.has(key, o.nonce)]:
            del self._observers[key]

    def caught_up(self, slot: Slot, stay: list[Key]) -> tuple[Newcomer, ...]:
        """Whom to admit with the decision of `slot`: never more than stay, so that a quorum is left if all of them die."""
        taken = {number_of(key) for key in stay}
        room = min(len(stay), MAX_NEWCOMERS, MAX_MEMBERS - len(stay))
        found: list[Newcomer] = []
        for key in sorted(self._observers):
            observer, peer = self._observers[key], self._seat.peers.get(key)
            here = peer is not None and peer.up and not peer.elsewhere and peer.nonce == observer.nonce and peer.left != observer.nonce
            behind = (slot.round - observer.slot.round) * self._seat.fragments + slot.fragment - observer.slot.fragment
            if len(found) < room and here and behind <= 1 and key not in stay and number_of(key) not in taken:
                taken.add(number_of(key))
                found.append(Newcomer(key, observer.nonce))
        return tuple(found)
