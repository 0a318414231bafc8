"""Exact batches out of groups of many sizes, from many environments.

A trainer that asks for `batch_size` sequences gets exactly so many, in whole groups, the oldest first as far as that is possible. An
environment may be promised a share of every batch; what it cannot fill, because it has too little queued, keeps the batch waiting. An
environment whose groups come in pieces has them held back until some of them add up to its group size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Piece(Generic[T]):
    """A group of `size` sequences, of the environment with this number."""

    size: int
    environment: int | None
    what: T


def sums(sizes: Sequence[int], at_most: int) -> int:
    """Bit s is set where some of the sizes sum to s."""
    reach, below = 1, (1 << (at_most + 1)) - 1
    for size in sizes:
        if size <= at_most:
            reach |= reach << size & below
    return reach


def summing_to(sizes: Sequence[int], target: int) -> list[int] | None:
    """Places of sizes that sum to `target`, each as early as those before it allow; None when there are none."""
    reach = [1]  # reach[i]: sums of the last i sizes
    below = (1 << (target + 1)) - 1
    for size in reversed(sizes):
        reach.append((reach[-1] | reach[-1] << size) & below if size <= target else reach[-1])
    if not reach[-1] >> target & 1:
        return None
    places = []
    for i, size in enumerate(sizes):
        if size <= target and reach[len(sizes) - i - 1] >> (target - size) & 1:
            places.append(i)
            target -= size
        if target == 0:
            break
    return places


def split(total: int, reaches: Sequence[int]) -> list[int] | None:
    """One summand out of each set of sums, the earlier ones as small as they can be; None where they cannot make `total`."""
    below = (1 << (total + 1)) - 1
    rest = [1]  # rest[i]: sums of the last i sets together
    for reach in reversed(reaches):
        rest.append(sum_or(rest[-1] << s for s in range(total + 1) if reach >> s & 1) & below)
    if not rest[-1] >> total & 1:
        return None
    summands = []
    for i, reach in enumerate(reaches):
        after = rest[len(reaches) - i - 1]
        summands.append(next(s for s in range(total + 1) if reach >> s & 1 and after >> (total - s) & 1))
        total -= summands[-1]
    return summands


def sum_or(sets: Iterable[int]) -> int:
    """The union."""
    union = 0
    for one in sets:
        union |= one
    return union


class Pieces(Generic[T]):
    """What one environment sent in sizes that are not its own."""

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self._pieces: list[Piece[T]] = []

    @property
    def sequences(self) -> int:
        return sum(piece.size for piece in self._pieces)

    def add(self, piece: Piece[T]) -> list[Piece[T]]:
        """Hold it; the pieces that make a whole group now, in the order they came."""
        self._pieces.append(piece)
        places = summing_to([held.size for held in self._pieces], self.group_size)
        if places is None:
            return []
        taken = set(places)
        complete = [piece for i, piece in enumerate(self._pieces) if i in taken]
        self._pieces = [piece for i, piece in enumerate(self._pieces) if i not in taken]
        return complete


class Queue(Generic[T]):
    """Groups that wait to be trained on, at most `capacity` sequences."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: deque[Piece[T]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def sequences(self) -> int:
        return sum(piece.size for piece in self._queue)

    def sizes(self) -> list[tuple[int | None, int]]:
        """Environment and size of each group, the oldest first."""
        return [(piece.environment, piece.size) for piece in self._queue]

    def fits(self, size: int) -> bool:
        return self.sequences + size <= self._capacity

    def add(self, piece: Piece[T]) -> None:
        self._queue.append(piece)

    def take(self, batch_size: int, at_least: Mapping[int, int] | None = None) -> list[Piece[T]] | None:
        """A batch of exactly `batch_size` sequences with at least so many of each environment; None only where no groups make one."""
        promises = dict(at_least or {})
        chosen = self._oldest(batch_size, promises) or self._any(batch_size, promises)
        if chosen is None:
            return None
        batch = [piece for i, piece in enumerate(self._queue) if i in chosen]
        self._queue = deque(piece for i, piece in enumerate(self._queue) if i not in chosen)
        return batch

    def _oldest(self, batch_size: int, promises: Mapping[int, int]) -> set[int] | None:
        """What was promised first, of the oldest, then the oldest of all."""
        chosen: set[int] = set()
        for environment, minimum in promises.items():
            promised = self._promised(environment, minimum, batch_size - self._size(chosen))
            if promised is None:
                return None
            chosen.update(promised)
        others = [i for i in range(len(self._queue)) if i not in chosen]
        rest = summing_to([self._queue[i].size for i in others], batch_size - self._size(chosen))
        return None if rest is None else chosen.union(others[i] for i in rest)

    def _any(self, batch_size: int, promises: Mapping[int, int]) -> set[int] | None:
        """Sizes that do not go together must not keep a batch back for ever: any groups that do."""
        parts: dict[int | None, list[int]] = {environment: [] for environment in promises} | {None: []}
        for i, piece in enumerate(self._queue):
            parts[piece.environment if piece.environment in promises else None].append(i)
        sizes = {environment: [self._queue[i].size for i in places] for environment, places in parts.items()}
        reaches = [sums(sizes[environment], batch_size) >> least << least for environment, least in [*promises.items(), (None, 0)]]
        shares = split(batch_size, reaches)
        if shares is None:
            return None
        chosen: set[int] = set()
        for environment, share in zip(parts, shares, strict=True):
            chosen.update(parts[environment][i] for i in summing_to(sizes[environment], share) or ())
        return chosen

    def _promised(self, environment: int, minimum: int, room: int) -> list[int] | None:
        """The oldest groups of an environment that make at least `minimum` sequences and fit."""
        places, size = [], 0
        for i, piece in enumerate(self._queue):
            if size >= minimum:
                break
            if piece.environment == environment and size + piece.size <= room:
                places.append(i)
                size += piece.size
        return places if size >= minimum else None

    def _size(self, chosen: set[int]) -> int:
        return sum(self._queue[i].size for i in chosen)
