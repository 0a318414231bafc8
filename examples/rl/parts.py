"""What a configuration may add to a trainer: judges and the ratings that come of them, a proposer of levels, environments of Atropos.

The trainer asks here what a version's tasks are, what answers are worth, and what goes out beside the weights, and says what it took.
Without the tables [reward], [proposer] and [atropos] all of it is one environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.rl.atropos_server import AtroposServer
from examples.rl.buffer import ReplayBuffer
from examples.rl.checks import Checked
from examples.rl.config import Config
from examples.rl.curriculum import LEVEL, Curriculum
from examples.rl.environment import Environment
from examples.rl.generate import rescored, task_of
from examples.rl.policy import Tokenizer
from examples.rl.posted import opened
from examples.rl.proposals import Proposals
from examples.rl.rewards import ByJudges, rewards_of
from examples.rl.rollout import RolloutGroup
from examples.rl.sessions import Sessions


class Parts:
    """Of one trainer, whose key is `who`. Raises `ConfigError` for what cannot be made here. `folder`: for the levels of its versions."""

    def __init__(self, config: Config, tokenizer: Tokenizer, who: bytes, folder: Path) -> None:
        self._config, self._who, self._levels = config, who, folder / "levels"
        self.curriculum = Curriculum(config)
        self.curriculum.check_sayable(tokenizer, config.task.policy)
        self.rewards = rewards_of(config, self.curriculum.measured)
        self._sessions = Sessions(self.rewards.panel) if isinstance(self.rewards, ByJudges) else None
        self._proposals = Proposals(config, self.curriculum, tokenizer, who) if self.curriculum.proposed else None
        self._tokenizer = tokenizer
        self.atropos: AtroposServer | None = None

    def open(self, buffer: ReplayBuffer, step: int) -> None:
        """Let environments of Atropos post into a buffer, if the configuration says so; `step` is the trainer's. Raises `ConfigError`."""
        if self._config.atropos.open:
            self.atropos = opened(self._config, buffer, self._tokenizer, step=step)

    def close(self) -> None:
        """Let nobody post any more."""
        if self.atropos is not None:
            self.atropos.close()

    # -- tasks -------------------------------------------------------------------------------------------------------------------------

    def asked(self, version: int, name: str) -> Environment | None:
        """The environment of a version's tasks, if that is its name."""
        return self.curriculum.named(name) if self._proposals is None else self._proposals.environment(version, name)

    def foreign(self, version: int, name: str) -> Environment | None:
        """The same for other learners, who propose levels of their own for versions of their own."""
        return self.curriculum.named(name)

    def current(self, version: int) -> Environment:
        """The environment of the newest version."""
        return self.curriculum.measured if self._proposals is None else self.curriculum.at(self._proposals.level(version))

    def beside(self, version: int) -> dict[str, Any]:
        """What goes out with a new version. Sessions end with the version before."""
        if self._sessions is not None:
            self._sessions.play()
        if self._proposals is None:
            return {}
        level = self._proposals.propose(version)
        self._proposals.save_levels(self._levels)
        return {LEVEL: level}

    # -- answers -----------------------------------------------------------------------------------------------------------------------

    def accepted(self, checked: Checked) -> None:
        """A worker's group is in the buffer."""
        group = checked.group
        if self._sessions is not None:
            self._sessions.add(group.worker, checked.scores)
        self._heard(group.version, group.worker, checked.rewards)

    def own(self, group: RolloutGroup, version: int) -> RolloutGroup:
        """A group that the trainer sampled itself, with what it is worth here. Raises `RolloutError` when nobody can judge it."""
        if not self.rewards.comparable:
            environment = self.current(version)
            group = rescored(group, environment, task_of(group, environment), self.rewards)
        self._heard(version, self._who, group.rewards)
        return group

    def _heard(self, version: int, worker: bytes, rewards: Sequence[float]) -> None:
        if self._proposals is not None:
            self._proposals.heard(version, worker, sum(rewards) / len(rewards), len(rewards))

    # -- told and kept -----------------------------------------------------------------------------------------------------------------

    def told(self, version: int, step: int) -> dict[str, Any]:
        """What there is to say of it after an update."""
        told: dict[str, Any] = {}
        if self._proposals is not None:
            told |= self._proposals.told(version)
        if self._sessions is not None and isinstance(self.rewards, ByJudges):
            told |= {"ratings": self._sessions.told(), "abstained": self._abstained(self.rewards)}
        if self.atropos is not None:
            self.atropos.atropos.advance(step)
            told["posted"] = dict(self.atropos.atropos.counts)
        return told

    def _abstained(self, rewards: ByJudges) -> dict[str, int]:
        """How often each judge has failed, by its place in the file."""
        judges = self._config.reward.judges
        return {f"{place + 1} ({judges[place].__struct_config__.tag})": n for place, n in sorted(rewards.panel.counts.items())}

    def state_dict(self) -> dict[str, Any]:
        """Of the parts that there are."""
        parts = {"proposals": self._proposals, "sessions": self._sessions}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as it was; a part that was not there before begins."""
        if self._sessions is not None and "sessions" in state:
            self._sessions.load_state_dict(state["sessions"])
        if self._proposals is not None:
            if "proposals" in state:
                self._proposals.load_state_dict(state["proposals"])
            if self._levels.exists():
                self._proposals.load_levels(self._levels)
