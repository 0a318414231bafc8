"""A trainer over several ranks of torchrun: rank 0 has the network, the buffer and the checkpoint, and tells the others what to do.

    rank 0     order -------------------> the same method on every rank: update, gather, publish, ...
    others     wait for an order, do it

    torchrun --nproc-per-node 2 -m examples.rl trainer --config X.toml

What samples and is measured is a whole copy on rank 0, brought up to date when it is needed: its samples are those of a trainer in one
process, and decoding gathers no layer for every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor

from examples.rl.config import Config
from examples.rl.learner import Update
from examples.rl.policy import Policy, policy
from examples.rl.rollout import RolloutGroup
from examples.rl.sharded import Shards, World
from examples.rl.trained import RankError, adamw, learner

What = Literal["begin", "update", "refresh", "publish", "save", "load", "end"]


class Order(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all ranks do next, and the groups that an update trains on."""

    what: What
    groups: tuple[RolloutGroup, ...] = ()


class Part:
    """A rank's part of what is trained; what `shards` and `learner` do is collective."""

    def __init__(self, world: World, config: Config) -> None:
        self.world = world
        self.policy = policy(config.task.policy, seed=config.seed)
        self.shards = Shards(self.policy.module, world)
        self.optimizer = adamw(self.policy.module, config)
        self.learner = learner(self.policy, self.optimizer, config, shares=self.shards)

    def follow(self) -> None:
        """Do what rank 0 says until it says that it is over. Raises `RankError`."""
        with together():
            while True:
                order = msgspec.msgpack.decode(self.world.hear(), type=Order)
                if order.what == "update":
                    self.learner.update(order.groups)
                elif order.what == "begin":
                    self.shards.spread(None)
                elif order.what == "refresh":
                    self.shards.gather(None)
                elif order.what == "publish":
                    self.shards.rounded()
                elif order.what == "save":
                    self.shards.state_of(self.optimizer)
                elif order.what == "load":
                    self.shards.load_into(self.optimizer, None)
                else:
                    return self.world.leave()


class Lead:
    """Rank 0's part: `trained.Trained` over all ranks. Raises `RankError` when one of them is gone."""

    def __init__(self, world: World, config: Config) -> None:
        self.policy = policy(config.task.policy, seed=config.seed, device=config.task.device)
        self._part = Part(world, config)
        self._stale = self._over = False

    def begin(self, reference: Policy | None = None) -> None:
        assert reference is None  # `trained.check` has refused it
        with self._all("begin"):
            self._part.shards.spread(self.policy.module)

    def update(self, groups: Sequence[RolloutGroup]) -> Update:
        self._part.learner.check(groups)  # here: others could only die of it
        self._stale = True
        with self._all("update", groups):
            return self._part.learner.update(groups)

    def counted(self, before: int) -> int:
        return before + 1

    def refresh(self) -> None:
        if self._stale:
            with self._all("refresh"):
                self._part.shards.gather(self.policy.module)
            self._stale = False

    def named(self) -> dict[str, Tensor]:
        with self._all("publish"):
            return self._part.shards.rounded()

    def optimizer_state(self) -> dict[str, Any]:
        with self._all("save"):
            return self._part.shards.state_of(self._part.optimizer)

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        with self._all("load"):
            self._part.shards.load_into(self._part.optimizer, state)

    def close(self) -> None:
        if not self._over:
            with self._all("end"):
                self._over = True
                self._part.world.leave()

    @contextmanager
    def _all(self, what: What, groups: Sequence[RolloutGroup] = ()) -> Iterator[None]:
        try:
            with together():
                self._part.world.tell(msgspec.msgpack.encode(Order(what, tuple(groups))))
                yield
        except BaseException:
            self._over = True  # in the middle of what others do: they hear no more
            raise


@contextmanager
def together() -> Iterator[None]:
    """Raise `RankError` for what torch says when another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own, but all of them name its source.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        told = str(error).splitlines()[0]
        raise RankError(f"a rank of this trainer is gone; start torchrun again, which goes on from the checkpoint ({told})") from error
