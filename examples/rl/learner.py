"""One update of a policy from groups of rollouts; any torch optimizer steps, `thinwire.DiLoCo` among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from examples.rl.loss import GRPO, Tally, advantages, informative, policy_loss, sequence_weights
from examples.rl.policy import Policy
from examples.rl.rollout import RolloutError, RolloutGroup


@dataclass(frozen=True)
class Update:
    """What an update did. `stepped`: the weights moved; not when no group was informative, or the gradient not finite (`finite`).
    `numbers`: see `Tally.numbers`, and `grad_norm` before clipping and the mean `reward` of all groups."""

    groups: int
    used: int  # with rewards that differ
    tokens: int
    stepped: bool
    finite: bool
    numbers: dict[str, float]


class Learner:
    """Trains `policy` in place.

    - `optimizer`: of the policy's parameters. Its `step` is called once an update also when there is nothing to learn, with no gradients:
      learners that synchronise every so many steps stay in step.
    - `micro_batch`: completions in one forward pass; changes the memory, and the result only by rounding.
    - `temperature`: of the samplers.
    - `reference`: the policy that `options.kl` keeps to.

    Rewards are taken as they are: whoever puts groups in has computed them again (`generate.rescored`).

    >>> from examples.rl.policy import policy
    >>> tiny = policy("tiny")
    >>> learner = Learner(tiny, torch.optim.AdamW(tiny.module.parameters(), lr=3e-4))
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: Optimizer,
        *,
        options: GRPO = GRPO(),
        micro_batch: int = 256,
        max_grad_norm: float = 1.0,
        temperature: float = 1.0,
        reference: Policy | None = None,
    ) -> None:
        if micro_batch < 1 or not max_grad_norm > 0:
            raise ValueError(f"micro_batch={micro_batch}, max_grad_norm={max_grad_norm}; both are positive")
        if bool(options.kl) != (reference is not None):
            raise ValueError(f"kl={options.kl} {'with' if reference else 'without'} a reference; give both or neither")
        self.policy, self.optimizer, self.options = policy, optimizer, options
        self._micro_batch, self._max_grad_norm, self._temperature, self._reference = micro_batch, max_grad_norm, temperature, reference

    def update(self, groups: Sequence[RolloutGroup]) -> Update:
        """One step from all of them. Raises `RolloutError` for a group of another tokenizer, before anything changes: see
        `generate.adopted`."""
        for group in groups:
            if group.tokenizer != self.policy.tokenizer.digest:
                raise RolloutError("other tokenizer", "re-encode the group first: generate.adopted")
        rows = rows_of(groups, self.options)
        self.optimizer.zero_grad(set_to_none=True)
        tally = Tally()
        if rows.completions:
            weights = sequence_weights(torch.tensor([len(ids) for ids in rows.completions]), self.options)
            for start in range(0, len(rows.completions), self._micro_batch):
                tally.add(self._backward(rows, slice(start, start + self._micro_batch), weights))
        norm = float(nn.utils.clip_grad_norm_(self.policy.module.parameters(), self._max_grad_norm)) if rows.completions else 0.0
        finite = bool(np.isfinite(norm))
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.step()
        numbers = tally.numbers() | {"grad_norm": norm, "reward": rows.reward}
        return Update(len(groups), rows.used, int(tally.tokens), bool(rows.completions) and finite, finite, numbers)

    def _backward(self, rows: Rows, part: slice, weights: Tensor) -> Tally:
        prompts, completions = rows.prompts[part], rows.completions[part]
        told = self.policy.logprobs(prompts, completions, temperature=self._temperature)
        behaviour = torch.zeros(told.mask.shape)
        for row, likely in enumerate(rows.behaviour[part]):
            behaviour[row, : len(likely)] = torch.from_numpy(likely)
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference = self._reference.logprobs(prompts, completions, temperature=self._temperature).logprobs
        to = told.logprobs.device
        loss, tally = policy_loss(
            told.logprobs,
            behaviour.to(to),
            told.mask,
            rows.advantages[part].to(to),
            weights[part].to(to),
            options=self.options,
            entropy=told.entropy,
            reference=reference,
        )
        loss.backward()
        return tally


@dataclass(frozen=True, eq=False)
class Rows:
    """Completions of all groups that count, one after the other; `advantages (n,)`; `reward` is the mean over all groups."""

    prompts: list[list[int]]
    completions: list[list[int]]
    behaviour: list[np.ndarray]
    advantages: Tensor
    used: int
    reward: float


def rows_of(groups: Sequence[RolloutGroup], options: GRPO) -> Rows:
    """Take groups apart; those with equal rewards are left out when `options` say so."""
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    behaviour: list[np.ndarray] = []
    told: list[Tensor] = []
    used = 0
    for group in groups:
        rewards = torch.tensor(group.rewards, dtype=torch.float32)
        useful = informative(rewards)
        used += useful
        if not useful and options.drop_equal:
            continue
        prompt = group.prompt_tokens.tolist()
        prompts += [prompt] * len(group.completions)
        completions += [one.tokens.tolist() for one in group.completions]
        behaviour += [one.behaviour for one in group.completions]
        told.append(advantages(rewards, scale=options.scale))
    reward = float(np.mean([np.mean(group.rewards) for group in groups])) if groups else 0.0
    return Rows(prompts, completions, behaviour, torch.cat(told) if told else torch.zeros(0), used, reward)
