import threading
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch.optim import SGD, AdamW

import thinwire
from examples.rl.averaging import averaging
from examples.rl.generate import generate
from examples.rl.learner import Learner
from examples.rl.loss import GRPO
from examples.rl.rollout import Completion, RolloutError, RolloutGroup
from examples.rl.tasks import Sort
from examples.rl.tiny import Tiny, weights_sha256

SMALL = {"width": 16, "layers": 1, "heads": 2}


def groups(policy: Tiny, *, seed: int = 0, count: int = 3, version: int = 0) -> list[RolloutGroup]:
    """Every other completion counts as good: an untrained policy is never right."""
    generator = torch.Generator().manual_seed(seed)
    made = generate(
        policy, Sort(), run="r", worker=bytes(32), version=version, numbers=range(count), completions=4, max_new=4, generator=generator
    )
    return [replace(group, rewards=(1.0, 0.0, 1.0, 0.0)) for group in made]


def learner(policy: Tiny, lr: float = 0.1, **options: Any) -> Learner:
    return Learner(policy, SGD(policy.module.parameters(), lr=lr), **options)


def test_rewarded_completions_become_likelier_and_others_less_likely() -> None:
    policy = Tiny(**SMALL)
    made = groups(policy)
    [prompt, *_] = [made[0].prompt_tokens.tolist()]
    before = policy.logprobs([prompt] * 4, [one.tokens.tolist() for one in made[0].completions]).logprobs.sum(1).detach()
    done = learner(policy).update(made[:1])
    after = policy.logprobs([prompt] * 4, [one.tokens.tolist() for one in made[0].completions]).logprobs.sum(1).detach()
    better = torch.tensor(made[0].rewards) > 0
    assert done.stepped
    assert done.used == 1
    assert 0 < better.sum() < 4
    assert (after - before)[better].mean() > 0 > (after - before)[~better].mean()


def test_micro_batches_change_the_result_only_by_rounding() -> None:
    results = []
    for micro_batch in (1, 5, 256):
        policy = Tiny(**SMALL)
        done = learner(policy, micro_batch=micro_batch).update(groups(policy))
        results.append((done, [p.detach().clone() for p in policy.module.parameters()]))
    for done, parameters in results[1:]:
        assert done.numbers == pytest.approx(results[0][0].numbers, abs=1e-5)
        assert done.tokens == results[0][0].tokens
        for ours, first in zip(parameters, results[0][1], strict=True):
            torch.testing.assert_close(ours, first, atol=1e-6, rtol=1e-4)


def test_what_its_own_weights_have_just_sampled_has_a_ratio_of_one() -> None:
    policy = Tiny(**SMALL)
    numbers = learner(policy).update(groups(policy)).numbers
    assert numbers["ratio_max"] == pytest.approx(1.0, abs=0.01)  # float16 on the wire
    assert 0 <= numbers["mismatch_kl"] < 1e-5
    assert numbers["clipped"] == numbers["capped"] == 0
    assert numbers["entropy"] == pytest.approx(np.log(96), abs=0.1)
    assert 0 < numbers["grad_norm"]


def test_groups_with_equal_rewards_are_dropped_and_nothing_moves_without_any_other() -> None:
    policy = Tiny(**SMALL)
    equal = [replace(group, rewards=(1.0,) * 4) for group in groups(policy)]
    before = weights_sha256(policy.module)
    own = learner(policy)
    done = own.update(equal)
    assert (done.groups, done.used, done.tokens, done.stepped, done.finite) == (3, 0, 0, False, True)
    assert own.update([]).numbers["reward"] == 0.0
    assert weights_sha256(policy.module) == before
    assert done.numbers["reward"] == 1.0
    kept = learner(policy, options=GRPO(drop_equal=False)).update(equal)
    assert kept.tokens > 0
    assert kept.used == 0
    informative = groups(policy)
    one, two = Tiny(**SMALL), Tiny(**SMALL)
    learner(one).update(informative)
    learner(two).update([*equal, *informative])
    assert weights_sha256(one.module) == weights_sha256(two.module)  # the step is not smaller for what was left out


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    policy = Tiny(**SMALL)
    made = groups(policy)
    with torch.no_grad():
        policy.module.norm.weight[0] = torch.nan
    before = [p.detach().clone() for p in policy.module.parameters()]
    done = learner(policy).update(made)
    assert not done.finite
    assert not done.stepped
    assert all(torch.equal(p.nan_to_num(7.0), old.nan_to_num(7.0)) for p, old in zip(policy.module.parameters(), before, strict=True))


