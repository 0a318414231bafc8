"""Limits come from honest rollouts: they hold for honest ones that were not seen, and refuse other weights, other tokens and junk."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.comms.verify.tiny import Tiny
from thinwire.comms.verify.activations import Measurement, cut, measure, prove
from thinwire.comms.verify.thresholds import Limit, Thresholds, Verdict, calibrate, check, judge

PROMPT, COMPLETION = 8, 64
HONEST = Measurement(1.0, 1.0, 1.0, 0.0)


def chunks(hidden: Tensor) -> list[Tensor]:
    return [hidden[rows] for rows in cut(*hidden.shape)]


def tokens(first: int, count: int) -> Tensor:
    return torch.randint(64, (1000, PROMPT + COMPLETION), generator=torch.Generator().manual_seed(7))[first : first + count]


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def thresholds(model: Tiny) -> Thresholds:
    said = tokens(0, 40)
    pairs = zip(model.decoded(said)[:, PROMPT:], model.states(said)[:, PROMPT:], strict=True)
    return calibrate([measure(prove(made), chunks(own)) for made, own in pairs])


def verdict(proved: Tensor, own: Tensor, thresholds: Thresholds) -> Verdict:
    return check(prove(proved[PROMPT:]), chunks(own[PROMPT:]), thresholds)


def verdicts(proved: Tensor, own: Tensor, thresholds: Thresholds) -> list[Verdict]:
    return [verdict(made, seen, thresholds) for made, seen in zip(proved, own, strict=True)]


def test_an_honest_worker_that_was_not_calibrated_on_is_accepted(model: Tiny, thresholds: Thresholds) -> None:
    said = tokens(100, 40)
    for found in verdicts(model.decoded(said), model.states(said), thresholds):
        assert found.accepted, found
        assert set(found.numbers) == {"exponents", "mean", "median", "burst"}


def test_one_per_cent_of_noise_in_the_weights_is_refused(model: Tiny, thresholds: Thresholds) -> None:
    said = tokens(100, 20)
    for found in verdicts(model.noisy(0.01).decoded(said), model.states(said), thresholds):
        assert (found.accepted, found.reason) == (False, "activations"), found


@pytest.mark.parametrize("at", [0, PROMPT - 1, PROMPT, PROMPT + 20, PROMPT + COMPLETION - 1])
def test_one_token_that_was_another_is_refused(model: Tiny, thresholds: Thresholds, at: int) -> None:
    said = tokens(0, 10)
    made = model.states(said)
    said[:, at] = (said[:, at] + 1) % 64
    assert not any(found.accepted for found in verdicts(made, model.states(said), thresholds))


def test_random_states_and_those_of_another_rollout_are_refused(model: Tiny, thresholds: Thresholds) -> None:
    own = model.states(tokens(100, 1)[0])
    for proved in (torch.randn_like(own), model.states(tokens(101, 1)[0]), own.roll(1, 0), -own):
        assert not verdict(proved, own, thresholds).accepted


def test_bytes_that_are_no_proof_are_malformed(model: Tiny, thresholds: Thresholds) -> None:
    own = chunks(model.states(tokens(100, 1)[0])[PROMPT:])
    for proofs in ((bytes(258), bytes(258)), (b"", b""), ()):
        assert check(proofs, own, thresholds).reason == "malformed"


def test_thresholds_survive_a_manifest(thresholds: Thresholds) -> None:
    assert Thresholds.from_dict(json.loads(json.dumps(thresholds.to_dict()))) == thresholds


@pytest.mark.parametrize(
    "told",
    [
        {},
        None,
        {"exponents": [1, 1, 1]},
        {name: [1, 1] for name in ("exponents", "mean", "median", "burst")},
        {name: [1, 1, math.nan] for name in ("exponents", "mean", "median", "burst")},
        {name: [1, -1, 1] for name in ("exponents", "mean", "median", "burst")},
        {name: ["a", 1, 1] for name in ("exponents", "mean", "median", "burst")},
        {name: 1 for name in ("exponents", "mean", "median", "burst")},
    ],
)
def test_a_manifest_that_says_no_thresholds_is_refused(told: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"limit|convert"):
        Thresholds.from_dict(told)


def test_the_variance_between_rollouts_is_not_averaged_away() -> None:
    generator = torch.Generator().manual_seed(0)
    between, within = 3.0, 4.0
    shifts = between * torch.randn(4000, 1, generator=generator)
    values = (100 + shifts + within * torch.randn(4000, 4, generator=generator)).tolist()
    learnt = calibrate([[replace(HONEST, exponents=value) for value in group] for group in values]).exponents
    assert learnt.mean == pytest.approx(100, abs=0.3)
    assert (learnt.between, learnt.within) == pytest.approx((between, within), rel=0.06)
    assert learnt.of(1) == pytest.approx(100 + 6 * 5, rel=0.02)
    assert learnt.of(4) == pytest.approx(100 + 6 * (9 + 4) ** 0.5, rel=0.02)


def test_rollouts_of_one_chunk_are_their_own_groups() -> None:
    learnt = calibrate([[replace(HONEST, exponents=float(i % 2))] for i in range(1000)]).exponents
    assert (learnt.mean, learnt.within) == (0.5, 0.0)
    assert learnt.between == pytest.approx(0.5, rel=0.01)


def test_means_and_medians_are_averaged_by_their_logarithms() -> None:
    learnt = calibrate([[replace(HONEST, mean=0.5), replace(HONEST, mean=3.5)]] * 30).mean
    assert math.exp(learnt.mean) == pytest.approx(2.0)
    assert judge([replace(HONEST, mean=0.5), replace(HONEST, mean=3.5)], wide()).numbers["mean"] == pytest.approx(1.5)


def wide(**limits: Limit) -> Thresholds:
    return Thresholds(**{name: Limit(10.0, 0.0, 1.0) for name in ("exponents", "mean", "median", "burst")} | limits)


def test_chunks_that_pass_alone_are_refused_together() -> None:
    thresholds = wide(exponents=Limit(1.0, 0.0, 0.1))
    assert judge([replace(HONEST, exponents=1.5)], thresholds).accepted
    refused = judge([replace(HONEST, exponents=1.5)] * 4, thresholds)
    assert not refused.accepted
    assert refused.told == "exponents on average of 4 chunks: 1.50, honest ones have at most 1.30"
    assert not judge([HONEST, HONEST, HONEST, replace(HONEST, exponents=1.7)], thresholds).accepted
    assert not judge([replace(HONEST, burst=math.nan)], thresholds).accepted
    low = judge([replace(HONEST, mean=2.0)], wide(mean=Limit(math.log(1.5), 0.0, 0.0)))
    assert low.told == "mean of a chunk: 2.00, honest ones have at most 1.00"


MEASURED = st.builds(Measurement, *[st.floats(0, 128)] * 2, *[st.floats(0, 31)] * 2)


@settings(deadline=None)
@given(company=st.lists(MEASURED, max_size=5), bad=MEASURED, at=st.integers(0, 5))
def test_a_chunk_that_is_refused_alone_is_refused_in_any_company(company: list[Measurement], bad: Measurement, at: int) -> None:
    thresholds = wide(mean=Limit(0.5, 0.06, 0.1), median=Limit(0.3, 0.05, 0.1))
    alone = judge([bad], thresholds)
    together = judge([*company[:at], bad, *company[at:]], thresholds)
    assert alone.accepted or not together.accepted


def test_proofs_by_the_pass_that_checks_them_teach_nothing() -> None:
    exact = Measurement(0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"all honest chunks measure .*prove while decoding"):
        calibrate([[exact] * 4] * 30)
    calibrate([[exact] * 4] * 29 + [[HONEST] * 4])


def test_too_little_to_calibrate_on_or_to_judge_is_refused(thresholds: Thresholds) -> None:
    with pytest.raises(ValueError, match="29 honest chunks"):
        calibrate([[HONEST]] * 29)
    with pytest.raises(ValueError, match="at least one"):
        judge([], thresholds)
