import numpy as np
import pytest
import torch
from msgspec.structs import replace

from examples.rl.environment import task_seed
from examples.rl.generate import adopted, generate, rescored, task_of
from examples.rl.rollout import Limits, RolloutError, RolloutGroup, check_bounds
from examples.rl.tasks import Addition, Sort
from examples.rl.tiny import Tiny

SMALL = {"width": 16, "layers": 1, "heads": 2}
SORT = Sort(3)


def made(policy: Tiny) -> list[RolloutGroup]:
    generator = torch.Generator().manual_seed(0)
    return generate(
        policy, SORT, run="r", worker=bytes(32), version=4, numbers=[7, 8], completions=3, max_new=5, temperature=0.8, generator=generator
    )


def test_groups_are_about_the_tasks_that_their_numbers_say_and_within_the_limits() -> None:
    policy = Tiny(**SMALL)
    groups = made(policy)
    assert [group.n for group in groups] == [7, 8]
    for group in groups:
        check_bounds(group, Limits())
        task = task_of(group, SORT)
        assert task.seed == task_seed("r", bytes(32), 4, group.n)
        assert group.prompt_tokens.tolist() == policy.tokenizer.encode(group.prompt)
        assert len(group.completions) == 3
        assert group.rewards == rescored(group, SORT, task).rewards
        told = policy.logprobs([group.prompt_tokens.tolist()] * 3, [one.tokens.tolist() for one in group.completions], temperature=0.8)
        for row, one in enumerate(group.completions):
            np.testing.assert_allclose(one.behaviour, told.logprobs[row, : len(one.tokens)].detach().numpy(), rtol=2e-3, atol=1e-3)


def test_a_group_about_another_task_is_refused() -> None:
    group = made(Tiny(**SMALL))[0]
    for wrong in (replace(group, n=8), replace(group, version=3), replace(group, prompt="000="), replace(group, environment="sort")):
        with pytest.raises(RolloutError, match="other task"):
            task_of(wrong, SORT)
    with pytest.raises(RolloutError, match="other task"):
        task_of(group, Addition())


def test_a_liars_rewards_change_nothing() -> None:
    group = made(Tiny(**SMALL))[0]
    lying = replace(group, rewards=(1.0, 1.0, 1.0))
    assert rescored(lying, SORT, task_of(lying, SORT)) == rescored(group, SORT, task_of(group, SORT))


def test_groups_of_another_tokenizer_are_read_anew_with_the_readers_own_log_probs() -> None:
    policy = Tiny(**SMALL)
    own = made(policy)[0]
    assert adopted(own, policy) is own
    foreign = replace(
        own, tokenizer=bytes(32), completions=tuple(replace(one, ids=b"\0" * 8, logprobs=b"\0" * 4) for one in own.completions)
    )
    read = adopted(foreign, policy, temperature=0.8)
    assert read.tokenizer == policy.tokenizer.digest
    assert read.prompt_ids == own.prompt_ids
    for mine, one in zip(own.completions, read.completions, strict=True):
        assert mine.ids == one.ids
        assert mine.finished == one.finished
        np.testing.assert_allclose(mine.behaviour, one.behaviour, rtol=3e-3, atol=2e-3)
    check_bounds(read, Limits())


def test_texts_that_cannot_be_said_are_refused() -> None:
    policy = Tiny(**SMALL)
    own = replace(made(policy)[0], tokenizer=bytes(32))
    for text, finished in (("é", True), ("", False)):
        wrong = replace(own, completions=(replace(own.completions[0], text=text, finished=finished), *own.completions[1:]))
        with pytest.raises(RolloutError, match="other tokenizer"):
            adopted(wrong, policy)
    ended = adopted(replace(own, completions=(replace(own.completions[0], text="", finished=True),)), policy)
    assert ended.completions[0].tokens.tolist() == [policy.tokenizer.end]
