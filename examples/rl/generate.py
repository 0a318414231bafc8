"""From a sampler and tasks to groups of rollouts, and what whoever receives a group makes of it before training."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch

from examples.rl.environment import Environment, Task, task_seed
from examples.rl.policy import Policy, Sample, Sampler
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


def rescored(group: RolloutGroup, environment: Environment, task: Task) -> RolloutGroup:
    """The group with the rewards that its texts deserve, whatever it says they are."""
    return msgspec.structs.replace(group, rewards=tuple(environment.reward(task, one.text) for one in group.completions))


def adopted(group: RolloutGroup, policy: Policy, *, temperature: float = 1.0) -> RolloutGroup:
    """A foreign group in this policy's own tokens: itself when the vocabularies are the same, else re-encoded from its texts.

    Re-encoded completions get this policy's own log-probs, as if it had sampled them now (SAPO, arXiv:2509.08721, section 3): there is
    nothing else to compare with, and it is worse than the sampler's log-probs. Raises `RolloutError` for a text that this vocabulary
    cannot say.
    """
    if group.tokenizer == policy.tokenizer.digest:
        return group
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
    with torch.no_grad():
        likely = policy.logprobs([prompt] * len(told), told, temperature=temperature).logprobs.clamp(-65504.0, 0.0).cpu().numpy()
    completions = tuple(
        Completion.of(np.asarray(ids), row[: len(ids)], finished=one.finished, text=one.text)
        for ids, row, one in zip(told, likely, group.completions, strict=True)
    )
    prompt_ids = np.asarray(prompt, "<u4").tobytes()
    return msgspec.structs.replace(group, tokenizer=policy.tokenizer.digest, prompt_ids=prompt_ids, completions=completions)
