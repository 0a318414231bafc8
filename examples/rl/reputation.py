"""Who is trusted how far: a score for each worker key, bans, and how often its groups get the expensive check.

Evidence decays: an event of `half_life_s` ago weighs half. With `good` and `bad` the decayed weights,

    score = (good + 1) / (good + bad + 2)                         in (0, 1); 0.5 for a stranger
    p     = floor + (1 - floor) / (1 + good / trust_after)        for one with no bad evidence; 1 for a stranger
    p     = 1 - (1 - p) / (1 + bad)                               with it: one soft refusal halves what trust has saved

A hard refusal bans for `ban_s`, twice as long at each further one. A rare one does so too, but not at once for whoever has `known_after`
accepted groups and little other bad evidence (below half of a hard refusal's): such a worker loses its trust, so that all its groups are
checked, and the next rare one within about a half-life bans it. An honest worker is refused so once in thousands of chunks, which in a long
run is everybody's turn.

Keys are free, so a table that forgets the oldest could be emptied by a flood of fresh ones: whoever has `known_after` accepted groups is
known, and only fresh keys make room for fresh keys. A table of known keys that is full takes in no more until one has lost its standing
(its evidence has decayed away). A ban on a fresh key may be flooded out: the same key costs its owner as much as a new one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from examples.rl.checks import REASONS
from thinwire.comms.whole import write_whole

KEY_NBYTES = 32
MAX_BAN_S = 30 * 24 * 3600.0
_LOST = 0.5  # of decayed accepted groups: a known key with less has lost its standing


@dataclass(frozen=True)
class Trust:
    """The settings of a reputation."""

    half_life_s: float = 3600.0
    ban_s: float = 600.0
    floor: float = 0.05  # of groups that are checked however good the worker
    trust_after: float = 4.0  # accepted groups that halve the sample rate
    hard: float = 8.0  # soft refusals that a hard one weighs
    known_after: int = 8
    fresh: int = 4096
    known: int = 4096

    def __post_init__(self) -> None:
        if min(self.half_life_s, self.ban_s, self.trust_after, self.hard) <= 0:
            raise ValueError(f"{self}: times and weights must be above 0")
        if not 0 < self.floor <= 1:
            raise ValueError(f"Trust.floor is {self.floor}; a rate in (0, 1], for with 0 the good are never looked at")
        if min(self.known_after, self.fresh, self.known) < 1:
            raise ValueError(f"{self}: known_after, fresh and known must be at least 1")


class Standing(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known of one key; `good` and `bad` as of `when` (seconds since 1970)."""

    good: float = 0.0
    bad: float = 0.0
    when: float = 0.0
    accepted: int = 0
    hard: int = 0
    banned_until: float = 0.0

    def at(self, now: float, half_life_s: float) -> Standing:
        """The same with its evidence decayed; a clock that was set back decays nothing."""
        left = 0.5 ** (max(0.0, now - self.when) / half_life_s)
        return msgspec.structs.replace(self, good=self.good * left, bad=self.bad * left, when=max(now, self.when))


