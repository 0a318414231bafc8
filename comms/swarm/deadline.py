"""Patience that is learnt: how long a leader waits for the others, a follower for its leader, and anybody for a sign of life.

Nothing is asked of the user. What is measured: from the first payload of a round to the one that completes a quorum (how far apart the
members usually are), and from one decision to the next. A member that is always late does not make the others more patient.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Timing:
    """Seconds, all of them: the bounds within which patience is learnt, and how often members talk.

    - `beat_s`: between heartbeats; `suspect_s`: silence after which a member counts as stopped, before anything is learnt.
    - `first_s`: how long the first rounds of a run wait for the others (compilation, warm-up); `early_s`: the first that a newcomer sees of
      a run that goes on; `least_s`, `most_s`: bounds of what is learnt.
    - `bereaved_s`, `bereaved_down_s`: without a quorum before those who are left go on alone, if the others are silent or disconnected.
    - `flush_s`, `nudge_s`, `join_s`, `want_s`: until something is said again that may have been lost.
    - `stuck_s`: a decided round whose payloads nobody has any more, before this member adopts the state of others instead.
    """

    beat_s: float = 0.25
    suspect_s: float = 1.5
    first_s: float = 60.0
    early_s: float = 5.0
    least_s: float = 0.5
    most_s: float = 120.0
    bereaved_s: float = 3.0
    bereaved_down_s: float = 1.0
    flush_s: float = 0.05
    nudge_s: float = 0.5
    join_s: float = 0.5
    want_s: float = 3.0
    stuck_s: float = 10.0


DEFAULT = Timing()
LEARNT = 3  # rounds after which what was measured counts


class Patience:
    """How long rounds may take."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._spreads: deque[float] = deque(maxlen=16)
        self._intervals: deque[float] = deque(maxlen=16)
        self._last: float | None = None
        self.unknown_s = timing.first_s  # before anything is learnt

    def learn(self, first: float | None, quorum: float | None, now: float) -> None:
        """A round was decided `now`; its first payload came at `first`, the one that made a quorum at `quorum`."""
        if first is not None:  # else it was told by others, all at once perhaps
            self._spreads.append((now if quorum is None else quorum) - first)
            if self._last is not None:
                self._intervals.append(now - self._last)
        self._last = now

    @property
    def _known(self) -> bool:
        return len(self._intervals) >= LEARNT

    def gather_s(self) -> float:
        """After the first payload, for those of a quorum: about one round."""
        if not self._known:
            return self.unknown_s
        return self._within(1.5 * median(self._intervals))

    def straggle_s(self) -> float:
        """After a quorum's payloads, for the rest: four times what the quorum itself took, at most a round."""
        if not self._known:
            return self.unknown_s
        return min(self._within(4 * median(self._spreads)), max(self._timing.least_s, median(self._intervals)))

    def ballot_s(self, ballot: int, suspect_s: float) -> float:
        """For a leader that is alive to get its ballot done, after the last sign of progress; twice as long every ballot."""
        return min((self.gather_s() + self.straggle_s() + 2 * suspect_s) * 2.0 ** min(ballot, 10), 4 * self._timing.most_s)

    def _within(self, seconds: float) -> float:
        return min(max(seconds, self._timing.least_s), self._timing.most_s)


class Silence:
    """How long a member may say nothing, from the gaps between heartbeats: 4 mean gaps and 8 mean deviations, 1 to 10 s."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._mean = timing.beat_s
        self._deviation = max(0.0, (timing.suspect_s - 4 * timing.beat_s) / 8)
        self.scale = 1.0  # of the interval between beats: large views beat less often

    def learn(self, gap_s: float) -> None:
        """Two heartbeats of one member came so far apart."""
        gap_s = min(gap_s / self.scale, 4 * self._timing.suspect_s)
        self._deviation += (abs(gap_s - self._mean) - self._deviation) / 32
        self._mean += (gap_s - self._mean) / 32

    def seconds(self) -> float:
        """Silence after which a member counts as stopped."""
        learnt = 4 * self._mean + 8 * self._deviation
        least = self._timing.suspect_s * 2 / 3
        return self.scale * min(max(learnt, least), max(least, 10.0))
