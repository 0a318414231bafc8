"""What happened in equal stretches of time, in so many columns and never more: the last ones, or all since the beginning, ever longer.

track = Track(began=now, width_s=1.0)
track.advance(now)
track.put(key, "training")
track.letters(key)                   't' in the last column
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

STATES = ("training", "syncing", "healing", "joining", "dead", "no answer", "left")
LETTERS = "tshjdnl"  # of them
THERE = 4  # of them, the first
COLUMNS = 600
GAP = 10  # columns without a look that are taken to be as the look after them; more stay empty: this process stood still
Curve = Literal["mean", "most"]  # what a column shows of what fell into it


class Track:
    """Rows of states and curves of numbers over the same columns; with `rolls` the oldest columns go, else all become twice as wide."""

    def __init__(self, *, began: float, width_s: float, rolls: bool = False) -> None:
        self.start, self.width_s, self._rolls = began, width_s, rolls
        self._at, self._since = 0, 0
        self._rows: dict[bytes, NDArray[np.uint32]] = {}
        self._sums: dict[str, NDArray[np.float64]] = {}  # (2, COLUMNS): sum and count
        self._most: dict[str, NDArray[np.float64]] = {}

    def advance(self, now: float) -> None:
        """Go on to the column of `now`; a clock that is set back stays where it is."""
        before = self._at
        while (beyond := self._column(now) - COLUMNS + 1) > 0:
            if self._rolls:
                self._roll(beyond)
                before -= beyond
            else:
                self._fold()
                before //= 2
        self._at = max(before, self._column(now), 0)
        self._since = max(before + 1, 0) if 0 < self._at - before <= GAP else self._at

    def put(self, row: bytes, state: str) -> None:
        """A row has been in this state since the look before."""
        cells = self._cells(row)
        cells[self._since : self._at + 1, STATES.index(state)] += 1

    def repaint(self, row: bytes, state: str, since: float, until: float) -> None:
        """It has come out afterwards what a row was, from a time to another; at least one column shows it."""
        first, last = (min(max(self._column(at), 0), self._at) for at in (since, until))
        cells = self._cells(row)[first : last + 1]
        cells[:, STATES.index(state)] = np.maximum(cells.sum(axis=1), 1)
        cells[: last - first, [i for i, name in enumerate(STATES) if name != state]] = 0

    def was_there(self, row: bytes) -> bool:
        """Whether it was a member in any of the columns, or was about to be one."""
        return row in self._rows and bool(self._rows[row][:, :THERE].any())

    def drop(self, row: bytes) -> None:
        """Forget a row."""
        self._rows.pop(row, None)

    def curve(self, name: str, value: float, kind: Curve = "mean") -> None:
        """A number of now."""
        if kind == "mean":
            self._sums.setdefault(name, np.zeros((2, COLUMNS)))[:, self._at] += (value, 1)
        else:
            cells = self._most.setdefault(name, np.full(COLUMNS, np.nan))
            cells[self._at] = np.fmax(cells[self._at], value)

    def letters(self, row: bytes) -> str:
        """A letter a column up to now, a space where nothing is known; what is rare and matters wins: healing, then dead."""
        cells = self._rows.get(row)
        if cells is None:
            return ""
        training, syncing, healing, joining, dead, silent, left = cells[: self._at + 1].T
        shown = [
            healing > 0,
            joining > 0,
            dead > 0,
            silent > training + syncing,
            (syncing > 0) & (syncing >= training),
            training > 0,
            left > 0,
        ]
        codes = np.frombuffer(b"hjdnstl", np.uint8)
        return bytes(np.select(shown, list(codes), default=ord(" ")).astype(np.uint8)).decode()

    def values(self, name: str) -> list[float | None]:
        """A number a column up to now, None where there was none."""
        if name in self._sums:
            sums, counts = self._sums[name][:, : self._at + 1]
            found = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        else:
            found = self._most.get(name, np.full(COLUMNS, np.nan))[: self._at + 1]
        return [float(f"{value:.6g}") if np.isfinite(value) else None for value in found]

    def _cells(self, row: bytes) -> NDArray[np.uint32]:
        return self._rows.setdefault(row, np.zeros((COLUMNS, len(STATES)), np.uint32))

    def _counts(self) -> list[NDArray[Any]]:
        """What is added up when columns become one, by column."""
        return [*self._rows.values(), *(sums.T for sums in self._sums.values())]

    def _column(self, at: float) -> int:
        return int((at - self.start) // self.width_s)

    def _roll(self, by: int) -> None:
        self.start += by * self.width_s
        for cells in [*self._counts(), *self._most.values()]:
            kept = max(COLUMNS - by, 0)
            cells[:kept] = cells[COLUMNS - kept :].copy()
            cells[kept:] = np.nan if cells.ndim == 1 else 0

    def _fold(self) -> None:
        self.width_s *= 2
        half = COLUMNS // 2
        for cells in self._counts():
            cells[:half] = cells[::2] + cells[1::2]
            cells[half:] = 0
        for most in self._most.values():
            most[:half] = np.fmax(most[::2], most[1::2])
            most[half:] = np.nan
