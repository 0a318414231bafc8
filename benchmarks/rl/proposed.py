"""Rows in which the tasks have levels, as `examples/rl/proposer.toml` has them: 2 to 8 digits to sort (issue 6, the roles of RL Swarm).

Who names the level of each update: "proposer" is the trainer's own (`examples/rl/proposals.py`), "in turn" goes through all of them,
"hardest" stays at the highest. Measured is one sample for each of 512 prompts of all levels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec.structs import replace
from torch import Tensor

from benchmarks.rl.start import warm_start
from examples.rl.config import load
from examples.rl.curriculum import Curriculum
from examples.rl.environment import Environment
from examples.rl.proposals import Proposals
from examples.rl.rollout import RolloutGroup
from examples.rl.tiny import Tiny
from examples.rl.warmup import Warmup

Proposed = Literal["nobody", "proposer", "in turn", "hardest"]
CONFIG = Path(__file__).resolve().parents[2] / "examples" / "rl" / "proposer.toml"


class Course:
    """The levels of one learner's updates. What is sampled is heard at once, since nothing is under way between sampling and learning."""

    def __init__(self, how: Proposed, *, seed: int) -> None:
        self._config = replace(load(CONFIG), seed=seed)
        self._curriculum = Curriculum(self._config)
        self._how = how
        self._proposals = Proposals(self._config, self._curriculum, Tiny().tokenizer, bytes(32))
        self.max_new = self._config.task.max_new_tokens
        self.level = 0
        self.solve_rate = 0.0

    @property
    def measured(self) -> Environment:
        """All levels, as often each."""
        return self._curriculum.demonstrations

    def start(self) -> dict[str, Tensor]:
        """The warm start, on all levels in turn."""
        warmup = self._config.warmup
        options = Warmup(steps=warmup.steps, batch=warmup.batch, lr=warmup.lr, right=warmup.right)
        return warm_start(self._curriculum.demonstrations, seed=self._config.seed, options=options)

    def choose(self, version: int) -> Environment:
        """The environment of an update."""
        levels = self._curriculum.levels
        proposed = self._proposals.propose(version)
        self.level = {"proposer": proposed, "in turn": levels[version % len(levels)], "hardest": levels[-1]}[self._how]
        return self._curriculum.at(self.level)

    def hear(self, version: int, groups: Sequence[RolloutGroup]) -> None:
        """What came of it."""
        rates = [sum(group.rewards) / len(group.rewards) for group in groups]
        self.solve_rate = sum(rates) / len(rates)
        for group, rate in zip(groups, rates, strict=True):
            self._proposals.heard(version, group.worker, rate, len(group.rewards))
