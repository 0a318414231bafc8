"""What a member can say of itself: kept by its group as it goes, and put into a `Status` when somebody asks.

`enters` and `brings` are called by the group's threads, everything else in the event loop.
"""

import time
from collections import Counter
from collections.abc import Mapping

from thinwire.comms.swarm.decision import Decision
from thinwire.comms.swarm.driver import Driver
from thinwire.comms.swarm.status import MOST_ABSENT, MOST_HASHES, MOST_REASONS, Status
from thinwire.comms.swarm.transport import Key, Transport
from thinwire.comms.swarm.view import Nonce, Slot
from thinwire.comms.wire import Header

DIGITS = 16  # of a key
# What is counted in a sound swarm too: words and payloads of another time, and attempts at peers that are just not there.
LATE = frozenset({
    "ahead", "another epoch", "decided", "has left", "no member", "no member here", "no need of a new epoch", "old ballot",
    "payload of another time", "payload of another time or incarnation", "started late", "unwanted blob", "untold",
    "does not hold it", "ended early", "no holder left", "not up", "p2pd is gone", "stalled", "unreachable",
})  # fmt: skip


class Account:
    """Of one process, over all its incarnations."""

    def __init__(self, transport: Transport) -> None:
        self.loss: float | None = None
        self.applied = 0
        self._transport = transport
        self._began = self._entering = time.monotonic()
        self._entries = 0
        self._member: float | None = None  # since when it is one
        self._brought: tuple[Slot, int] | None = None
        self._counted = self._payload = 0
        self._skipped: Counter[str] = Counter()
        self._hashes: dict[int, str] = {}

    def enters(self) -> None:
        """It begins to take the state of the others, or founds the run."""
        self._entering, self._member = time.monotonic(), None
        self._entries += 1

    def brings(self, header: Header) -> None:
        """A payload of its own goes into a round."""
        slot = Slot(header.key.round, header.key.fragment)
        self._brought = slot, header.nbytes
        if header.state:
            self._hashes = dict([*self._hashes.items(), (slot.round, f"{header.state:016x}")][-MOST_HASHES:])

    def settles(self, decision: Decision, key: Key, nonce: Nonce) -> None:
        """A round is decided."""
        if self._member is None and (key, nonce) in zip(decision.members, decision.nonces, strict=True):
            self._member = time.monotonic()
        if any(member == key for member, _, _ in decision.counted):
            self._counted += 1
            if self._brought is not None and self._brought[0] == decision.slot:
                self._payload += self._brought[1]
        elif key in decision.skipped:
            self._skipped[decision.skipped[key]] += 1

    def status(self, driver: Driver | None, *, astray: bool) -> Status:
        """Now."""
        transport, now = self._transport, time.monotonic()
        if driver is None:
            sent, received, uptime_s = transport.sent_nbytes, transport.received_nbytes, int(now - self._began)
            return Status(round=0, applied=self.applied, state=self._coming, sent=sent, received=received, uptime_s=uptime_s)
        machine = driver.machine
        if machine.is_member and self._member is None and not driver.closed:
            self._member = now  # who has founded the run, before its first round
        refused = transport.refused + machine.counts
        late = Counter({why: refused.pop(why) for why in LATE & refused.keys()})
        return Status(
            round=machine.next_slot.round,
            applied=self.applied,
            epoch=machine.epoch.hex()[:8],
            state=self._state(driver, astray),
            members=len(machine.view.members),
            loss=self.loss,
            sent=transport.sent_nbytes,
            received=transport.received_nbytes,
            payload=self._payload,
            counted=self._counted,
            skipped=_most(self._skipped),
            late=late.total(),
            rejected=refused.total(),
            reasons=_most(refused),
            hashes=self._hashes,
            absent=_short(machine.absent()),
            entering_s=(self._member or now) - self._entering,
            member_s=now - (self._member or now),
            uptime_s=int(now - self._began),
        )

    def _state(self, driver: Driver, astray: bool) -> str:
        if astray:
            return "healing"
        if driver.closed or not driver.machine.is_member:
            return self._coming
        return "syncing" if driver.own is not None and driver.own[0] >= driver.machine.next_slot else "training"

    @property
    def _coming(self) -> str:
        return "healing" if self._entries > 1 else "joining"


def _most(counts: Counter[str]) -> dict[str, int]:
    """The most frequent reasons, as `Status` takes them: what a peer has brought into one is not passed on as it is."""
    told: Counter[str] = Counter()
    for why, count in counts.most_common(MOST_REASONS):
        told["".join(c if " " <= c <= "~" else "?" for c in why)[:64] or "?"] += count
    return dict(told)


def _short(absent: Mapping[Key, str]) -> dict[str, str]:
    """Those that came last."""
    return {key.hex()[:DIGITS]: why for key, why in list(absent.items())[-MOST_ABSENT:]}
