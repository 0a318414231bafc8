"""How good a policy is: the mean reward of one sample for each of the same 512 tasks."""

from __future__ import annotations

import torch

from examples.rl.environment import Environment
from examples.rl.policy import Sampler
from examples.rl.tasks import number_of

TASKS = 512  # +-0.02 is one standard error at 0.5
SEED = 20_240_607


def evaluate(
    sampler: Sampler, environment: Environment, *, max_new: int, tasks: int = TASKS, temperature: float = 1.0, seed: int = SEED
) -> float:
    """In [0, 1]; the tasks and the random numbers are the same in every call."""
    asked = [environment.task(number_of("evaluation", seed + (i << 32), 1 << 64)) for i in range(tasks)]
    prompts = [sampler.tokenizer.encode(task.prompt) for task in asked]
    generator = torch.Generator().manual_seed(seed)
    samples = sampler.sample(prompts, count=1, max_new=max_new, temperature=temperature, generator=generator)
    return sum(environment.reward(task, one.text) for task, [one] in zip(asked, samples, strict=True)) / tasks
