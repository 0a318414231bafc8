"""What the trainer says a group's answers are worth, as its configuration wants it: by the environment, or by judges.

What a worker claims is compared with the environment, which says right or wrong. Judges put answers in an order of their own, so what a
worker claims is neither true nor false then, and is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from examples.rl import config as configs
from examples.rl.config import Config, ConfigError
from examples.rl.environment import Environment, Task
from examples.rl.judges import AdversarialJudge, HttpJudge, Judge, JudgementError, NoisyJudge, Panel, VerifierJudge
from examples.rl.rollout import RolloutError


@dataclass(frozen=True)
class Judged:
    """One reward for each text. `scores`: the mean that each judge gave all of them, by its place; none without judges."""

    rewards: tuple[float, ...]
    scores: Mapping[int, float] = field(default_factory=dict)


class Rewards(Protocol):
    """Whoever decides."""

    @property
    def comparable(self) -> bool:
        """Whether a worker can know them, so that another claim is a lie."""
        ...

    def of(self, environment: Environment, task: Task, texts: Sequence[str]) -> Judged:
        """Raises `RolloutError` when the texts cannot be judged."""
        ...


class ByEnvironment:
    """What the environment says."""

    comparable = True

    def of(self, environment: Environment, task: Task, texts: Sequence[str]) -> Judged:
        return Judged(tuple(environment.reward(task, text) for text in texts))


BY_ENVIRONMENT = ByEnvironment()


class ByJudges:
    """What a panel says: the clipped median of its ranks, or the mean of its raw scores."""

    comparable = False

    def __init__(self, panel: Panel, rule: Literal["median", "mean"] = "median") -> None:
        self.panel, self._rule = panel, rule

    def of(self, environment: Environment, task: Task, texts: Sequence[str]) -> Judged:
        try:
            rows = self.panel.heard(task, texts)
        except JudgementError as error:
            raise RolloutError("unjudged", str(error)) from None
        rewards = self.panel.agreed(rows) if self._rule == "median" else self.panel.mean(rows)
        return Judged(tuple(rewards), {i: sum(row) / len(row) for i, row in rows.items()})


def rewards_of(config: Config, environment: Environment) -> ByEnvironment | ByJudges:
    """As the table [reward] says. Raises `ConfigError` for a token that its variable does not hold."""
    reward = config.reward
    if reward.by == "environment":
        return BY_ENVIRONMENT
    made = [_judge(told, environment, config.seed + place) for place, told in enumerate(reward.judges)]
    return ByJudges(Panel(made, [told.stake for told in reward.judges]), reward.rule)


def _judge(told: configs.Judge, environment: Environment, seed: int) -> Judge:
    own = VerifierJudge(environment)
    match told:
        case configs.NoisyJudge():
            return NoisyJudge(own, told.deviation, seed=seed)
        case configs.AdversarialJudge():
            return AdversarialJudge(own, told.loudness)
        case configs.HttpJudge():
            return HttpJudge(told.url, told.model, token=secret(told.token_env), timeout_s=told.timeout_s)
        case _:
            return own


def secret(variable: str) -> str:
    """The token in an environment variable, none for no name. Raises `ConfigError` when the variable is not set."""
    if variable and not os.environ.get(variable):
        raise ConfigError(f"the environment variable {variable} is not set; it holds the token that the configuration names")
    return os.environ[variable] if variable else ""
