"""Ways around a hole: members that cannot talk to each other do so through one that hears both.

A link between two members may be cut while everybody else hears both of them: by a firewall, a broken route, or routers where nobody can
be a relay. Each of the two then takes the other for dead, and the decisions of the rest drop now this one, now that one. So whoever hears
nothing from a member *seeks* it: it sends its heartbeat through a few members that it hears. What comes out at the other end is signed by
its sender and opens a way back through the member that brought it; from then on messages go that way, until the two hear each other
again. Payloads do not: the member in between, which has them anyhow, is asked to send them on.

    magic 4 | kind 1 | key 32 | body

    PASS, SEEK      to the one in between: pass this envelope on to `key`; SEEK: I hear nothing from it but through others
    FROM, SOUGHT    from it: `key` sent this envelope, as PASS or SEEK
    LOST            from it: `key` cannot be reached from here
    ONWARD          to it: `key` lacks the payload with this digest

Nothing goes through more than one member, so nothing goes round in circles; who lies in between can lose messages, and forge none.
(The shape is that of Nifty, Alfatafta et al., "Toward a Generic Fault Tolerance Technique for Partial Network Partitioning", OSDI 2020.)
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection

from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key, Transport

MAGIC = b"tw\1w"
PASS, SEEK, FROM, SOUGHT, LOST, ONWARD = range(6)
LOOK_S = 0.5  # between two looks at who is not heard
SEEK_S = 1.0  # between two attempts to find a way to somebody
STANDS_S = 3.0  # that a way is used after something has come by it
ASKED = 4  # members through which somebody is sought at a time
MAX_ENDS, MAX_WAYS, MAX_ERRANDS = 1024, 8, 256  # to whom ways are known, ways to one, payloads to be sent on that are not here yet
_FRAME = struct.Struct("<4sB32s")
_NEVER = float("-inf")


class Ways:
    """The ways of one member, over its transport.

    - `word()`: this member's heartbeat, in a new envelope.
    - `deliver(peer, envelope, genuine)`: takes what `peer` sent through another, and calls `genuine` first if it is from `peer`.
    - `push(peer, digest)`: sends a payload, if it is here, to a peer that has a link; returns whether it is here.
    - `turned(peer, up)`: a peer can be talked to without a link; or it cannot any more.
    - `patience_s()`: silence after which somebody counts as not heard.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        word: Callable[[], bytes],
        deliver: Callable[[Key, bytes, Callable[[], None]], None],
        push: Callable[[Key, bytes], bool],
        turned: Callable[[Key, bool], None],
        patience_s: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._word, self._deliver, self._push, self._turned, self._patience_s = word, deliver, push, turned, patience_s
        self._heard: dict[Key, float] = {}  # at, over the link
        self._ways: dict[Key, dict[Key, float]] = {}  # to whom, through whom, until when
        self._sought: dict[Key, float] = {}  # who hears nothing from this member over the link, and until when that is believed
        self._asked: dict[Key, float] = {}  # when somebody was sought last
        self._turn = 0  # through whom next
        self._errands: OrderedDict[bytes, set[Key]] = OrderedDict()  # payloads that are not here yet: to whom

    # -- what goes out -----------------------------------------------------------------------------------------------------------

    def send(self, peer: Key, envelope: bytes, now: float) -> None:
        """Send a message over the link or around it."""
        via = self.via(peer, now)
        if via is not None:
            self._wrap(via, PASS if self.hears(peer, now) else SEEK, peer, envelope)
        if via is None or self._transport.is_up(peer):
            self._transport.send(peer, envelope)

    def send_on(self, peer: Key, digest: bytes, now: float) -> bool:
        """Have a payload sent on to a peer by whoever is in between; False: the link will do."""
        via = self.via(peer, now)
        if via is not None:
            self._wrap(via, ONWARD, peer, digest)
        return via is not None

    def via(self, peer: Key, now: float) -> Key | None:
        """Through whom a peer is reached that cannot be, or does not hear, over the link."""
        if self._transport.is_up(peer) and self._sought.get(peer, _NEVER) <= now:
            return None
        ways = self._ways.get(peer, {})
        return next((via for via, until in ways.items() if until > now and self._transport.is_up(via)), None)

    def hears(self, peer: Key, now: float) -> bool:
        """Whether a peer has spoken over the link lately."""
        return self._transport.is_up(peer) and now - self._heard.get(peer, _NEVER) <= self._patience_s()

    # -- what happens ------------------------------------------------------------------------------------------------------------

    def heard(self, peer: Key, now: float) -> None:
        """A link stands, or something has come over it."""
        self._heard[peer] = now

    def down(self, peer: Key, now: float) -> bool:
        """A link has ended; returns whether the peer cannot be talked to any more."""
        self._heard.pop(peer, None)
        for key in [key for key, ways in self._ways.items() if peer in ways]:
            self._lose(key, peer)
        return self.via(peer, now) is None

    def take(self, peer: Key, data: bytes, now: float) -> bool:
        """Deal with what has come over a link; False: it is an envelope for this member."""
        if data[:4] != MAGIC:
            return False
        kind, key, body = data[4] if len(data) >= _FRAME.size else -1, data[5 : _FRAME.size], data[_FRAME.size :]
        if kind in (PASS, SEEK):
            self._pass_on(peer, kind, key, body)
        elif kind in (FROM, SOUGHT) and key not in (peer, self._transport.key) and self._transport.admit(key):
            self._deliver(key, body, lambda: self._open(key, peer, kind == SOUGHT, now))
        elif kind == LOST:
            self._lose(key, peer)
        elif kind == ONWARD and len(body) == 32 and self._transport.is_up(key):
            self._run_errand(key, body)
        else:
            self._transport.refused["malformed"] += 1
        return True

    def holds(self, digest: bytes) -> None:
        """A payload has come: it is sent on to those who lack it."""
        for key in self._errands.pop(digest, ()):
            if self._transport.is_up(key):
                self._push(key, digest)

    def look(self, members: Collection[Key], now: float) -> None:
        """Time has passed: seek those members that are not heard, and forget ways by which nothing comes."""
        for key in list(self._ways):
            for via in [via for via, until in self._ways[key].items() if until <= now]:
                self._lose(key, via)
        self._sought = {key: until for key, until in self._sought.items() if until > now}
        self._asked = {key: at for key, at in self._asked.items() if now - at < SEEK_S}
        for key in members:
            if key not in self._asked and not self.hears(key, now):
                self.seek(key, members, now)

    def seek(self, peer: Key, members: Collection[Key], now: float) -> None:
        """Speak to a peer through a few of these members, others each time."""
        between = [key for key in members if key != peer and self.hears(key, now)]
        self._asked[peer] = now
        self._turn += ASKED
        start = self._turn % len(between) if between else 0
        for via in (between[start:] + between[:start])[:ASKED]:
            self._wrap(via, SEEK, peer, self._word())

    # -- ways --------------------------------------------------------------------------------------------------------------------

    def _open(self, peer: Key, via: Key, sought: bool, now: float) -> None:
        """Something genuine has come through another."""
        is_new = peer not in self._ways
        if is_new and len(self._ways) >= MAX_ENDS:
            self._transport.refused["too many ways"] += 1
            return
        ways = self._ways.setdefault(peer, {})
        if via in ways or len(ways) < MAX_WAYS:
            ways[via] = now + STANDS_S
        if sought:
            self._sought[peer] = now + STANDS_S
        if is_new:  # also where a link stands that nothing comes through: much may have been lost
            self._turned(peer, True)

    def _lose(self, peer: Key, via: Key) -> None:
        ways = self._ways.get(peer, {})
        if ways.pop(via, None) is not None and not ways:
            del self._ways[peer]
            if not self._transport.is_up(peer):
                self._turned(peer, False)

    def _pass_on(self, peer: Key, kind: int, to: Key, envelope: bytes) -> None:
        if self._transport.is_up(to):
            self._wrap(to, FROM if kind == PASS else SOUGHT, peer, envelope)
        else:
            self._wrap(peer, LOST, to)

    def _run_errand(self, to: Key, digest: bytes) -> None:
        if not self._push(to, digest):
            self._errands.setdefault(digest, set()).add(to)
            if len(self._errands) > MAX_ERRANDS:
                self._errands.popitem(last=False)

    def _wrap(self, to: Key, kind: int, key: Key, body: bytes = b"") -> None:
        frame = _FRAME.pack(MAGIC, kind, key) + body
        if len(frame) <= MAX_MESSAGE_NBYTES:
            self._transport.send(to, frame)
        else:
            self._transport.refused["too large to pass on"] += 1
