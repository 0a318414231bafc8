"""From a sampler and tasks to groups of rollouts, and what whoever receives a group makes of it before training."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch

from examples.rl.environment import Environment, Task, task_seed
from examples.rl.policy import Policy, Sample, Sampler
from examples.rl.rewards import BY_ENVIRONMENT, Rewards
from examples.rl.rollout import Completion, RolloutError, RolloutGroup


def generate(
    sampler: Sampler,
    environment: Environment,
    *,
    run: str,
    worker: bytes,
    version: int,
    numbers: Sequence[int],
    completions: int,
    max_new: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[RolloutGroup]:
    """A group for each of `numbers` (the worker's own count of groups), of weights `version`; rewards are the environment's."""
    tasks = [environment.task(task_seed(run, worker, version, n)) for n in numbers]
    prompts = [sampler.tokenizer.encode(task.prompt) for task in tasks]
    sampled = sampler.sample(prompts, count=completions, max_new=max_new, temperature=temperature, generator=generator)
    return [
        RolloutGroup(
            run=run,
            worker=worker,
            version=version,
            n=n,
            environment=environment.name,
            tokenizer=sampler.tokenizer.digest,
            prompt=task.prompt,
            prompt_ids=np.asarray(prompt, "<u4").tobytes(),
            completions=tuple(_completion(sample) for sample in samples),
            rewards=tuple(environment.reward(task, sample.text) for sample in samples),
        )
        for n, task, prompt, samples in zip(numbers, tasks, prompts, sampled, strict=True)
    ]


def _completion(sample: Sample) -> Completion:
    # float16 ends at -65504, where a token that was drawn all the same would turn to -inf.
    return Completion.of(sample.ids, np.maximum(sample.logprobs, -65504.0), finished=sample.finished, text=sample.text)


def task_of(group: RolloutGroup, environment: Environment) -> Task:
    """The task that the group's worker had to do; raises `RolloutError` when the group is about another one."""
    task = environment.task(task_seed(group.run, group.worker, group.version, group.n))
    if group.environment != environment.name or group.prompt != task.prompt:
        raise RolloutError("other task", f"the prompt is not that of group {group.n} of version {group.version}")
    return task


def rescored(group: RolloutGroup, environment: Environment, task: Task, rewards: Rewards = BY_ENVIRONMENT) -> RolloutGroup:
    """The group with the rewards that its texts deserve, whatever it says they are. Raises `RolloutError` when they cannot be judged."""
    return msgspec.structs.replace(group, rewards=rewards.of(environment, task, [one.text for one in group.completions]).rewards)


def adopted(group: RolloutGroup, policy: Policy, *, temperature: float = 1.0) -> RolloutGroup:
    """A foreign group in this policy's own tokens: itself when the vocabularies are the same, else re-encoded from its texts.

    Completions that are re-encoded, and those that came without log-probs, get this policy's own, as if it had sampled them now (SAPO,
    arXiv:2509.08721, section 3): there is nothing else to compare with, and it is worse than the sampler's log-probs. Raises `RolloutError`
    for a text that this vocabulary cannot say.
    """
    if group.tokenizer == policy.tokenizer.digest:
        return group if all(one.logprobs for one in group.completions) else likely(group, policy, temperature=temperature)
    encode = policy.tokenizer.encode
    try:
        prompt = encode(group.prompt)
        told = [encode(one.text) for one in group.completions]
    except ValueError as error:
        raise RolloutError("other tokenizer", str(error)) from None
    for ids, one in zip(told, group.completions, strict=True):
        if one.finished and (not ids or ids[-1] != policy.tokenizer.end):
            ids.append(policy.tokenizer.end)
    if not prompt or not all(told):
        raise RolloutError("other tokenizer", "a text without any token")
    completions = tuple(
        Completion.of(np.asarray(ids), np.zeros(0), finished=one.finished, text=one.text)
        for ids, one in zip(told, group.completions, strict=True)
    )
    prompt_ids = np.asarray(prompt, "<u4").tobytes()
    said = msgspec.structs.replace(group, tokenizer=policy.tokenizer.digest, prompt_ids=prompt_ids, completions=completions)
    return likely(said, policy, temperature=temperature)


def likely(group: RolloutGroup, policy: Policy, *, temperature: float = 1.0) -> RolloutGroup:
    """The group with this policy's own log-probs of its tokens."""
    told = [one.tokens.tolist() for one in group.completions]
    with torch.no_grad():
        own = policy.logprobs([group.prompt_tokens.tolist()] * len(told), told, temperature=temperature).logprobs
    rows = own.clamp(-65504.0, 0.0).cpu().numpy()
    completions = tuple(
        msgspec.structs.replace(one, logprobs=row[: len(ids)].astype("<f2").tobytes())
        for ids, row, one in zip(told, rows, group.completions, strict=True)
    )
    return msgspec.structs.replace(group, completions=completions)
