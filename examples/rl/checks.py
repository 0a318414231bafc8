"""The cheap checks of a group, in their order: each is cheaper than the next, and all of them than one prefill.

A group that `unseal` has passed is whole and signed; here it is asked whether its worker may have sent it. A refusal is a `RolloutError`
whose reason is one of `REASONS`, and is counted. A reward that differs from the one computed here is no refusal: it is counted against the
worker (`Checked.false_rewards`), and what is computed here is used; with judges (`examples.rl.rewards`) there is nothing to compare.

Numbers of groups. Whoever may leave numbers out picks its tasks: it makes ten groups, keeps the one it likes and calls the others lost. So
the numbers that a worker has left out, over all versions that still count, are at most `spare` and a quarter of those it has used: what a
lossy link costs an honest worker, and all that a picker gains. A group that comes too late or never is a number left out; a number comes
back in when its group does, so the order does not matter. A number is used once, whatever becomes of its group in later checks.

Copies. Short completions of a good policy are alike by chance, so equal tokens are no proof. Two that sample on their own say the same with
probability exp(-surprise), surprise being minus the sum of the log-probs; above `surprise` nats chance is out of the question. Who claims
log-probs near 0 to hide a copy is found by their drift from the verifier's own.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from examples.rl.environment import Environment, Task, task_seed
from examples.rl.policy import Tokenizer
from examples.rl.rewards import BY_ENVIRONMENT, Rewards
from examples.rl.rollout import Completion, RolloutError, RolloutGroup

# What each refusal says about its worker: "hard" is a lie, or so good as one; "rare" happens to the honest once in thousands of chunks;
# "soft" happens to the honest; "none" is not its doing.
REASONS: Mapping[str, str] = {
    "stale": "soft",
    "future": "hard",
    "environment": "soft",
    "crowded": "soft",
    "replay": "hard",
    "skipping": "soft",
    "prompt": "hard",
    "text": "hard",
    "termination": "hard",
    "copy": "hard",
    "surprise": "hard",
    "drift": "rare",
    "activations": "rare",  # these and the next are a verifier's
    "commitment": "hard",
    "no proof": "hard",
    "malformed": "hard",
    "other task": "hard",
    "unprovable": "none",
    "unjudged": "none",  # by judges, too few of whom could be asked
}
DRIFT_NATS = 0.1  # mean absolute difference between claimed and own log-probs (GRAIL; notes 1.7)


@dataclass(frozen=True)
class Checked:
    """A group that may be trained on. `rewards` are computed here; without `same_tokens` only its texts are of use."""

    group: RolloutGroup
    task: Task
    rewards: tuple[float, ...]
    false_rewards: int
    same_tokens: bool
    age: int
    scores: Mapping[int, float] = field(default_factory=dict)  # see `rewards.Judged`


@dataclass(frozen=True)
class CheckLimits:
    """How far a worker is trusted, and how much is remembered (entries, not bytes: about 100 bytes each)."""

    max_staleness: int = 4
    completion_tokens: int = 4096  # what sampling stops at: a completion that is not finished has exactly so many
    spare: int = 4  # numbers that a worker may leave out
    groups: int = 4096  # of a worker under one version
    workers: int = 4096
    copies: int = 1 << 16
    reward_tolerance: float = 1e-6
    surprise: float = 20.0  # nats
    lowest_logprob: float = -30.0  # nats: no sampler draws what has probability 1e-13

    def __post_init__(self) -> None:
        for name in ("completion_tokens", "groups", "workers", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"CheckLimits.{name} is {getattr(self, name)}; at least 1")
        if self.max_staleness < 0 or self.spare < 0:
            raise ValueError(f"CheckLimits: max_staleness={self.max_staleness}, spare={self.spare}; neither may be negative")


class Checks:
    """The checks of one run; `head` in `check` is the newest version that is published. Not thread-safe.

    `environments(version, name)` is the environment of that name, or None where the tasks of that version are not of it.
    """

    def __init__(
        self,
        run: str,
        environments: Callable[[int, str], Environment | None],
        tokenizer: Tokenizer,
        limits: CheckLimits = CheckLimits(),
        *,
        rewards: Rewards = BY_ENVIRONMENT,
    ) -> None:
        self.counts: Counter[str] = Counter()  # refusals by reason, and "false reward"
        self._run, self._environments, self._tokenizer, self._limits, self._rewards = run, environments, tokenizer, limits, rewards
        self._numbers = Numbers(limits)
        self._copies = Copies(limits.copies)

    def check(self, group: RolloutGroup, *, head: int) -> Checked:
        """Raise `RolloutError` unless the group may be trained on at `head`."""
        try:
            checked = self._check(group, head)
        except RolloutError as error:
            self.counts[error.reason] += 1
            raise
        self.counts["false reward"] += checked.false_rewards
        return checked

    def _check(self, group: RolloutGroup, head: int) -> Checked:
        age = check_age(group, head, self._limits.max_staleness)
        environment = self._environments(group.version, group.environment)
        if environment is None:
            raise RolloutError("environment", f"{group.environment!r} is not that of version {group.version}")
        self._numbers.use(group.worker, group.version, group.n, oldest=head - self._limits.max_staleness)
        task = environment.task(task_seed(self._run, group.worker, group.version, group.n))
        if group.prompt != task.prompt:
            raise RolloutError("prompt", "not that of its seed")
        same_tokens = group.tokenizer == self._tokenizer.digest
        if same_tokens:
            self._check_tokens(group)
        self._check_copies(group)
        check_logprobs(group, self._limits.lowest_logprob)
        judged = self._rewards.of(environment, task, [completion.text for completion in group.completions])
        false = sum(abs(own - told) > self._limits.reward_tolerance for own, told in zip(judged.rewards, group.rewards, strict=True))
        return Checked(group, task, judged.rewards, false if self._rewards.comparable else 0, same_tokens, age, judged.scores)

    def _check_tokens(self, group: RolloutGroup) -> None:
        if group.prompt_tokens.tolist() != self._tokenizer.encode(group.prompt):
            raise RolloutError("prompt", "tokens that are not those of its text")
        for completion in group.completions:
            check_termination(completion, self._tokenizer.end, self._limits.completion_tokens)
            if int(completion.tokens.max()) >= self._tokenizer.size:  # some tokenizers decode it to nothing; a model would fail
                raise RolloutError("text", f"a token id that is not below {self._tokenizer.size}")
            try:
                text = self._tokenizer.decode(completion.tokens.tolist())
            except (ValueError, LookupError) as error:  # an id that the vocabulary has not
                raise RolloutError("text", repr(error)) from None
            if text != completion.text:
                raise RolloutError("text", "not that of its tokens")

    def _check_copies(self, group: RolloutGroup) -> None:
        """All digests are compared before any is remembered: a copy leaves no trace of its worker."""
        digests = [digest for digest, surprise in prints(group) if surprise >= self._limits.surprise]
        if any(self._copies.owner(digest, group.worker) != group.worker for digest in digests):
            raise RolloutError("copy", "another worker has sent these tokens")
        for digest in digests:
            self._copies.remember(digest, group.worker)


def check_age(group: RolloutGroup, head: int, max_staleness: int) -> int:
    """How many versions old the group is."""
    age = head - group.version
    if age < 0:
        raise RolloutError("future", f"version {group.version}, and the newest is {head}")
    if age > max_staleness:
        raise RolloutError("stale", f"{age} versions old, at most {max_staleness}")
    return age


def check_termination(completion: Completion, end: int, at_most: int) -> None:
    """The end token is the last of a finished completion and nowhere else; one that is not finished fills its length."""
    tokens = completion.tokens
    ends = np.flatnonzero(tokens == end)
    if completion.finished:
        if ends.tolist() != [len(tokens) - 1] or len(tokens) > at_most:
            raise RolloutError("termination", "finished, but the end token is not its last and only one")
        return
    if len(ends) or len(tokens) != at_most:
        raise RolloutError("termination", f"stopped after {len(tokens)} of {at_most} tokens with no end token")


def check_logprobs(group: RolloutGroup, lowest: float) -> None:
    """Log-probs that no sampler draws: they would blow up importance weights. Above 0 and NaN are refused by `unseal`."""
    for completion in group.completions:
        if float(completion.behaviour.min()) < lowest:
            raise RolloutError("surprise", f"a token of log-prob {completion.behaviour.min():.1f}, at least {lowest:.1f}")


def drift(claimed: ArrayLike, own: ArrayLike) -> float:
    """Mean absolute difference in nats between a worker's log-probs and the verifier's own; infinite unless all are finite."""
    claimed, own = np.asarray(claimed, np.float64), np.asarray(own, np.float64)
    if claimed.shape != own.shape or claimed.size == 0:
        raise ValueError(f"drift between {claimed.shape} and {own.shape} log-probs; give those of the same tokens, at least one")
    mean = float(np.abs(claimed - own).mean())
    return mean if np.isfinite(mean) else float("inf")


def check_drift(claimed: ArrayLike, own: ArrayLike, at_most: float = DRIFT_NATS) -> float:
    """The drift; raises `RolloutError` above `at_most`."""
    nats = drift(claimed, own)
    if nats > at_most:
        raise RolloutError("drift", f"{nats:.3f} nats, at most {at_most}")
    return nats


def prints(group: RolloutGroup) -> Iterator[tuple[bytes, float]]:
    """Digests of the tokens of each completion and of all together, each with its surprise in nats."""
    whole, surprise = hashlib.sha256(), 0.0
    for completion in group.completions:
        digest = hashlib.sha256(completion.ids).digest()[:16]
        nats = -float(completion.behaviour.sum())
        yield digest, nats
        whole.update(digest)
        surprise += nats
    yield whole.digest()[:16], surprise


class Copies:
    """Who sent what first: at most `capacity` digests, the oldest forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._owners: OrderedDict[bytes, bytes] = OrderedDict()

    def owner(self, digest: bytes, default: bytes) -> bytes:
        return self._owners.get(digest, default)

    def remember(self, digest: bytes, worker: bytes) -> None:
        self._owners.setdefault(digest, worker)
        while len(self._owners) > self._capacity:
            self._owners.popitem(last=False)

    def __len__(self) -> int:
        return len(self._owners)


