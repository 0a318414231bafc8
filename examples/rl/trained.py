"""Where the weights that are trained lie: in this process, or in shards over several of them (`ranks.Lead`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import thinwire
from examples.rl.averaging import averaging
from examples.rl.config import Config, ConfigError
from examples.rl.learner import Learner, Shares, Update
from examples.rl.loss import GRPO
from examples.rl.policy import Policy, policy
from examples.rl.rollout import RolloutGroup

BETAS = (0.9, 0.95)


class RankError(RuntimeError):
    """Ranks of one trainer can go on only together, and one of them is gone."""


class Trained(Protocol):
    """What a trainer asks of the weights; `policy` is whole, samples, and is what is trained as of the last `refresh`."""

    policy: Policy

    def begin(self, reference: Policy | None = None) -> None:
        """Train from what `policy` is now; `reference` is what `train.kl` keeps to."""
        ...

    def update(self, groups: Sequence[RolloutGroup]) -> Update:
        """See `Learner.update`."""
        ...

    def counted(self, before: int) -> int:
        """Updates so far, of which there were `before` until the last `update`. Of several learners each counts on from those whose weights
        it took: a step that only took them is none."""
        ...

    def refresh(self) -> None:
        """Make `policy` what is trained now."""
        ...

    def named(self) -> Mapping[str, Tensor]:
        """Whole parameters to publish."""
        ...

    def optimizer_state(self) -> dict[str, Any]:
        """Its `state_dict`, with whole tensors."""
        ...

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of `optimizer_state`, of any number of ranks."""
        ...

    def close(self) -> None:
        """Nothing is trained any more."""
        ...


class Alone:
    """One process: what samples is what is trained."""

    def __init__(self, policy: Policy, optimizer: Optimizer, config: Config) -> None:
        self.policy, self.optimizer, self._config = policy, optimizer, config
        self._learner: Learner | None = None

    def begin(self, reference: Policy | None = None) -> None:
        self._learner = learner(self.policy, self.optimizer, self._config, reference=reference)

    def update(self, groups: Sequence[RolloutGroup]) -> Update:
        assert self._learner is not None
        return self._learner.update(groups)

    def counted(self, before: int) -> int:
        return self.optimizer.global_step if isinstance(self.optimizer, thinwire.DiLoCo) else before + 1

    def refresh(self) -> None:
        pass

    def named(self) -> Mapping[str, Tensor]:
        return dict(self.policy.module.named_parameters())

    def optimizer_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)

    def close(self) -> None:
        if isinstance(self.optimizer, thinwire.DiLoCo):
            self.optimizer.close()


def alone(config: Config, group: Any = None, *, log: Path | None = None) -> Alone:
    """What one process trains, averaged with the other learners of `group` if there is one; `log` gets a line a round."""
    own = policy(config.task.policy, seed=config.seed, device=config.task.device)
    optimizer: Optimizer = adamw(own.module, config)
    if group is not None:
        learners = config.learners
        visible = torch.bfloat16 if learners.visible else None
        how: dict[str, Any] = {"sync_every": learners.sync_every, "codec": learners.codec, "visible": visible, "log": log}
        optimizer = averaging(optimizer, group=group, **how)
    return Alone(own, optimizer, config)


def adamw(module: nn.Module, config: Config) -> AdamW:
    """The optimizer of a run."""
    return AdamW(module.parameters(), lr=config.train.lr, betas=BETAS, weight_decay=0.0)


def learner(
    trained: Policy, optimizer: Optimizer, config: Config, *, reference: Policy | None = None, shares: Shares | None = None
) -> Learner:
    """The learner of a run."""
    train = config.train
    return Learner(
        trained,
        optimizer,
        options=GRPO(clip_low=train.clip_low, clip_high=train.clip_high, delta=train.clip_ratio, kl=train.kl),
        micro_batch=train.micro_batch,
        temperature=config.task.temperature,
        reference=reference,
        shares=shares,
    )


def check(config: Config) -> None:
    """Raise `ConfigError` for a run that several ranks cannot train."""
    if config.learners.count > 1 and config.learners.average:
        raise ConfigError(
            "learners that average are one process each: every shard would be a swarm of its own, and swarms decide for themselves which "
            "round counts, so one learner's shards could be of different rounds; share rollouts instead (learners.average = false), or "
            "start this trainer without torchrun"
        )
    if config.train.kl:
        raise ConfigError(f"train.kl is {config.train.kl}: a reference is not sharded; set it to 0, or start this trainer without torchrun")
