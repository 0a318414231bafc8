"""Which tasks are worth solving: a proposer that looks for the level where half of the answers are right, an evaluator that finds liars.

RL Swarm (Gensyn) has three roles. A solver answers tasks and learns. A proposer chooses them: a task that all or none solve has no
advantage and teaches nothing, so its reward is highest where half are solved, 1 - |2 rate - 1|. An evaluator makes sure that what is
proposed can be solved at all: it checks the answer of the proposer before anybody works, and what came of it after.

The proposer here is a discounted Thompson sampler. For each level it keeps how many answers were right and wrong, all multiplied by
`discount` each round, since solvers learn. Who answers right would have done so at any lower level, and who answers wrong would have
failed at any higher one, so these count there in full; the other way round they count the less the further the levels are apart. Each
round it draws a solve rate for every level from Beta(1 + right, 1 + wrong) and proposes the level whose draw is nearest to a half.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from examples.rl.environment import Environment, Task


class Levels(Protocol):
    """A family of environments, the harder the higher the level."""

    @property
    def levels(self) -> range: ...

    def at(self, level: int) -> Environment:
        """The environment of a level in `levels`."""
        ...


def usefulness(solve_rate: float) -> float:
    """1 where half of the answers are right, 0 where all or none are."""
    return 1.0 - abs(2.0 * solve_rate - 1.0)


class DifficultyBandit:
    """The proposer. `reach` is how much of a right answer counts for the next higher level, its square for the one after that."""

    def __init__(self, levels: Sequence[int], *, discount: float = 0.7, reach: float = 0.7, weight: float = 16.0, seed: int = 0) -> None:
        if len(levels) == 0 or not 0 < discount < 1 or not 0 <= reach < 1 or weight <= 0:
            raise ValueError(
                f"{len(levels)} levels, discount={discount}, reach={reach}, weight={weight}; give at least one level, "
                "a discount in (0, 1), a reach in [0, 1) and a weight above 0"
            )
        self._levels = tuple(levels)
        self._discount, self._reach, self._weight = discount, reach, weight
        self._right = dict.fromkeys(self._levels, 0.0)
        self._wrong = dict.fromkeys(self._levels, 0.0)
        self._random = random.Random(seed)

    def propose(self) -> int:
        """The level for the next round."""
        return min(self._levels, key=self._distance)

    def _distance(self, level: int) -> float:
        return abs(self._random.betavariate(1 + self._right[level], 1 + self._wrong[level]) - 0.5)

    def learn(self, level: int, solve_rate: float) -> None:
        """What came of a round; raises `ValueError` for a level that is not offered or a rate outside [0, 1]."""
        if level not in self._right or not 0 <= solve_rate <= 1:
            raise ValueError(f"solve rate {solve_rate} at level {level}; give a rate in [0, 1] and one of the levels {self._levels}")
        for other in self._levels:
            right = self._weight * self._reach ** max(0, other - level) * solve_rate
            wrong = self._weight * self._reach ** max(0, level - other) * (1 - solve_rate)
            self._right[other] = self._discount * self._right[other] + right
            self._wrong[other] = self._discount * self._wrong[other] + wrong


class ProposalError(ValueError):
    """Tasks that nobody is asked to solve; `reason` is a word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Proposal:
    """Tasks of one proposer, each with an answer that it says is right."""

    proposer: bytes
    environment: str
    level: int
    tasks: tuple[Task, ...]


@dataclass
class _Record:
    """What came of a proposer's tasks of late."""

    solved: float = 0.0
    attempts: float = 0.0
    solvers: set[bytes] = field(default_factory=set)
    refused: bool = False


class Evaluator:
    """Admits proposals, and refuses proposers whose tasks cannot be solved.

    One whose answers the environment does not take itself is refused at once ("unverifiable"). Answers may also be right and of no use, to
    a task that gives no way to find them: when `attempts` attempts of at least `solvers` solvers have solved less than `hopeless`, the
    proposer is refused until `forgive` is called ("unsolvable"). A single solver that answers nothing convicts nobody.
    """

    def __init__(
        self,
        environments: dict[str, Environment],
        *,
        attempts: int = 64,
        solvers: int = 3,
        hopeless: float = 0.01,
        at_most: int = 64,
        proposers: int = 1024,
    ) -> None:
        if min(attempts, solvers, at_most, proposers) < 1 or not 0 < hopeless < 1:
            raise ValueError(f"attempts={attempts}, solvers={solvers}, at_most={at_most}, proposers={proposers}; all at least 1")
        self._environments = environments
        self._attempts, self._solvers, self._hopeless, self._at_most, self._capacity = attempts, solvers, hopeless, at_most, proposers
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def admit(self, proposal: Proposal) -> tuple[Task, ...]:
        """The tasks to solve; raises `ProposalError`."""
        reason, detail = self._objection(proposal)
        if reason:
            self.counts[reason] += 1
            raise ProposalError(reason, detail)
        return proposal.tasks

    def _objection(self, proposal: Proposal) -> tuple[str, str]:
        record = self._records.get(proposal.proposer)
        environment = self._environments.get(proposal.environment)
        if record is not None and record.refused:
            return "unsolvable", "nobody has solved what this proposer gave"
        if environment is None:
            return "environment", repr(proposal.environment[:64])
        if not 1 <= len(proposal.tasks) <= self._at_most:
            return "size", f"{len(proposal.tasks)} tasks, 1 to {self._at_most}"
        if any(environment.reward(task, task.answer) < 1 for task in proposal.tasks):
            return "unverifiable", "an answer that its own environment does not take"
        return "", ""

    def learn(self, proposal: Proposal, solver: bytes, solve_rate: float, attempts: int) -> None:
        """What one solver made of admitted tasks: a share in [0, 1] of its attempts."""
        if not 0 <= solve_rate <= 1 or attempts < 1:
            raise ValueError(f"solve rate {solve_rate} of {attempts} attempts; a share in [0, 1] of at least one")
        record = self._records.setdefault(proposal.proposer, _Record())
        self._records.move_to_end(proposal.proposer)
        record.solved += solve_rate * attempts
        record.attempts += attempts
        if len(record.solvers) < self._solvers:
            record.solvers.add(solver)
        if record.attempts >= self._attempts and len(record.solvers) >= self._solvers:
            record.refused |= record.solved < self._hopeless * record.attempts
            record.solved, record.attempts, record.solvers = 0.0, 0.0, set()
        self._make_room()

    def refused(self, proposer: bytes) -> bool:
        """Whether nothing of this proposer is admitted."""
        return proposer in self._records and self._records[proposer].refused

    def forgive(self, proposer: bytes) -> None:
        """Let a proposer start anew."""
        self._records.pop(proposer, None)

    def _make_room(self) -> None:
        """Forget who was not heard of for longest, and the refused last: a flood of keys frees no liar."""
        while len(self._records) > self._capacity:
            oldest = next((key for key, record in self._records.items() if not record.refused), next(iter(self._records)))
            del self._records[oldest]
