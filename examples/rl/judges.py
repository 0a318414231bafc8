"""Rewards by judgement: each judge puts the answers of a group in order, and the clipped median of the orders is the reward.

A verifier says right or wrong; where there is none, judges compare (RLAIF; Fraction AI's spaces: agents answer the same task and earn by
rank). Scores of different judges have no common scale, so each judge's are turned into ranks in [0, 1] within the group; equal scores
share a rank. The stake-weighted median of the ranks (`examples.rl.yuma.consensus`) then ignores any minority, however loud. The mean of
raw scores, the baseline here, is whatever the loudest judge wants.

A judge that fails, or gives anything but one finite number for each answer, abstains: its stake does not count for that group. Where those
left have less than half of all stake nobody has judged: `JudgementError`.
"""

from __future__ import annotations

import json
import math
import random
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from examples.rl.environment import Environment, Task
from examples.rl.yuma import consensus

MAX_ANSWER_NBYTES = 1 << 20


class JudgementError(RuntimeError):
    """A judge that cannot judge, or too few that did."""


class Judge(Protocol):
    """Anything that can tell better answers from worse."""

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        """One number for each text, higher is better, on a scale of its own; may raise `JudgementError`."""
        ...


@dataclass(frozen=True)
class VerifierJudge:
    """What the environment itself says."""

    environment: Environment

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        return [self.environment.reward(task, text) for text in texts]


@dataclass(frozen=True)
class NoisyJudge:
    """Another judge that sees badly: normal noise of `deviation` on each score, the same for the same (seed, task, text)."""

    judge: Judge
    deviation: float
    seed: int = 0

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        scores = self.judge.score(task, texts)
        noise = (random.Random(f"{self.seed} {task.seed} {i} {text}").gauss(0, self.deviation) for i, text in enumerate(texts))
        return [score + error for score, error in zip(scores, noise, strict=True)]


@dataclass(frozen=True)
class AdversarialJudge:
    """The opposite of another judge, shouted."""

    judge: Judge
    loudness: float = 1e3

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        return [-self.loudness * score for score in self.judge.score(task, texts)]


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Reply(msgspec.Struct):
    choices: list[_Choice]


_REPLY = msgspec.json.Decoder(_Reply)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
INSTRUCTION = "You grade one answer to a task. Reply with one number from 0 (worthless) to 10 (perfect) and nothing else."


@dataclass(frozen=True)
class HttpJudge:
    """A language model behind an OpenAI-compatible `url` (".../v1"), asked for a grade from 0 to 10, once for each text.

    The text is an applicant's: it may ask for a good grade. That is why one judge never decides.
    """

    url: str
    model: str
    token: str = ""
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"HttpJudge.url is {self.url!r}; give one like http://127.0.0.1:8000/v1")

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        return [self._grade(task.prompt, text) for text in texts]

    def _grade(self, prompt: str, text: str) -> float:
        asked = json.dumps({"task": prompt, "answer": text})
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": asked}]
        body = {"model": self.model, "temperature": 0, "max_tokens": 8, "messages": messages}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                data = response.read(MAX_ANSWER_NBYTES + 1)
            said = _REPLY.decode(data).choices[0].message.content
        except (OSError, ValueError, msgspec.MsgspecError, IndexError, RecursionError) as error:  # HTTPError and timeouts are OSErrors
            raise JudgementError(f"{self.model} at {self.url}: {type(error).__name__}: {error}") from None
        numbers = _NUMBER.findall(said)
        if len(numbers) != 1 or not 0 <= float(numbers[0]) <= 10:
            raise JudgementError(f"{self.model} at {self.url} gave no grade from 0 to 10: {said[:80]!r}")
        return float(numbers[0])


def ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """Places in the group from 0 (worst) to 1 (best), equal scores sharing the mean of theirs; a group of one has 0.5.

    >>> ranks([3.0, 9.0, 3.0]).tolist()
    [0.25, 1.0, 0.25]
    """
    values = np.asarray(scores, np.float64)
    if len(values) == 1:
        return np.array([0.5])
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1) - 1
    places: NDArray[np.float64] = (below + equal / 2) / (len(values) - 1)
    return places


class Panel:
    """Several judges with a stake each. `counts` says how often a judge abstained, by its place."""

    def __init__(self, judges: Sequence[Judge], stakes: Sequence[float] | None = None, *, kappa: float = 0.5) -> None:
        self._judges = tuple(judges)
        self._stakes = np.asarray([1.0] * len(self._judges) if stakes is None else stakes, np.float64)
        if not self._judges or self._stakes.shape != (len(self._judges),) or not bool(np.all(self._stakes > 0)):
            raise ValueError(f"{len(self._judges)} judges with stakes {self._stakes.tolist()}; give each one above 0")
        if not np.isfinite(self._stakes).all() or not 0 < kappa <= 1:
            raise ValueError(f"stakes {self._stakes.tolist()} with kappa {kappa}; finite stakes, and a kappa in (0, 1]")
        self._kappa = kappa
        self.counts: Counter[int] = Counter()

    def rewards(self, task: Task, texts: Sequence[str]) -> list[float]:
        """In [0, 1], one for each text; raises `JudgementError` when judges with half of the stake or more abstain."""
        stakes, scores = self.scores(task, texts)
        return [float(value) for value in consensus(stakes, np.stack([ranks(row) for row in scores]), self._kappa)]

    def mean_rewards(self, task: Task, texts: Sequence[str]) -> list[float]:
        """The stake-weighted mean of the raw scores, for comparison only: one liar decides it."""
        stakes, scores = self.scores(task, texts)
        return [float(value) for value in stakes @ scores / stakes.sum()]

    def scores(self, task: Task, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Stakes `(judges,)` and raw scores `(judges, texts)` of those who judged."""
        if not texts:
            raise ValueError("no texts to judge; give at least one")
        heard = [(stake, row) for i, stake in enumerate(self._stakes) if (row := self._ask(i, task, texts)) is not None]
        stakes = np.asarray([stake for stake, _ in heard])
        if 2 * stakes.sum() <= self._stakes.sum():
            raise JudgementError(f"judges with {stakes.sum():g} of {self._stakes.sum():g} stake have judged; more than half is needed")
        return stakes, np.asarray([row for _, row in heard], np.float64)

    def _ask(self, i: int, task: Task, texts: Sequence[str]) -> list[float] | None:
        try:
            row = self._judges[i].score(task, texts)
        except JudgementError:
            row = []
        if len(row) == len(texts) and all(math.isfinite(value) for value in row):
            return row
        self.counts[i] += 1
        return None
