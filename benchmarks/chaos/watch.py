"""What a run comes to, from what its members say and when: rounds, hangs, recoveries, joins, throughput. No clock of its own."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

HANG_S = 10.0  # without any round while a member is up
_KEPT = 4096


@dataclass(frozen=True)
class Done:
    """What members have trained: `steps` of all of them, in `member_s` seconds that one of them was there, `wall_s` on the clock."""

    steps: int = 0
    member_s: float = 0.0
    wall_s: float = 0.0

    def __add__(self, other: "Done") -> "Done":
        return Done(self.steps + other.steps, self.member_s + other.member_s, self.wall_s + other.wall_s)

    def __sub__(self, other: "Done") -> "Done":
        return Done(self.steps - other.steps, self.member_s - other.member_s, self.wall_s - other.wall_s)

    @property
    def rate(self) -> float:
        """Steps a second of a member that is there."""
        return self.steps / self.member_s if self.member_s > 0 else 0.0


@dataclass
class Seen:
    """One incarnation: `steps` of training by its own count; `since` is when it joined (s)."""

    born: float
    since: float | None = None
    steps: int = 0
    round: int = -1
    rounds: int = 0
    frozen: bool = False


@dataclass
class Watch:
    """Times are seconds of one monotonic clock, that of the machine: lines carry the time at which a member wrote them."""

    last_at: float
    rounds: int = 0  # that anybody has applied
    hangs: list[str] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=dict)  # seconds from a kill to the next round, by kind of kill
    joins: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)  # of the joins
    struck: Counter[str] = field(default_factory=Counter)
    divergent: set[tuple[str, int]] = field(default_factory=set)
    seen: dict[str, Seen] = field(default_factory=dict)
    _states: dict[tuple[str, int], str] = field(default_factory=dict)
    _wounds: list[tuple[float, str]] = field(default_factory=list)
    _trained_s: float = 0.0
    _steps: int = 0

    def born(self, name: str, now: float) -> None:
        """A process was started."""
        self.seen[name] = Seen(now)

    def joined(self, name: str, at: float, seconds: float, parts: Mapping[str, float] | None = None) -> None:
        """It is a member; from its start it took so long, and so long each part of it."""
        self.seen[name].since = at
        self.joins.append(seconds)
        for part, took in (parts or {}).items():
            self.parts.setdefault(part, []).append(took)

    def round(self, name: str, at: float, *, round: int, epoch: str, state: str, steps: int) -> None:
        """It has applied a round; `state` is what it had held before that."""
        one = self.seen[name]
        one.round, one.steps, one.rounds = round, steps, one.rounds + 1
        key = epoch, round
        if key not in self._states:
            self._progress(at)
        known = self._states.setdefault(key, state)
        if state and known and known != state:
            self.divergent.add(key)
        if len(self._states) > _KEPT:
            del self._states[next(iter(self._states))]

    def wounded(self, now: float, kind: str) -> None:
        """A member was killed: the next committed round ends the wait."""
        self._wounds.append((now, kind))

    def worsened(self, kind: str) -> None:
        """What was killed since the last round counts as this kind: it is not the first of several kills that the wait comes from."""
        self._wounds = [(wound, kind) for wound, _ in self._wounds]

    def froze(self, name: str, now: float, frozen: bool) -> None:
        """It was stopped, or goes on."""
        if not self.up():
            self.last_at = now
        self.seen[name].frozen = frozen

    def ended(self, name: str, now: float) -> None:
        """Its process is gone."""
        one = self.seen.pop(name)
        if one.since is not None:
            self._trained_s += now - one.since
            self._steps += one.steps

    def look(self, now: float) -> str | None:
        """Time has passed; what hangs, once a hang."""
        if not self.up():
            self.last_at = now
        elif now - self.last_at > HANG_S:
            where = ", ".join(f"{name} at {self.seen[name].round}" for name in self.up())
            self.hangs.append(f"no round for {now - self.last_at:.1f} s; up: {where}")
            self.last_at = now
            return self.hangs[-1]
        return None

    def up(self) -> list[str]:
        """Who is a member and runs."""
        return sorted(name for name, one in self.seen.items() if one.since is not None and not one.frozen)

    def done(self, now: float) -> Done:
        """By all members, also those that have ended, until now."""
        live = [one for one in self.seen.values() if one.since is not None]
        seconds = self._trained_s + sum(now - (one.since or now) for one in live)
        return Done(self._steps + sum(one.steps for one in live), seconds, now)

    def _progress(self, at: float) -> None:
        self.rounds += 1
        self.last_at = max(at, self.last_at)
        for wound, kind in self._wounds:
            if at >= wound:
                self.recoveries.setdefault(kind, []).append(at - wound)
        self._wounds = [(wound, kind) for wound, kind in self._wounds if at < wound]
