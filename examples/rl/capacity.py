"""How long a trainer is idle for a bound on staleness: predicted from three durations, for whoever is to choose `max_staleness`.

ECHO-2 (arXiv:2602.02192) makes the bound S a knob of the user: a learner stays busy when S updates hide what a new version needs until it
comes back as rollouts. The formula here is our own. Rollouts of version v have to arrive before the update that would make them S + 1
versions old, so that S + 1 updates fit into one round trip of a version; and no side can be faster than it works:

    period(S) = max(train, rollout, (train + broadcast + rollout) / (S + 1))        seconds from one update to the next
    idle(S)   = 1 - train / period(S)

S = 0 is the sequential mode: one after the other. The trainer is never idle once S * train >= broadcast + rollout and train >= rollout.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from thinwire.comms.swarm.transport import Key

SHOWN = (0, 1, 2, 4, 8)
LONGEST_S = 3600.0  # what a worker says of itself is a hint: nobody is slower
MAX_WORKERS = 1024
KEPT_VERSIONS = 64


@dataclass(frozen=True)
class Capacity:
    """Seconds, means of a run.

    - `train_s`: of an update, with all that the trainer does beside it.
    - `broadcast_s`: from a version's publication until a worker samples with it, and a group's way back.
    - `rollout_s`: for all workers together to make and send one update's groups.
    """

    train_s: float
    broadcast_s: float
    rollout_s: float

    def __post_init__(self) -> None:
        if not (self.train_s > 0 and self.broadcast_s >= 0 and self.rollout_s >= 0):
            raise ValueError(f"{self}; train_s is above 0, the others are not below")

    def period_s(self, staleness: int) -> float:
        """From one update to the next with `max_staleness`.

        >>> [Capacity(1.0, 1.0, 2.0).period_s(s) for s in (0, 1, 3)]
        [4.0, 2.0, 2.0]
        """
        if staleness < 0:
            raise ValueError(f"staleness is {staleness}; give 0 or more")
        return max(self.train_s, self.rollout_s, (self.train_s + self.broadcast_s + self.rollout_s) / (staleness + 1))

    def idle(self, staleness: int) -> float:
        """The share of the time for which the trainer waits.

        >>> Capacity(1.0, 1.0, 2.0).idle(0), Capacity(1.0, 1.0, 1.0).idle(2)
        (0.75, 0.0)
        """
        return 1 - self.train_s / self.period_s(staleness)

    def told(self) -> dict[str, object]:
        """For an event: the durations, and the predicted share for some bounds."""
        predicted = {str(staleness): round(self.idle(staleness), 4) for staleness in SHOWN}
        return {"train_s": self.train_s, "broadcast_s": self.broadcast_s, "rollout_s": self.rollout_s, "predicted_idle": predicted}


class Meter:
    """Measures a run's `Capacity` at the trainer, from its own clock and from durations that workers say of themselves; any thread.

    The first update is left out: it waits for workers to start.
    """

    def __init__(self, groups: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._groups, self._clock, self._lock = groups, clock, threading.Lock()
        self._began: float | None = None
        self._ended = self._waited_s = 0.0
        self._updates = 0
        self._published: dict[int, float] = {}
        self._first: int | None = None  # the version that workers began with
        self._heard: set[tuple[Key, int]] = set()
        self._broadcasts: list[float] = []
        self._work_s: dict[Key, float] = {}

    def published(self, version: int) -> None:
        """Its weights are fixed from now on."""
        with self._lock:
            self._published[version] = self._clock()
            for old in [old for old in self._published if old <= version - KEPT_VERSIONS]:
                del self._published[old]
            self._heard = {(worker, at) for worker, at in self._heard if at > version - KEPT_VERSIONS}

    def arrived(self, worker: Key, version: int, *, work_s: float, since_s: float) -> None:
        """A good group. `work_s`: what a group takes this worker, 0 as long as it does not know; `since_s`: for how long it has had the
        version. What cannot be is not counted."""
        with self._lock:
            if len(self._work_s) < MAX_WORKERS and math.isfinite(work_s) and 0 < work_s <= LONGEST_S:
                self._work_s[worker] = work_s
            published = self._published.get(version)
            self._first = version if self._first is None else self._first
            if published is None or version == self._first or (worker, version) in self._heard:
                return
            self._heard.add((worker, version))
            took = self._clock() - published - since_s
            if since_s >= 0 and took >= 0:  # neither is so of NaN
                self._broadcasts.append(took)

    def updated(self, waited_s: float) -> None:
        """An update has ended, which waited so long for its groups."""
        with self._lock:
            self._ended = self._clock()
            if self._began is None:
                self._began = self._ended
                return
            self._waited_s += waited_s
            self._updates += 1

    @property
    def idle(self) -> float | None:
        """The share of the time for which the trainer has waited; None before the second update."""
        with self._lock:
            return self._waited_s / (self._ended - self._began) if self._began is not None and self._updates else None

    def capacity(self) -> Capacity | None:
        """So far; None while something has not been heard of."""
        with self._lock:
            if self._began is None or not self._updates or not self._broadcasts or not self._work_s:
                return None
            train_s = (self._ended - self._began - self._waited_s) / self._updates
            rollout_s = self._groups / sum(1 / each for each in self._work_s.values())
            return Capacity(train_s, fmean(self._broadcasts), rollout_s) if train_s > 0 else None

    def told(self) -> dict[str, object]:
        """For the last event of a trainer."""
        found = self.capacity()
        return {} if found is None or self.idle is None else {"idle": round(self.idle, 4), **found.told()}
