"""Who has which chunk of one version, and who is to take which from the publisher, so that it uploads each about once.

A chunk that nobody has is granted to one subscriber at a time; the others get it from that one. A grant ends when the subscriber has the
chunk, or has not been heard of for `SILENT_S`.
"""

from thinwire.comms.publish.questions import MAX_HOLDERS
from thinwire.comms.swarm.transport import Key

WINDOW = 4  # chunks granted to one subscriber at once
SILENT_S = 5.0
MAX_TRACKED = 1024  # subscribers; those silent longest are forgotten first


class Tracker:
    """Of one version of `count` chunks. Pure: it is told the time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._have: dict[Key, int] = {}
        self._heard: dict[Key, float] = {}  # in the order of time
        self._granted: dict[int, Key] = {}

    def hear(self, peer: Key, have: int, now: float) -> int:
        """A subscriber has these chunks now; returns, as bits, those that it is to take from the publisher."""
        self._have[peer] = have
        self._heard.pop(peer, None)
        self._heard[peer] = now
        while len(self._heard) > MAX_TRACKED:
            self._forget(next(iter(self._heard)))
        self._granted = {
            chunk: to
            for chunk, to in self._granted.items()
            if to in self._heard and now - self._heard[to] <= SILENT_S and not self._have[to] >> chunk & 1
        }
        mine = [chunk for chunk, to in self._granted.items() if to == peer]
        held = have
        for bits in self._have.values():
            held |= bits
        for chunk in range(self._count):
            if len(mine) >= WINDOW:
                break
            if not held >> chunk & 1 and chunk not in self._granted:
                self._granted[chunk] = peer
                mine.append(chunk)
        return sum(1 << chunk for chunk in mine)

    def holders(self, besides: Key) -> list[tuple[Key, int]]:
        """Subscribers that have something, and what; those heard of last come first."""
        found = [(key, self._have[key]) for key in reversed(self._heard) if key != besides and self._have[key]]
        return found[:MAX_HOLDERS]

    def _forget(self, peer: Key) -> None:
        del self._heard[peer], self._have[peer]
