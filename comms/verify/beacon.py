"""Randomness that nobody knew before: a round number becomes 32 bytes, the same for everybody, and not one moment too early.

`HashChainBeacon` needs no network of its own. Every party draws a secret, hashes it many times and commits to the last hash, its anchor.
At each tick every party reveals the link before; whoever has the anchor can check it. The randomness of a round is a hash of all links of
one tick. Who reveals last knows the outcome first, and could withhold its link to prevent it: then the tick is void, the party is named
and excluded, the links of that tick are burnt, and the next tick of the others makes the round. What that will be nobody knew when the
party had to decide, as long as one party that remains is honest: a coalition can throw the dice once more for each member that it gives
up, and can never choose. When a party is late is for the callers to agree on, as they agree on the members of a round.
"""

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping

NBYTES = 32
KEPT = 4096  # rounds
MAX_LINKS = 1 << 20
_LINK, _ROUND = b"thinwire beacon link 1", b"thinwire beacon round 1"


class BeaconError(ValueError):
    """Randomness that cannot be had, or a reveal that is refused; says why."""


class NotYetError(BeaconError):
    """The round's randomness does not exist yet: ask again later."""


class Beacon(ABC):
    """Where randomness comes from. Two beacons of the same kind and parameters give the same bytes for the same round."""

    @abstractmethod
    def randomness(self, round_: int) -> bytes:
        """The 32 bytes of a round. Raises `NotYetError` before they exist, and `BeaconError` when they cannot be had or verified."""

    @abstractmethod
    def first_unknown(self) -> int:
        """The first round of which nobody can know anything now: what is committed to now may be challenged with it."""


class HashChain:
    """A party's side: `length` links that lead to `anchor`; link n is revealed at tick n, counted from 1. Keep it secret."""

    def __init__(self, run: bytes, length: int, secret: bytes | None = None) -> None:
        if not 1 <= length <= MAX_LINKS:
            raise ValueError(f"a chain of {length} links; choose 1 to {MAX_LINKS}, one for every round and some for those that fail")
        secret = secrets.token_bytes(NBYTES) if secret is None else secret
        if len(secret) != NBYTES:
            raise ValueError(f"the secret has {len(secret)} bytes; give {NBYTES} random ones, or none")
        links = [secret]
        for _ in range(length):
            links.append(_before(run, links[-1]))
        self._links = links[::-1]

    @property
    def anchor(self) -> bytes:
        """What the party commits to before the first tick."""
        return self._links[0]

    def link(self, tick: int) -> bytes:
        """What it reveals at a tick; raises `BeaconError` when the chain is used up."""
        if not 1 <= tick < len(self._links):
            raise BeaconError(f"tick {tick} of a chain of {len(self._links) - 1} links; begin another chain in another run")
        return self._links[tick]

    def __repr__(self) -> str:
        return f"HashChain(anchor={self.anchor.hex()}, links={len(self._links) - 1})"


class HashChainBeacon(Beacon):
    """Everybody's side: takes reveals, checks them against the anchors, and makes rounds 1, 2, ... of them.

    `anchors`: the anchor of each party, by its key. Raises `ValueError` when there is none, or when two are alike.
    """

    def __init__(self, run: bytes, anchors: Mapping[bytes, bytes]) -> None:
        wrong = [name.hex() for name, anchor in anchors.items() if len(anchor) != NBYTES]
        if not anchors or wrong or len(set(anchors.values())) < len(anchors):
            why = f"those of {wrong} have not {NBYTES} bytes" if wrong else "there are none" if not anchors else "two parties have the same"
            raise ValueError(f"anchors: {why}; give one of each party, from its own HashChain")
        self._run = run
        self._last = dict(sorted(anchors.items()))
        self._shown = dict[bytes, bytes]()
        self._rounds = dict[int, bytes]()
        self.round, self.tick = 0, 1
        self.excluded = dict[bytes, int]()

    @property
    def parties(self) -> tuple[bytes, ...]:
        """Those that take part."""
        return tuple(self._last)

    def reveal(self, party: bytes, link: bytes) -> None:
        """A party's link of this tick; the last one makes the round. The same link again does nothing.

        Raises `BeaconError` for who is no party or was excluded, and for bytes that do not lead to its anchor.
        """
        if party in self.excluded:
            raise BeaconError(f"{party.hex()} withheld its link of round {self.excluded[party]} and is excluded")
        if party not in self._last:
            raise BeaconError(f"{party.hex()} is no party of this beacon")
        if link == self._shown.get(party):
            return
        if party in self._shown or len(link) != NBYTES or _before(self._run, link) != self._last[party]:
            raise BeaconError(f"{party.hex()} revealed what is not its link of tick {self.tick}")
        self._shown[party] = link
        if len(self._shown) == len(self._last):
            self._make()

    def close(self) -> tuple[bytes, ...]:
        """The tick is over for who has not revealed: they are named and excluded, and the others reveal their next link for the round.

        Raises `BeaconError` when nobody has revealed: then it is the network that fails, and nobody is to blame.
        """
        if not self._shown:
            raise BeaconError(f"nobody has revealed a link of tick {self.tick}; nobody is excluded")
        withheld = tuple(party for party in self._last if party not in self._shown)
        if withheld:
            self.excluded |= {party: self.round + 1 for party in withheld}
            self._advance()
        return withheld

    def randomness(self, round_: int) -> bytes:
        if round_ > self.round:
            raise NotYetError(f"round {round_} is not revealed yet; the last one is {self.round}")
        if round_ not in self._rounds:
            raise BeaconError(f"round {round_} is not kept; {KEPT} rounds up to {self.round} are")
        return self._rounds[round_]

    def first_unknown(self) -> int:
        return self.round + (2 if self._shown or any(at == self.round + 1 for at in self.excluded.values()) else 1)

    def _make(self) -> None:
        self.round += 1
        made = hashlib.sha256(_ROUND + _prefixed(self._run) + self.round.to_bytes(8, "big") + self.tick.to_bytes(8, "big"))
        for party in self._last:  # in the order of their keys, whoever was first
            made.update(_prefixed(party) + self._shown[party])
        self._rounds[self.round] = made.digest()
        self._rounds.pop(self.round - KEPT, None)
        self._advance()

    def _advance(self) -> None:
        self._last = {party: self._shown[party] for party in self._last if party in self._shown}
        self._shown = {}
        self.tick += 1


def _before(run: bytes, link: bytes) -> bytes:
    """The link that is revealed before this one."""
    return hashlib.sha256(_LINK + _prefixed(run) + link).digest()


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data
