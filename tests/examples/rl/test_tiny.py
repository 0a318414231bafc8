from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.policy import policy
from examples.rl.tiny import CHARACTERS, Characters, Tiny, weights_sha256

SMALL = {"width": 16, "layers": 2, "heads": 2}
PROMPTS = st.lists(st.lists(st.integers(0, len(CHARACTERS) - 1), min_size=1, max_size=7), min_size=1, max_size=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_tiny_policy_has_342_thousand_parameters_that_follow_from_its_seed() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = policy("tiny"), policy("tiny", seed=0), policy("tiny", seed=1)
    assert sum(p.numel() for p in one.module.parameters()) == 341_664
    assert weights_sha256(one.module) == weights_sha256(same.module) != weights_sha256(other.module)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="'gpt-9'; choose tiny or hf:PATH"):
        policy("gpt-9")


@settings(deadline=None)
@given(text=st.text(alphabet=CHARACTERS, max_size=30))
def test_characters_come_back(text: str) -> None:
    characters = Characters()
    assert characters.decode(characters.encode(text)) == text
    assert len(characters.digest) == 32
    assert characters.digest == Characters().digest
    with pytest.raises(ValueError, match="printable ASCII"):
        characters.encode(text + "é")


@settings(max_examples=15, deadline=None)
@given(prompts=PROMPTS, temperature=st.sampled_from([0.5, 1.0, 1.7]), seed=st.integers(0, 99))
def test_the_sampler_says_what_the_learner_computes_whatever_lies_beside_a_prompt(
    prompts: list[list[int]], temperature: float, seed: int
) -> None:
    tiny = Tiny(seed=3, **SMALL)
    with torch.no_grad():
        tiny.module.embedding.weight.mul_(20)  # far from uniform
    sampled = tiny.sample(prompts, count=2, max_new=5, temperature=temperature, generator=generator(seed))
    assert [len(group) for group in sampled] == [2] * len(prompts)
    samples = [sample for group in sampled for sample in group]
    told = tiny.logprobs([p for p in prompts for _ in range(2)], [one.ids.tolist() for one in samples], temperature=temperature)
    for row, one in enumerate(samples):
        n = len(one.ids)
        assert one.logprobs.dtype == np.float32
        assert (one.logprobs <= 0).all()
        assert told.mask[row].sum() == n
        np.testing.assert_allclose(told.logprobs[row, :n].detach().numpy(), one.logprobs, atol=2e-4)
        assert not told.logprobs[row, n:].any()
        assert not told.entropy[row, n:].any()
        assert one.finished == (one.ids[-1] == tiny.tokenizer.end)
        assert (one.ids[:-1] != tiny.tokenizer.end).all()
        assert one.finished or n == 5
        assert one.text == tiny.tokenizer.decode(one.ids.tolist())
    alone = tiny.logprobs([prompts[0]], [samples[0].ids.tolist()], temperature=temperature).logprobs[0]
    torch.testing.assert_close(alone, told.logprobs[0, : len(alone)], atol=2e-4, rtol=0)


def test_sampling_follows_the_distribution_and_the_generator() -> None:
    tiny = Tiny(seed=1, **SMALL)
    with torch.no_grad():
        tiny.module.embedding.weight.mul_(30)
    prompt = tiny.tokenizer.encode("12=")
    [group] = tiny.sample([prompt], count=1500, max_new=1, generator=generator())
    likely = {int(one.ids[0]): float(one.logprobs[0]) for one in group}
    seen = Counter(int(one.ids[0]) for one in group)
    for token, times in seen.most_common(5):
        p = np.exp(likely[token])
        assert abs(times / 1500 - p) < 4 * np.sqrt(p * (1 - p) / 1500)
    [again] = tiny.sample([prompt], count=1500, max_new=1, generator=generator())
    assert [one.ids.tolist() for one in again] == [one.ids.tolist() for one in group]


def test_entropy_is_that_of_the_distribution_and_log_probs_have_a_gradient() -> None:
    tiny = Tiny(**SMALL)
    tiny.module.embedding.weight.data.zero_()
    told = tiny.logprobs([[1, 2], [3]], [[4, 5, 0], [6]])
    torch.testing.assert_close(told.entropy[0], torch.full((3,), float(np.log(len(CHARACTERS)))))
    assert told.logprobs.requires_grad
    assert not told.entropy.requires_grad
    assert told.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_hidden_states_are_those_that_logits_are_made_of_and_see_nothing_that_follows() -> None:
    tiny = Tiny(seed=2, **SMALL)
    tokens = torch.randint(len(CHARACTERS), (2, 9), generator=generator())
    hidden = tiny.hidden(tokens)
    assert hidden.shape == (2, 9, 16)
    assert not hidden.requires_grad
    torch.testing.assert_close(tiny.module.logits(hidden), tiny.module(tokens))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % len(CHARACTERS)
    torch.testing.assert_close(tiny.hidden(changed)[0, :5], hidden[0, :5])
    assert not torch.allclose(tiny.hidden(changed)[0, 5], hidden[0, 5])


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"max_new": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"prompts": []}, {"prompts": [[1], []]}]
)
def test_what_cannot_be_sampled_is_refused(wrong: dict[str, object]) -> None:
    asked: dict[str, object] = {"prompts": [[1]], "count": 1, "max_new": 1} | wrong
    with pytest.raises(ValueError, match=r"positive|prompt"):
        Tiny(**SMALL).sample(asked.pop("prompts"), **asked)  # type: ignore[arg-type]


def test_empty_completions_are_refused_and_widths_that_rope_cannot_turn() -> None:
    with pytest.raises(ValueError, match="empty"):
        Tiny(**SMALL).logprobs([[1]], [[]])
    with pytest.raises(ValueError, match="RoPE"):
        Tiny(width=20, heads=4)
