"""What a policy is trained on: tasks that follow from a seed, and a reward that anybody can compute again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

SEED_NBYTES = 8


@dataclass(frozen=True)
class Task:
    """One question. `answer` and `meta` are the environment's own, for `reward`; a policy sees nothing but `prompt`."""

    seed: int
    prompt: str
    answer: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """A kind of task. Everybody who knows the seed makes the same task and scores a completion alike."""

    @property
    def name(self) -> str: ...

    def task(self, seed: int) -> Task:
        """The task of a seed in [0, 2^64)."""
        ...

    def reward(self, task: Task, completion: str) -> float:
        """In [0, 1]; never raises, whatever the completion is."""
        ...


def task_seed(run: str, worker: bytes, version: int, n: int) -> int:
    """The seed of the `n`th group of a worker under `version`: nobody chooses its own tasks (INTELLECT-2, arXiv:2505.07291, section 2.3.3).

    >>> task_seed("demo", bytes(32), 3, 0) == task_seed("demo", bytes(32), 3, 0) != task_seed("demo", bytes(32), 3, 1)
    True
    """
    parts = (b"thinwire rl task 1", run.encode(), worker, version.to_bytes(8, "little"), n.to_bytes(8, "little"))
    told = hashlib.sha256()
    for part in parts:
        told.update(len(part).to_bytes(4, "little") + part)
    return int.from_bytes(told.digest()[:SEED_NBYTES], "little")
