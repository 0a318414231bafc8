import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from examples.rl.loss import GRPO, Tally, advantages, policy_loss, sequence_weights
from tests.examples.rl.trl_loss import CASES, GROUP, LONGEST, batch, by_trl

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_grpo.json").read_text())["cases"]
OURS = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}


def ours(loss_type: str, delta: float | None, beta: float, scale: str) -> tuple[Tensor, Tensor, Tensor]:
    data = batch()
    normalise: Any = OURS[loss_type]
    options = GRPO(
        scale="none" if scale == "none" else "std",
        normalise=normalise,
        longest=LONGEST if normalise == "constant" else 0,
        delta=delta or math.inf,
        kl=beta,
    )
    told = torch.cat([advantages(rewards, scale=options.scale) for rewards in data.rewards.view(-1, GROUP)])
    logprobs = data.logprobs.clone().requires_grad_()
    weights = sequence_weights(data.mask.sum(1), options)
    loss, _ = policy_loss(logprobs, data.behaviour, data.mask, told, weights, options=options, reference=data.reference if beta else None)
    loss.backward()
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad, told


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_trl(name: str) -> None:
    loss, gradient, told = ours(**CASES[name])
    golden = GOLDEN[name]
    torch.testing.assert_close(loss, torch.tensor(golden["loss"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, torch.tensor(golden["gradient"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(told, torch.tensor(golden["advantages"]), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install trl (it brings transformers, datasets)"
)
@pytest.mark.parametrize("name", CASES)
def test_the_golden_numbers_are_what_trl_computes_today(name: str) -> None:
    loss, gradient, told = by_trl(**CASES[name])
    assert loss == pytest.approx(GOLDEN[name]["loss"], abs=1e-6)
    torch.testing.assert_close(torch.tensor(gradient), torch.tensor(GOLDEN[name]["gradient"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(told), torch.tensor(GOLDEN[name]["advantages"]), atol=1e-6, rtol=0)


def one(times: float, advantage: float, **options: Any) -> tuple[float, float, Tally]:
    """Loss and gradient of a single token whose probability was .1 when it was sampled, and is `times` as much now."""
    logprobs = torch.tensor([[math.log(0.1 * times)]], requires_grad=True)
    behaviour = torch.tensor([[math.log(0.1)]])
    loss, tally = policy_loss(
        logprobs, behaviour, torch.ones(1, 1), torch.tensor([advantage]), torch.ones(1), options=GRPO(**options), entropy=torch.ones(1, 1)
    )
    loss.backward()
    assert logprobs.grad is not None
    return float(loss.detach()), float(logprobs.grad), tally


def test_a_token_counts_as_much_as_its_ratio_until_it_is_clipped() -> None:
    assert one(1.1, 1.0)[:2] == pytest.approx((-1.1, -1.1))
    assert one(1.5, 1.0)[:2] == pytest.approx((-1.28, 0.0))  # clip-higher
    assert one(0.5, 1.0)[:2] == pytest.approx((-0.5, -0.5))
    assert one(0.5, -1.0)[:2] == pytest.approx((0.8, 0.0))
    assert one(3.0, -1.0)[:2] == pytest.approx((3.0, 3.0))
    assert one(6.0, -1.0)[:2] == pytest.approx((4.0, 0.0))  # two-sided: the side that PPO leaves open
    assert one(6.0, -1.0)[2].numbers()["capped"] == one(1.5, 1.0)[2].numbers()["clipped"] == 1.0
    assert one(3.0, -1.0)[2].numbers()["clipped"] == one(3.0, -1.0)[2].numbers()["capped"] == 0.0


def test_without_importance_weights_a_stale_token_counts_as_a_fresh_one_and_the_log_still_tells() -> None:
    loss, gradient, tally = one(5.0, -1.0, ratio="own")
    assert (loss, gradient) == pytest.approx((1.0, 1.0))
    assert tally.numbers()["ratio_max"] == pytest.approx(5.0)
    assert tally.numbers()["mismatch_kl"] == pytest.approx(5 - math.log(5) - 1, rel=1e-5)


def test_the_dppo_mask_drops_what_has_moved_far_enough_already() -> None:
    assert one(2.5, 1.0, dppo=0.2)[:2] == pytest.approx((-2.5, -2.5))  # .1 to .25: a large ratio, a small step
    assert one(3.5, 1.0, dppo=0.2)[:2] == pytest.approx((0.0, 0.0))
    assert one(3.5, -1.0, dppo=0.2)[:2] == pytest.approx((3.5, 3.5))
    assert one(9.0, -1.0, dppo=0.2)[:2] == pytest.approx((4.0, 0.0))  # delta holds here too
    assert one(0.01, -1.0, dppo=0.05)[:2] == pytest.approx((0.0, 0.0))


@settings(deadline=None)
@given(st.integers(1, 11))
def test_micro_batches_add_up_to_the_batch(cut: int) -> None:
    data = batch()
    for options in (GRPO(), GRPO(normalise="sequence"), GRPO(normalise="constant", longest=9)):
        told = torch.linspace(-1, 1, 12)
        weights = sequence_weights(data.mask.sum(1), options)
        whole, tally = policy_loss(data.logprobs, data.behaviour, data.mask, told, weights, options=options)
        parts, sums = 0.0, Tally()
        for part in (slice(0, cut), slice(cut, None)):
            loss, each = policy_loss(data.logprobs[part], data.behaviour[part], data.mask[part], told[part], weights[part], options=options)
            parts += float(loss)
            sums.add(each)
        assert parts == pytest.approx(float(whole), abs=1e-5)
        assert sums.numbers() == pytest.approx(tally.numbers(), abs=1e-5)


def test_padding_changes_nothing_even_where_it_is_not_finite() -> None:
    data = batch()
    weights = torch.ones(12)
    spoilt = torch.where(data.mask > 0, data.behaviour, -torch.inf)
    clean = policy_loss(data.logprobs, data.behaviour, data.mask, torch.ones(12), weights)
    logprobs = data.logprobs.clone().requires_grad_()
    loss, tally = policy_loss(logprobs, spoilt, data.mask, torch.ones(12), weights)
    loss.backward()
    assert logprobs.grad is not None
    assert bool(logprobs.grad.isfinite().all())
    assert not logprobs.grad[data.mask == 0].any()
    assert float(loss.detach()) == float(clean[0])
    assert tally == clean[1]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_advantages_are_centred_and_none_where_rewards_are_equal(rewards: list[float]) -> None:
    for scale in ("std", "none"):
        told = advantages(torch.tensor(rewards), scale=scale)  # type: ignore[arg-type]
        assert bool(told.isfinite().all())
        assert abs(float(told.mean())) < 1e-4
        if len(set(rewards)) == 1:
            assert not told.any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": "batch"}, "choose one of std, none"),
        ({"ratio": "none"}, "choose one of behaviour, own"),
        ({"normalise": "constant"}, "needs longest"),
        ({"longest": 8}, "needs longest"),
        ({"delta": 1.2}, "delta above 1"),
        ({"delta": float("nan")}, "delta above 1"),
        ({"clip_low": 1.0}, "clip_low < 1"),
        ({"dppo": 0.0}, r"dppo in \(0, 1\)"),
        ({"kl": -1.0}, "kl >= 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GRPO(**wrong)


def test_a_divergence_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="reference"):
        policy_loss(*[torch.zeros(1, 1)] * 3, torch.zeros(1), torch.ones(1), options=GRPO(kl=0.1))