def test_groups_of_another_tokenizer_are_refused_before_anything_changes() -> None:
    policy = Tiny(**SMALL)
    made = groups(policy)
    before = weights_sha256(policy.module)
    with pytest.raises(RolloutError, match="re-encode"):
        learner(policy).update([made[0], replace(made[1], tokenizer=bytes(32))])
    assert weights_sha256(policy.module) == before


def test_an_adversary_whose_log_probs_lie_moves_a_token_at_most_delta_times_as_much() -> None:
    def moved(lie: float) -> float:
        policy = Tiny(**SMALL)
        made = groups(policy)[0]
        lying = tuple(
            Completion.of(one.tokens, one.behaviour + np.where(reward > 0, 0, lie), finished=one.finished, text=one.text)
            for one, reward in zip(made.completions, made.rewards, strict=True)
        )
        before = torch.cat([p.detach().flatten() for p in policy.module.parameters()])
        own = learner(policy, max_grad_norm=1e9)
        own.update([replace(made, completions=lying)])
        return float((torch.cat([p.detach().flatten() for p in policy.module.parameters()]) - before).norm())

    assert moved(-1.3) < 4 * moved(0.0)  # a ratio of 3.7
    assert moved(-60.0) < moved(0.0)  # beyond delta there is no gradient at all


def test_a_reference_pulls_the_policy_back() -> None:
    policy, reference = Tiny(**SMALL), Tiny(**SMALL)
    own = Learner(policy, SGD(policy.module.parameters(), lr=0.5), options=GRPO(kl=0.5, drop_equal=False), reference=reference)
    made = groups(policy)
    with torch.no_grad():
        policy.module.embedding.weight.add_(
            0.05 * torch.randn(policy.module.embedding.weight.shape, generator=torch.Generator().manual_seed(1))
        )
    equal = [replace(group, rewards=(0.0,) * 4) for group in made]
    away = [own.update(equal).numbers["kl"] for _ in range(20)]
    assert away[-1] < away[0] / 2
    with pytest.raises(ValueError, match="give both or neither"):
        learner(policy, reference=reference)


@pytest.mark.parametrize("visible", [None, torch.bfloat16])
def test_learners_that_average_stay_in_step_also_when_one_has_nothing_to_learn(visible: torch.dtype | None) -> None:
    world = thinwire.LocalGroup.world(2, timeout_s=60)
    told: dict[int, tuple[str, int]] = {}

    def follow(rank: int) -> None:
        torch.set_num_threads(1)
        policy = Tiny(**SMALL)
        own = Learner(policy, averaging(AdamW(policy.module.parameters(), lr=1e-2), group=world[rank], sync_every=2, visible=visible))
        for update in range(4):
            made = groups(policy, seed=10 * rank + update, version=update)
            own.update(made if (rank, update) != (1, 2) else [replace(group, rewards=(0.0,) * 4) for group in made])
        told[rank] = weights_sha256(policy.module), own.optimizer.stats().rounds  # type: ignore[attr-defined]
        world[rank].leave()

    threads = [threading.Thread(target=follow, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert told[0] == told[1]
    assert told[0][1] == 2
    assert told[0][0] != weights_sha256(Tiny(**SMALL).module)


@pytest.mark.parametrize("wrong", [{"micro_batch": 0}, {"max_grad_norm": 0.0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive"):
        learner(Tiny(**SMALL), **wrong)
