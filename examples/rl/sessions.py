"""Who of the workers answers best, as the judges see it: every version of the weights is a session, and its workers play each other.

Judges have no common scale, so each puts the workers in the order of the mean score that it gave to all their answers, and the clipped
median of these orders is the outcome of the session (`examples.rl.judges`): a minority of judges cannot lift its favourite. Workers answer
tasks of their own, of the same kind; a rating is of a worker, not of an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from examples.rl.judges import JudgementError, Panel
from examples.rl.ratings import Ratings

SHOWN = 8


class Sessions:
    """The ratings of a run's workers; any number of threads."""

    def __init__(self, panel: Panel, ratings: Ratings | None = None) -> None:
        self._panel, self.ratings = panel, ratings or Ratings()
        self._lock = threading.Lock()
        self._heard: dict[bytes, dict[int, tuple[float, int]]] = {}  # worker, judge: sum and number of its groups' mean scores

    def add(self, worker: bytes, scores: Mapping[int, float]) -> None:
        """A group was accepted: what each judge made of it."""
        with self._lock:
            heard = self._heard.setdefault(worker, {})
            for judge, score in scores.items():
                total, groups = heard.get(judge, (0.0, 0))
                heard[judge] = (total + score, groups + 1)

    def play(self) -> None:
        """End the session. One with fewer than two workers goes on; one in which too few judges have seen all of them is no session."""
        with self._lock:
            if len(self._heard) < 2:
                return
            heard, self._heard = self._heard, {}
            judges = set.intersection(*(set(rows) for rows in heard.values()))
            means = {i: [rows[i][0] / rows[i][1] for rows in heard.values()] for i in sorted(judges)}
            try:
                self.ratings.play(dict(zip(heard, self._panel.agreed(means), strict=True)))
            except JudgementError:
                return

    def told(self) -> dict[str, float]:
        """The best, by the first digits of their keys."""
        with self._lock:
            return {key.hex()[:8]: round(one.value, 1) for key, one in self.ratings.table()[:SHOWN]}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; a session that is not over is not kept."""
        with self._lock:
            return self.ratings.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as it was."""
        with self._lock:
            self.ratings.load_state_dict(state)
