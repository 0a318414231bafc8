"""The environments of a run: one, or with a proposer one for each level, which the trainer names with each version of its weights.

The name of a level is that of the environment with that size: level 3 of `sort` is `sort-3`. What is measured stays `task.environment`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, cast

from examples.rl.config import Config, ConfigError
from examples.rl.environment import Environment, Task
from examples.rl.policy import Tokenizer
from examples.rl.sandbox import SandboxError
from examples.rl.tasks import Demonstrator, environment

LEVEL = "level"  # beside the weights
_LOOKED_AT = 8  # tasks of each environment, when a run begins


class Curriculum:
    """Of a configuration. Raises `ConfigError` for environments that cannot be made here, or that have no demonstrations to warm up on."""

    def __init__(self, config: Config) -> None:
        task, proposer = config.task, config.proposer
        self.proposed, self.levels = proposer.on, proposer.levels
        self.measured = _made(task.environment, task.settings)
        family = re.sub(r"-\d+$", "", task.environment)
        if proposer.on and ":" in family:
            raise ConfigError(
                f"{task.environment} has no levels to propose; take an environment with sizes, such as sort, or no [proposer]"
            )
        self._levels = {level: _made(f"{family}-{level}", task.settings) for level in self.levels}
        self._named = {one.name: one for one in self._levels.values()} if proposer.on else {self.measured.name: self.measured}
        lacking = [one.name for one in self._named.values() if not hasattr(one, "demonstrate")]
        if config.warmup.steps and lacking:
            raise ConfigError(f"{lacking[0]} has no demonstrations to warm up on; set warmup.steps = 0 and take a policy that can answer")

    def at(self, level: int | None) -> Environment:
        """The environment of a level, or the only one."""
        return self.measured if level is None else self._levels[level]

    def told(self, extra: Mapping[str, Any]) -> int | None:
        """The level that a trainer has said beside its weights; None without a proposer. Raises `ValueError` for none, or another."""
        if not self.proposed:
            return None
        level = extra.get(LEVEL)
        if type(level) is not int or level not in self.levels:
            raise ValueError(f"the trainer proposes level {level!r}; this run has {self.levels.start} to {self.levels.stop - 1}")
        return level

    def named(self, name: str) -> Environment | None:
        """The environment of that name, whatever its level."""
        return self._named.get(name)

    @cached_property
    def demonstrations(self) -> Demonstrator:
        """What a policy is warmed up on: all levels in turn."""
        return Mixture(tuple(cast(Demonstrator, one) for one in self._named.values()))

    def check_sayable(self, tokenizer: Tokenizer, policy: str) -> None:
        """Raise `ConfigError` when a policy has no tokens for what is asked."""
        for one in {self.measured.name: self.measured, **self._named}.values():
            try:
                for seed in range(_LOOKED_AT):
                    tokenizer.encode(one.task(seed).prompt)
            except ValueError as error:
                raise ConfigError(f"the policy {policy} cannot read the tasks of {one.name}: {error}") from None


def _made(name: str, settings: Mapping[str, Any]) -> Environment:
    try:
        return environment(name, settings)
    except (ValueError, ImportError, SandboxError) as error:
        raise ConfigError(f"task.environment {name}: {error}") from None


@dataclass(frozen=True)
class Mixture:
    """Environments in turn; which one made a task follows from its seed."""

    parts: tuple[Demonstrator, ...]

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts)

    def task(self, seed: int) -> Task:
        return self._of(seed).task(seed)

    def reward(self, task: Task, completion: str) -> float:
        return self._of(task.seed).reward(task, completion)

    def demonstrate(self, task: Task, random: Random, *, right: float) -> str:
        return self._of(task.seed).demonstrate(task, random, right=right)

    def _of(self, seed: int) -> Demonstrator:
        return self.parts[seed % len(self.parts)]
