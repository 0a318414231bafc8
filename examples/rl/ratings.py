"""A table of skill: agents answer the same task, are put in order, and each plays all others at once (Elo, extended to many players).

After a session of n agents the rating of one changes by  k / (n - 1) * sum over the others (result - expected),  with result 1, 0.5 or 0
and expected = 1 / (1 + 10^((theirs - its own) / 400)): the changes of a session add up to 0. The table is bounded; a newcomer takes the
place of the agent that has played least, and of the longest absent among those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rating:
    """What an agent has."""

    value: float
    sessions: int
    last: int  # session


class Ratings:
    """The ratings of one space. Agents are named by their keys."""

    def __init__(self, *, start: float = 1000.0, k: float = 32.0, capacity: int = 4096) -> None:
        if k <= 0 or capacity < 2:
            raise ValueError(f"k={k}, capacity={capacity}; k is above 0, and the table holds at least 2")
        self._start, self._k, self._capacity = start, k, capacity
        self._table: dict[bytes, Rating] = {}
        self._session = 0

    def rating(self, agent: bytes) -> float:
        """The start value for whoever has not played."""
        return self._table[agent].value if agent in self._table else self._start

    def expected(self, agent: bytes, other: bytes) -> float:
        """The share of sessions in which `agent` beats `other`."""
        return 1 / (1 + 10 ** ((self.rating(other) - self.rating(agent)) / 400))

    def play(self, scores: Mapping[bytes, float]) -> dict[bytes, float]:
        """One session with its scores, higher is better; gives the changes. Raises `ValueError` for scores that are not finite."""
        if not 2 <= len(scores) <= self._capacity or not all(math.isfinite(score) for score in scores.values()):
            raise ValueError(f"a session of {len(scores)}; give 2 to {self._capacity} agents with finite scores")
        self._session += 1
        step = self._k / (len(scores) - 1)
        changes = {
            agent: step * sum(_result(score, other) - self.expected(agent, rival) for rival, other in scores.items() if rival != agent)
            for agent, score in scores.items()
        }
        for agent, change in changes.items():
            before = self._table.get(agent, Rating(self._start, 0, 0))
            self._table[agent] = Rating(before.value + change, before.sessions + 1, self._session)
        self._make_room()
        return changes

    def table(self) -> list[tuple[bytes, Rating]]:
        """The best first."""
        return sorted(self._table.items(), key=lambda item: (-item[1].value, item[0]))

    def _make_room(self) -> None:
        excess = len(self._table) - self._capacity
        if excess > 0:
            least = sorted(self._table, key=lambda agent: (self._table[agent].sessions, self._table[agent].last))
            for agent in least[:excess]:
                del self._table[agent]


def _result(score: float, other: float) -> float:
    return 1.0 if score > other else 0.5 if score == other else 0.0
