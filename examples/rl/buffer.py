"""What waits to be trained on: a bounded store of groups by version and environment, fair to workers, strict about age."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from msgspec import Struct

from examples.rl.rollout import RolloutError, RolloutGroup

Key = tuple[int, str]  # version, environment


@dataclass(frozen=True)
class Capacity:
    """Raises `ValueError` for numbers that cannot work.

    - `groups`: held at once; `of_worker`: of one worker (half of the whole unless given).
    - `max_staleness`: versions between the weights that sampled a group and those it trains; older groups are dropped whole.
    """

    groups: int = 1024
    of_worker: int | None = None
    max_staleness: int = 4

    def __post_init__(self) -> None:
        if self.groups < 1 or not 1 <= self.quota <= self.groups or self.max_staleness < 0:
            raise ValueError(
                f"groups={self.groups}, of_worker={self.of_worker}, max_staleness={self.max_staleness}; "
                "choose groups >= of_worker >= 1 and max_staleness >= 0"
            )

    @property
    def quota(self) -> int:
        return max(1, self.groups // 2) if self.of_worker is None else self.of_worker


@dataclass(frozen=True)
class Stats:
    """What has happened so far. `dropped`: reasons of `ReplayBuffer`; `staleness`: of the groups that were taken, versions to how many."""

    held: int
    accepted: int
    taken: int
    dropped: Mapping[str, int]
    staleness: Mapping[int, int]
    workers: Mapping[bytes, int]  # groups held


class _Saved(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    head: int
    accepted: int
    taken: int
    dropped: dict[str, int]
    staleness: dict[int, int]
    seen: list[tuple[int, bytes]]
    groups: list[RolloutGroup]


@dataclass
class _State:
    head: int = 0
    accepted: int = 0
    taken: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    queues: dict[Key, deque[RolloutGroup]] = field(default_factory=dict)
    held: Counter[bytes] = field(default_factory=Counter)  # by worker
    seen: dict[bytes, int] = field(default_factory=dict)  # digests to versions


class ReplayBuffer:
    """Groups that were checked and re-scored, until a learner takes them; any number of threads.

    First in, first out within a version and environment; older versions go first, they would be dropped next. Refused and dropped groups
    are counted by reason: "stale", "future" (of a version that is not there yet), "duplicate" (the same worker, version and number, or the
    same completions of the same prompt), "quota" (its worker has as many as it may), "full", and "evicted".

    Versions are those of one trainer, which says `advance(v)` before anybody can have weights `v`; groups that were sampled by weights of
    another trainer belong into a buffer of their own, with that trainer's versions.

    Where it is full, room for a worker's group is made by the worker that holds most, if that is at least two more than the newcomer's:
    who floods the buffer displaces nobody but itself.

    >>> buffer = ReplayBuffer(Capacity(groups=64, max_staleness=2))
    >>> buffer.take(8, head=0)
    []
    """

    def __init__(self, capacity: Capacity = Capacity()) -> None:
        self.capacity = capacity
        self._state = _State()
        self._changed = threading.Condition()

    def put(self, group: RolloutGroup) -> None:
        """Hold the group. Raises `RolloutError`, having counted the reason, when it is refused."""
        with self._changed:
            reason = self._refusal(group)
            if reason:
                self._state.dropped[reason] += 1
                raise RolloutError(reason)
            state = self._state
            if sum(state.held.values()) >= self.capacity.groups:
                self._evict()
            state.queues.setdefault((group.version, group.environment), deque()).append(group)
            state.held[group.worker] += 1
            for digest in digests(group):
                state.seen[digest] = group.version
            state.accepted += 1
            self._changed.notify_all()

    def take(self, n: int, head: int, *, environment: str | None = None, timeout_s: float = 0.0) -> list[RolloutGroup]:
        """`n` groups to train version `head` with, the oldest that are young enough; waits for them; none when there are fewer in time.

        What is too old for `head` is dropped. Raises `ValueError` for n < 1, or more than the buffer can hold.
        """
        if not 1 <= n <= self.capacity.groups:
            raise ValueError(f"take(n={n}) of a buffer of {self.capacity.groups} groups; choose 1 to that")
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._advance(head)
            while len(self._usable(environment)) < n:
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
            found = self._usable(environment)[:n]
            for key, group in found:
                self._remove(key, group)
                self._state.staleness[self._state.head - group.version] += 1
            self._state.taken += n
            return [group for _, group in found]

    def advance(self, head: int) -> None:
        """The newest version is `head` now: drop what has become too old. An older one than before changes nothing."""
        with self._changed:
            self._advance(head)

    def discard(self, wrong: Callable[[RolloutGroup], bool], reason: str) -> int:
        """Drop what has turned out to be wrong (a banned worker's, a refuted proof's); how many."""
        with self._changed:
            found = [(key, group) for key, queue in self._state.queues.items() for group in queue if wrong(group)]
            for key, group in found:
                self._remove(key, group)
            self._state.dropped[reason] += len(found)
            return len(found)

    def stats(self) -> Stats:
        """So far."""
        with self._changed:
            state = self._state
            held = {worker: n for worker, n in state.held.items() if n}
            return Stats(sum(held.values()), state.accepted, state.taken, dict(+state.dropped), dict(sorted(state.staleness.items())), held)

    def __len__(self) -> int:
        with self._changed:
            return sum(self._state.held.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint that `torch.load(weights_only=True)` reads: one uint8 tensor."""
        with self._changed:
            state = self._state
            groups = [group for key in sorted(state.queues) for group in state.queues[key]]
            saved = _Saved(
                state.head,
                state.accepted,
                state.taken,
                dict(state.dropped),
                dict(state.staleness),
                [(version, digest) for digest, version in state.seen.items()],
                groups,
            )
        return {"data": torch.frombuffer(bytearray(msgspec.msgpack.encode(saved)), dtype=torch.uint8)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as it was. Raises `ValueError` for what no buffer has saved, or what this one cannot hold."""
        try:
            saved = msgspec.msgpack.decode(state["data"].numpy().tobytes(), type=_Saved)
        except (KeyError, AttributeError, msgspec.DecodeError) as error:
            raise ValueError(f"this is no state of a replay buffer: {error}") from None
        if len(saved.groups) > self.capacity.groups:
            raise ValueError(f"{len(saved.groups)} saved groups for a buffer of {self.capacity.groups}; give it at least that capacity")
        loaded = _State(saved.head, saved.accepted, saved.taken, Counter(saved.dropped), Counter(saved.staleness))
        for group in saved.groups:
            loaded.queues.setdefault((group.version, group.environment), deque()).append(group)
            loaded.held[group.worker] += 1
        loaded.seen = {digest: version for version, digest in saved.seen}
        with self._changed:
            self._state = loaded
            self._advance(saved.head)
            self._changed.notify_all()

    # -- with the lock held ----------------------------------------------------------------------------------------------------

    def _refusal(self, group: RolloutGroup) -> str | None:
        state, capacity = self._state, self.capacity
        if group.version > state.head:
            return "future"
        if group.version < state.head - capacity.max_staleness:
            return "stale"
        if any(digest in state.seen for digest in digests(group)):
            return "duplicate"
        mine = state.held[group.worker]
        if mine >= capacity.quota:
            return "quota"
        most = max(state.held.values(), default=0)
        return "full" if sum(state.held.values()) >= capacity.groups and most < mine + 2 else None

    def _evict(self) -> None:
        """The oldest group of the worker that holds most."""
        worker = max(self._state.held, key=lambda worker: self._state.held[worker])
        key, group = next((key, group) for key, group in self._usable(None) if group.worker == worker)
        self._remove(key, group)
        self._state.dropped["evicted"] += 1

    def _usable(self, environment: str | None) -> list[tuple[Key, RolloutGroup]]:
        """Older versions first; in the order of arrival within one and an environment, environments taking turns."""
        found: list[tuple[Key, RolloutGroup]] = []
        for version in sorted({version for version, _ in self._state.queues}):
            queues = {key: list(queue) for key, queue in self._state.queues.items() if key[0] == version and environment in (None, key[1])}
            turns = [(turn, order, key) for order, key in enumerate(sorted(queues)) for turn in range(len(queues[key]))]
            found += [(key, queues[key][turn]) for turn, _, key in sorted(turns)]
        return found

    def _remove(self, key: Key, group: RolloutGroup) -> None:
        queue = self._state.queues[key]
        at = next(i for i, each in enumerate(queue) if each is group)
        del queue[at]
        if not queue:
            del self._state.queues[key]
        self._state.held[group.worker] -= 1
        if not self._state.held[group.worker]:
            del self._state.held[group.worker]

    def _advance(self, head: int) -> None:
        state = self._state
        state.head = max(state.head, head)
        oldest = state.head - self.capacity.max_staleness
        for key in [key for key in state.queues if key[0] < oldest]:
            for group in list(state.queues[key]):
                self._remove(key, group)
                state.dropped["stale"] += 1
        state.seen = {digest: version for digest, version in state.seen.items() if version >= oldest}


def digests(group: RolloutGroup) -> tuple[bytes, bytes]:
    """sha256 of who made it under which number, and of the prompt and completions, in whichever order they are."""
    name = hashlib.sha256(b"name" + msgspec.msgpack.encode((group.worker, group.version, group.n))).digest()
    told = [(one.ids, one.text, one.finished) for one in group.completions]
    content = hashlib.sha256(b"content" + msgspec.msgpack.encode((group.environment, group.prompt, sorted(told)))).digest()
    return name, content