class Saved(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The file."""

    known: dict[bytes, Standing]
    fresh: dict[bytes, Standing]


_DECODER = msgspec.msgpack.Decoder(Saved)
STRANGER = Standing()


class Reputation:
    """The table of one trainer or verifier; `clock` in seconds since 1970, for it is saved. Not thread-safe."""

    def __init__(self, trust: Trust = Trust(), *, clock: Callable[[], float] = time.time) -> None:
        self.trust, self._clock = trust, clock
        self._known: dict[bytes, Standing] = {}
        self._fresh: OrderedDict[bytes, Standing] = OrderedDict()  # the longest unheard of first

    def standing(self, key: bytes) -> Standing:
        """As of now."""
        found = self._known.get(key) or self._fresh.get(key) or STRANGER
        return found.at(self._clock(), self.trust.half_life_s)

    def score(self, key: bytes) -> float:
        """In (0, 1)."""
        standing = self.standing(key)
        return (standing.good + 1) / (standing.good + standing.bad + 2)

    def sample_rate(self, key: bytes) -> float:
        """The probability with which a group of this worker gets the expensive check, in [floor, 1]."""
        standing = self.standing(key)
        rate = self.trust.floor + (1 - self.trust.floor) / (1 + standing.good / self.trust.trust_after)
        return 1 - (1 - rate) / (1 + standing.bad)

    def banned(self, key: bytes) -> bool:
        """Whether nothing of this worker is taken now."""
        return self.standing(key).banned_until > self._clock()

    def accepted(self, key: bytes) -> None:
        """A group of this worker passed."""
        now = self.standing(key)
        self._put(key, msgspec.structs.replace(now, good=now.good + 1, accepted=now.accepted + 1))

    def refused(self, key: bytes, reason: str) -> None:
        """A group was refused for one of `REASONS`; other words count as soft, and some say nothing of the worker."""
        if REASONS.get(reason) == "none":
            return
        now, kind = self.standing(key), REASONS.get(reason)
        if kind not in ("hard", "rare"):
            self._put(key, msgspec.structs.replace(now, bad=now.bad + 1))
            return
        if kind == "rare" and now.accepted >= self.trust.known_after and now.bad < self.trust.hard / 2:
            self._put(key, msgspec.structs.replace(now, good=0.0, bad=now.bad + self.trust.hard))
            return
        ban_s = min(MAX_BAN_S, self.trust.ban_s * 2.0 ** min(now.hard, 32))
        until = max(now.banned_until, self._clock() + ban_s)
        bad = now.bad + self.trust.hard
        self._put(key, msgspec.structs.replace(now, good=0.0, bad=bad, hard=now.hard + 1, banned_until=until))

    def false_rewards(self, key: bytes, count: int) -> None:
        """Rewards that were not what they are; each as bad as a soft refusal."""
        if count:
            now = self.standing(key)
            self._put(key, msgspec.structs.replace(now, bad=now.bad + count))

    def _put(self, key: bytes, standing: Standing) -> None:
        if len(key) != KEY_NBYTES:
            raise ValueError(f"a worker key has {KEY_NBYTES} bytes, not {len(key)}")
        if key in self._known:
            self._known[key] = standing
            return
        if standing.accepted >= self.trust.known_after and self._has_room():
            self._fresh.pop(key, None)
            self._known[key] = standing
            return
        self._fresh[key] = standing
        self._fresh.move_to_end(key)
        while len(self._fresh) > self.trust.fresh:
            self._fresh.popitem(last=False)

    def _has_room(self) -> bool:
        if len(self._known) < self.trust.known:
            return True
        now = self._clock()
        lost = [key for key, one in self._known.items() if self._is_lost(one, now)]
        for key in lost:
            del self._known[key]
        return bool(lost)

    def _is_lost(self, standing: Standing, now: float) -> bool:
        return standing.at(now, self.trust.half_life_s).good < _LOST and standing.banned_until <= now

    def __len__(self) -> int:
        return len(self._known) + len(self._fresh)

    def to_bytes(self) -> bytes:
        """All of it, msgpack."""
        return msgspec.msgpack.encode(Saved(self._known, dict(self._fresh)))

    @classmethod
    def from_bytes(cls, data: bytes, trust: Trust = Trust(), *, clock: Callable[[], float] = time.time) -> Reputation:
        """What `to_bytes` gave; raises `ValueError` for anything else."""
        try:
            saved = _DECODER.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"no reputation: {error}; remove the file to start anew") from None
        for key, one in (*saved.known.items(), *saved.fresh.items()):
            numbers = (one.good, one.bad, one.when, one.banned_until, float(one.accepted), float(one.hard))
            if len(key) != KEY_NBYTES or not all(0 <= number < 1e15 for number in numbers):
                raise ValueError("no reputation: a key or number that cannot be; remove the file to start anew")
        made = cls(trust, clock=clock)
        made._known = dict(list(saved.known.items())[: trust.known])
        made._fresh = OrderedDict(list(saved.fresh.items())[-trust.fresh :])
        return made

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        write_whole(Path(path), self.to_bytes())
