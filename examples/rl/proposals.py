"""The trainer as proposer: it names the level of each version's tasks, learns from how many answers are right, and asks nothing impossible.

    settle    the mean solve rate of the groups that came in since the last version, by level, goes to the bandit
    admit     of each level some tasks are looked at: its own answer has to be right, and short enough to be said
    propose   the bandit chooses among the levels that are left

A level that several workers have tried in vain is left out until half of the answers to the level below are right. Groups come in late: the
level of every version that still counts is remembered, on disk too, for who goes on after a crash must not take honest workers for liars.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from examples.rl.config import Config, ConfigError
from examples.rl.curriculum import Curriculum
from examples.rl.environment import Environment, task_seed
from examples.rl.policy import Tokenizer
from examples.rl.proposer import DifficultyBandit, Evaluator, Proposal, ProposalError
from thinwire.comms.whole import write_whole

LOOKED_AT = 4  # tasks of a level
HALF = 0.5


class Proposals:
    """The levels of a run. Raises `ConfigError` when no level can be asked at all. Any number of threads.

    `who` is the key of the trainer: the tasks that are looked at are its own of that version.
    """

    def __init__(self, config: Config, curriculum: Curriculum, tokenizer: Tokenizer, who: bytes) -> None:
        self._config, self._curriculum, self._tokenizer, self._who = config, curriculum, tokenizer, who
        environments = {one.name: one for one in map(curriculum.at, curriculum.levels)}
        self._evaluator = Evaluator(environments, solvers=config.proposer.solvers)
        self._bandit = DifficultyBandit(curriculum.levels, discount=config.proposer.discount, seed=config.seed)
        self._lock = threading.Lock()
        self._levels: dict[int, int] = {}  # of each version that counts
        self._heard: dict[int, list[float]] = {}  # solve rates by level, since the last version
        self.solve_rate: float | None = None  # of what was heard last
        self.left_out: dict[int, str] = {}  # levels, and why
        if not self._admitted(0):
            raise ConfigError(f"of levels {', '.join(map(str, curriculum.levels))} none can be asked: {self.left_out}")

    def environment(self, version: int, name: str) -> Environment | None:
        """The environment of a version's tasks; None for another name, and for a version that counts no more."""
        with self._lock:
            level = self._levels.get(version)
        made = None if level is None else self._curriculum.at(level)
        return made if made is not None and made.name == name else None

    def heard(self, version: int, worker: bytes, solve_rate: float, attempts: int) -> None:
        """A group was accepted."""
        with self._lock:
            level = self._levels.get(version)
            if level is None:
                return
            self._heard.setdefault(level, []).append(solve_rate)
            self._evaluator.learn(self._proposal(level), worker, solve_rate, attempts)

    def propose(self, version: int) -> int:
        """The level of a new version; from now on its groups are known."""
        with self._lock:
            self._settle()
            level = self._bandit.propose(self._admitted(version) or self._lowest())
            oldest = version - self._config.train.max_staleness
            self._levels = {v: known for v, known in self._levels.items() if v >= oldest} | {version: level}
            return level

    def _settle(self) -> None:
        means = {level: sum(rates) / len(rates) for level, rates in self._heard.items()}
        for level, mean in means.items():
            self._bandit.learn(level, mean)
            if mean >= HALF:
                self._evaluator.forgive(_key(level + 1))
        if means:
            rates = [rate for each in self._heard.values() for rate in each]
            self.solve_rate = sum(rates) / len(rates)
        self._heard = {}

    def _admitted(self, version: int) -> list[int]:
        """The levels that may be asked now."""
        self.left_out = {}
        for level in self._curriculum.levels:
            try:
                self._check_short(self._evaluator.admit(self._proposal(level, version)))
            except ProposalError as error:
                self.left_out[level] = error.reason
        return [level for level in self._curriculum.levels if level not in self.left_out]

    def _check_short(self, tasks: tuple[Any, ...]) -> None:
        longest = self._config.task.max_new_tokens
        for task in tasks:
            try:
                size = len(self._tokenizer.encode(task.answer))
            except ValueError as error:
                raise ProposalError("unsayable", str(error)) from None
            if size > longest:
                raise ProposalError("too long", f"an answer of {size} tokens, at most {longest}")

    def _lowest(self) -> list[int]:
        """Where nobody solves anything, the easiest level that nothing else speaks against."""
        hopeless = [level for level, reason in self.left_out.items() if reason == "unsolvable"]
        return [min(hopeless or self._curriculum.levels)]

    def _proposal(self, level: int, version: int | None = None) -> Proposal:
        environment = self._curriculum.at(level)
        numbers = range(LOOKED_AT if version is not None else 0)
        tasks = tuple(environment.task(task_seed(self._config.run, self._who, version or 0, n)) for n in numbers)
        return Proposal(_key(level), environment.name, level, tasks)

    def level(self, version: int) -> int:
        """Of a version that counts."""
        with self._lock:
            return self._levels[version]

    def told(self, version: int) -> dict[str, Any]:
        """For the log of an update."""
        with self._lock:
            left_out = {str(level): reason for level, reason in self.left_out.items()}
            return {"level": self._levels[version], "solve_rate": self.solve_rate, "left_out": left_out}

    # -- kept --------------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but what is not settled, in types that `torch.load(weights_only=True)` reads."""
        with self._lock:
            return {"levels": dict(self._levels), "bandit": self._bandit.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as it was; versions at levels that are no longer offered count no more."""
        with self._lock:
            self._bandit.load_state_dict(state["bandit"])
            self._know(state["levels"])

    def save_levels(self, path: Path) -> None:
        """Before a version goes out: its groups may come back to who knows nothing but the last checkpoint."""
        with self._lock:
            levels = dict(self._levels)
        write_whole(path, msgspec.json.encode(levels))

    def load_levels(self, path: Path) -> None:
        """Those of versions that went out after the checkpoint."""
        with self._lock:
            self._know(msgspec.json.decode(path.read_bytes(), type=dict[int, int]))

    def _know(self, levels: Mapping[int, int]) -> None:
        self._levels |= {version: level for version, level in levels.items() if level in self._curriculum.levels}


def _key(level: int) -> bytes:
    """For the evaluator, each level is a proposer of its own: what is unsolvable is a level, not all that this trainer proposes."""
    return level.to_bytes(32, "little")
