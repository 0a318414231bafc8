"""Any task of the package reasoning-gym as an environment: `ReasoningGym("chain_sum", min_terms=2)`.

The package makes questions from a seed, so a task is made again wherever the package is of the same version; that version is part of the
name, since another one asks other questions. Answers are scored by the package, partly right ones partly.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from functools import cached_property
from types import ModuleType
from typing import Any

from examples.rl.environment import Task

MAX_ANSWER_CHARACTERS = 16 << 10
_SEEDS = 1 << 31  # some generators hand the seed to numpy, which takes 32 bits


def _package() -> ModuleType:
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise ImportError("environments named after reasoning-gym need that package: pip install 'thinwire[rl]'") from error


class ReasoningGym:
    """One dataset of reasoning-gym; `settings` are its own. Raises `ImportError` without it, `ValueError` for what it does not know.

    An answer may be the whole completion, or stand between <answer> and </answer>; the last one counts.
    """

    def __init__(self, dataset: str, **settings: Any) -> None:
        self._module = _package()
        self._dataset, self._settings = dataset, settings
        try:
            self._make(0)
        except Exception as error:  # the package raises what it likes, an assertion among it
            raise ValueError(f"reasoning-gym makes no {dataset!r} of {settings}: {error}; see reasoning_gym.factory.DATASETS") from error

    @cached_property
    def name(self) -> str:
        return f"{self._dataset}@{importlib.metadata.version('reasoning-gym')}"

    def task(self, seed: int) -> Task:
        entry = self._make(seed)[0]
        return Task(seed, str(entry["question"]), str(entry["answer"]), dict(entry))

    def reward(self, task: Task, completion: str) -> float:
        if len(completion) > MAX_ANSWER_CHARACTERS:
            return 0.0
        try:
            score = float(self._scorer.score_answer(answer=answer_in(completion), entry=dict(task.meta)))
        except Exception:  # a scorer that chokes on an odd answer has not found it right
            return 0.0
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0

    @cached_property
    def _scorer(self) -> Any:
        return self._make(0)

    def _make(self, seed: int) -> Any:
        return self._module.create_dataset(self._dataset, **{**self._settings, "seed": seed % _SEEDS, "size": 1})


def answer_in(completion: str) -> str:
    """What stands in the last pair of answer tags, or all of it.

    >>> answer_in("Let me see. <answer> 42 </answer>")
    '42'
    """
    _, opened, rest = completion.rpartition("<answer>")
    inside, closed, _ = rest.partition("</answer>")
    return inside.strip() if opened and closed else completion.strip()
