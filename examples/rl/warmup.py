"""A start for reinforcement learning: fine-tuning on demonstrations most of which are wrong, so that the policy can and mostly does not."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch

from examples.rl.policy import Policy
from examples.rl.tasks import Demonstrator, number_of


@dataclass(frozen=True)
class Warmup:
    """400 steps of 64 demonstrations, 30 % of them right, teach 5-digit sorting to a sampled accuracy of about 0.10."""

    steps: int = 400
    batch: int = 64
    lr: float = 2e-3
    right: float = 0.3

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.lr <= 0 or not 0 <= self.right <= 1:
            raise ValueError(f"{self}; steps >= 0, batch >= 1, lr > 0 and right in [0, 1]")


def warm_up(policy: Policy, environment: Demonstrator, *, seed: int, options: Warmup = Warmup()) -> list[float]:
    """Train `policy` in place with AdamW; the loss of each step in nats a token. What it sees follows from `seed`."""
    random = Random(seed)
    optimizer = torch.optim.AdamW(policy.module.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step in range(options.steps):
        tasks = [environment.task(number_of("warm-up", (seed << 40) + step * options.batch + i, 1 << 64)) for i in range(options.batch)]
        answers = [environment.demonstrate(task, random, right=options.right) for task in tasks]
        encode = policy.tokenizer.encode
        told = policy.logprobs([encode(task.prompt) for task in tasks], [encode(answer) for answer in answers])
        loss = -told.logprobs.sum() / told.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
