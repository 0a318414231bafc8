"""Run a row in this process: learners are threads where they average, and take turns where they do not."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

import thinwire
from benchmarks.rl.judged import judging
from benchmarks.rl.proposed import course
from benchmarks.rl.rows import Row
from examples.rl.averaging import averaging
from examples.rl.environment import Environment
from examples.rl.evaluate import evaluate
from examples.rl.generate import generate
from examples.rl.learner import Learner
from examples.rl.loss import GRPO
from examples.rl.rollout import RolloutGroup
from examples.rl.tiny import Tiny, weights_sha256

COMPLETIONS = 16  # of a group
LR = 3e-4
EVERY = 10  # updates from one evaluation to the next


@dataclass
class Seen:
    """What a learner has done. `accuracy`: after so many updates; `cpu_s` without evaluation; `sent`: bytes to the other learners."""

    accuracy: dict[int, float] = field(default_factory=dict)
    numbers: list[dict[str, float]] = field(default_factory=list)
    used: int = 0
    groups: int = 0
    cpu_s: float = 0.0
    cpu_at: dict[int, float] = field(default_factory=dict)
    sent_at: dict[int, float] = field(default_factory=dict)
    sent: float = 0.0
    sha256: str = ""


class Place:
    """One learner with its own worker; `step` is an update, in two halves so that groups can be shared in between."""

    def __init__(
        self, row: Row, rank: int, environment: Environment, start: dict[str, Tensor], *, seed: int, lr: float, policy: Tiny
    ) -> None:
        self.row, self.rank, self.environment, self.seen = row, rank, environment, Seen()
        self.policy = policy
        self.policy.module.load_state_dict(start)
        self.optimizer: Optimizer = AdamW(self.policy.module.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self._generator = torch.Generator().manual_seed(1_000 * seed + rank)
        self._run, self._waiting, self._made = f"seed {seed}", deque[list[RolloutGroup]](), 0
        self._judge = judging(row.judged, environment)
        self._course = course(row.proposed, row.family, environment, seed=seed)
        self.version = 0

    def average_with(self, group: thinwire.LocalGroup) -> None:
        assert self.row.codec is not None
        wrap = thinwire.DiLoCo if self.row.nesterov else averaging
        self.optimizer = wrap(self.optimizer, group=group, sync_every=self.row.sync_every, codec=self.row.codec)

    def sample(self) -> list[RolloutGroup]:
        """This update's own groups: those that weights `staleness` updates ago have sampled (the first ones, while there are none)."""
        began = time.thread_time()
        while len(self._waiting) <= self.row.staleness:
            numbers = range(self._made, self._made + self.row.groups)
            self._made += self.row.groups
            groups = generate(
                self.policy,
                self._course.choose(self.version),
                run=self._run,
                worker=bytes([self.rank] * 32),
                version=self.version,
                numbers=numbers,
                completions=COMPLETIONS,
                max_new=self._course.max_new,
                generator=self._generator,
            )
            self._course.hear(self.version, groups)
            self._waiting.append(groups)
        self.seen.cpu_s += time.thread_time() - began
        return self._waiting.popleft()

    def learn(self, groups: list[RolloutGroup]) -> None:
        began = time.thread_time()
        options = GRPO(ratio=self.row.ratio)
        done = Learner(self.policy, self.optimizer, options=options).update([self._judge(group) for group in groups])
        self.version += 1
        self.seen.cpu_s += time.thread_time() - began
        self.seen.numbers.append(done.numbers | self._course.told())
        self.seen.used += done.used
        self.seen.groups += done.groups

    def mark(self) -> None:
        """A point of the curve."""
        if isinstance(self.optimizer, thinwire.DiLoCo):
            self.seen.sent = float(self.optimizer.stats().wire_sent)
        self.seen.accuracy[self.version] = evaluate(self.policy, self.environment, max_new=self._course.max_new)
        self.seen.cpu_at[self.version] = self.seen.cpu_s
        self.seen.sent_at[self.version] = self.seen.sent

    def end(self) -> Seen:
        self.seen.sha256 = weights_sha256(self.policy.module)
        return self.seen


def run(
    row: Row,
    environment: Environment,
    start: dict[str, Tensor],
    *,
    seed: int,
    updates: int = 80,
    every: int = EVERY,
    lr: float = LR,
    policy: Callable[[], Tiny] = Tiny,
) -> list[Seen]:
    """What each learner has seen, from the warm start on; a deterministic function of the arguments."""
    places = [Place(row, rank, environment, start, seed=seed, lr=lr, policy=policy()) for rank in range(row.learners)]
    for place in places:
        place.mark()
    if row.codec is not None:
        return _together(places, updates, every)
    for update in range(1, updates + 1):
        sampled = [place.sample() for place in places]
        for place, own in zip(places, sampled, strict=True):
            others = [group for other, groups in zip(places, sampled, strict=True) if other is not place for group in groups]
            place.learn(own + others[: row.foreign])
            if row.foreign:
                place.seen.sent += sum(len(msgspec.msgpack.encode(group)) for group in own)
            if update % every == 0:
                place.mark()
    return [place.end() for place in places]


def _together(places: list[Place], updates: int, every: int) -> list[Seen]:
    groups = thinwire.LocalGroup.world(len(places), timeout_s=600.0)

    def follow(place: Place, group: thinwire.LocalGroup) -> Seen:
        torch.set_num_threads(1)
        place.average_with(group)
        try:
            for update in range(1, updates + 1):
                place.learn(place.sample())
                if update % every == 0:
                    place.mark()
            return place.end()
        finally:
            group.leave()

    with ThreadPoolExecutor(len(places)) as pool:
        return [each.result() for each in [pool.submit(follow, *pair) for pair in zip(places, groups, strict=True)]]