@dataclass
class _Used:
    """One bit for each number that a worker has used, by version."""

    versions: dict[int, int] = field(default_factory=dict)

    def left_out(self) -> int:
        return sum(bits.bit_length() - bits.bit_count() for bits in self.versions.values())

    def count(self) -> int:
        return sum(bits.bit_count() for bits in self.versions.values())


class Numbers:
    """Which numbers each worker has used under each version that still counts. A table that is full takes no new worker until one has
    nothing left in the window, so that fresh keys push nobody out."""

    def __init__(self, limits: CheckLimits) -> None:
        self._limits = limits
        self._workers: dict[bytes, _Used] = {}
        self._oldest = 0

    def use(self, worker: bytes, version: int, n: int, *, oldest: int) -> None:
        """Raise `RolloutError` unless the worker may send its `n`th group of `version` now."""
        self._forget(oldest)
        used = self._workers.get(worker, _Used())
        if worker not in self._workers and len(self._workers) >= self._limits.workers:
            raise RolloutError("crowded", f"{len(self._workers)} workers are known already")
        bits = used.versions.get(version, 0)
        if n >= self._limits.groups:
            raise RolloutError("skipping", f"group {n}, below {self._limits.groups}")
        if bits >> n & 1:
            raise RolloutError("replay", f"group {n} of version {version}")
        after = _Used({**used.versions, version: bits | 1 << n})
        if after.left_out() > self._limits.spare + after.count() // 4:
            raise RolloutError("skipping", f"group {n} leaves out {after.left_out()} numbers with {after.count()} used")
        self._workers[worker] = after

    def _forget(self, oldest: int) -> None:
        if oldest <= self._oldest:
            return
        self._oldest = oldest
        kept = {worker: {v: bits for v, bits in used.versions.items() if v >= oldest} for worker, used in self._workers.items()}
        self._workers = {worker: _Used(versions) for worker, versions in kept.items() if versions}
