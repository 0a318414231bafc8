"""Rows in which the tasks have levels, as configurations of the example have them (the roles of RL Swarm): 2 to 8 digits to sort, which the
policy soon does, and sums of 1 to 4 digits, most of which it never learns.

Who names the level of each update: "proposer" is the trainer's own (`examples/rl/proposals.py`), "in turn" goes through all of them,
"hardest" stays at the highest; "nobody" means that there are none. Measured is one sample for each of 512 prompts of all levels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from msgspec.structs import asdict, replace
from torch import Tensor

from benchmarks.rl.start import warm_start
from examples.rl.config import Config, load
from examples.rl.curriculum import Curriculum
from examples.rl.environment import Environment
from examples.rl.proposals import Proposals
from examples.rl.rollout import RolloutGroup
from examples.rl.tiny import Characters
from examples.rl.warmup import Warmup

Proposed = Literal["nobody", "proposer", "in turn", "hardest"]
Family = Literal["sort", "addition"]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "rl"
CONFIGS: dict[Family, Path] = {"sort": EXAMPLES / "proposer.toml", "addition": EXAMPLES / "sums.toml"}


class Course(Protocol):
    """The environments of one learner's updates."""

    max_new: int

    def choose(self, version: int) -> Environment:
        """That of an update."""
        ...

    def hear(self, version: int, groups: Sequence[RolloutGroup]) -> None:
        """What came of it."""
        ...

    def told(self) -> dict[str, float]:
        """For the numbers of an update."""
        ...


class Same:
    """One environment."""

    max_new = 8

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def choose(self, version: int) -> Environment:
        return self._environment

    def hear(self, version: int, groups: Sequence[RolloutGroup]) -> None:
        return None

    def told(self) -> dict[str, float]:
        return {}


class Leveled:
    """Levels. What is sampled is heard at once, since nothing is under way between sampling and learning."""

    def __init__(self, how: Proposed, family: Family, *, seed: int) -> None:
        config = _config(family, seed)
        self._how, self._curriculum = how, Curriculum(config)
        self._proposals = Proposals(config, self._curriculum, Characters(), bytes(32))
        self.max_new = config.task.max_new_tokens
        self.level = 0
        self.solve_rate = 0.0

    def choose(self, version: int) -> Environment:
        levels = self._curriculum.levels
        proposed = self._proposals.propose(version)
        self.level = {"proposer": proposed, "in turn": levels[version % len(levels)], "hardest": levels[-1]}[self._how]
        return self._curriculum.at(self.level)

    def hear(self, version: int, groups: Sequence[RolloutGroup]) -> None:
        rates = [sum(group.rewards) / len(group.rewards) for group in groups]
        self.solve_rate = sum(rates) / len(rates)
        for group, rate in zip(groups, rates, strict=True):
            self._proposals.heard(version, group.worker, rate, len(group.rewards))

    def told(self) -> dict[str, float]:
        return {"level": float(self.level), "solve_rate": self.solve_rate}


def course(how: Proposed, family: Family, environment: Environment, *, seed: int) -> Course:
    """That of a row whose accuracy is measured on `environment`."""
    return Same(environment) if how == "nobody" else Leveled(how, family, seed=seed)


def all_levels(family: Family, seed: int) -> tuple[Environment, dict[str, Tensor]]:
    """All levels, as often each, and a warm start on them."""
    config = _config(family, seed)
    levels = Curriculum(config).demonstrations
    return levels, warm_start(levels, seed=seed, options=Warmup(**asdict(config.warmup)))


def _config(family: Family, seed: int) -> Config:
    return replace(load(CONFIGS[family]), seed=seed)
