"""A commitment binds everything, and a challenge is a fair draw that all verifiers make alike."""

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.verify.challenge import Challenge, Rollout, _below, commitment, content

ROLLOUT = Rollout([1, 2, 3, 4], [-0.5, -0.25], [b"a" * 258, b"b" * 258])
REST: dict[str, Any] = {"weights_sha256": bytes(32), "worker": b"w" * 32, "run": b"run", "n": 7}


def said(rollout: Rollout = ROLLOUT, **changed: Any) -> bytes:
    return commitment(rollout, **{**REST, **changed})


def random(n: int) -> bytes:
    return hashlib.sha256(n.to_bytes(8, "big")).digest()


@pytest.mark.parametrize(
    "other",
    [
        lambda: said(ROLLOUT._replace(tokens=[1, 2, 3, 5])),
        lambda: said(ROLLOUT._replace(tokens=[1, 2, 3])),
        lambda: said(ROLLOUT._replace(logprobs=[-0.5, -0.2500001])),
        lambda: said(ROLLOUT._replace(logprobs=[-0.5])),
        lambda: said(ROLLOUT._replace(proofs=[b"a" * 258, b"c" * 258])),
        lambda: said(ROLLOUT._replace(proofs=[b"a" * 259, b"b" * 257])),
        lambda: said(ROLLOUT._replace(proofs=[b"a" * 258 + b"b" * 258])),
        lambda: said(ROLLOUT._replace(proofs=[])),
        lambda: said(weights_sha256=b"x" * 32),
        lambda: said(worker=b"v" * 32),
        lambda: said(run=b"runs"),
        lambda: said(n=8),
        lambda: content(ROLLOUT.tokens),
    ],
)
def test_a_commitment_binds_every_part(other: Callable[[], bytes]) -> None:
    assert said() == said()
    assert len(said()) == 32
    assert other() != said()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_bytes_do_not_move_between_proofs(one: list[bytes], other: list[bytes]) -> None:
    assert (said(ROLLOUT._replace(proofs=one)) == said(ROLLOUT._replace(proofs=other))) == (one == other)


def test_tensors_and_lists_say_the_same() -> None:
    as_tensors = Rollout(torch.tensor(ROLLOUT.tokens), torch.tensor(ROLLOUT.logprobs, dtype=torch.float16), ROLLOUT.proofs)  # type: ignore[arg-type]
    assert said(as_tensors) == said()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"logprobs": [-0.5, float("nan")]}, "finite"),
        ({"logprobs": [-0.5, float("-inf")]}, "finite"),
        ({"logprobs": [-0.5, -1e60]}, "finite"),
        ({"logprobs": [0.5, -0.5]}, "not above zero"),
        ({"logprobs": [-0.5] * 5}, "5 log-probabilities for 4 tokens"),
        ({"tokens": [1, 2, -3, 4]}, "tokens are integers"),
        ({"tokens": [1, 2, 1 << 32, 4]}, "tokens are integers"),
        ({"tokens": [1, 2, 1 << 70, 4]}, "tokens are integers"),
        ({"tokens": [1.0, 2.0, 3.0, 4.0]}, "tokens are integers"),
        ({"tokens": ["a", "b", "c", "d"]}, "tokens are integers"),
        ({"tokens": [[1, 2], [3, 4]]}, "tokens are integers"),
    ],
)
def test_what_is_no_rollout_is_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        said(ROLLOUT._replace(**changed))


@pytest.mark.parametrize("changed", [{"worker": b"short"}, {"weights_sha256": b""}, {"n": -1}, {"n": 1 << 64}])
def test_keys_hashes_and_numbers_of_another_size_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"both have 32|is no number"):
        said(**changed)


def draw(i: int, **changed: Any) -> Challenge:
    options = {"chunks": 6, "count": 2, **changed}
    return Challenge.draw(random(i), said(), REST["worker"], **options)


def test_everybody_draws_the_same_and_each_part_matters() -> None:
    drawn = [draw(i, chunks=1000, count=5) for i in range(8)]
    assert drawn == [draw(i, chunks=1000, count=5) for i in range(8)]
    assert len({each.chunks for each in drawn}) == 8
    assert Challenge.draw(random(0), said(n=8), REST["worker"], chunks=1000, count=5) != drawn[0]
    assert Challenge.draw(random(0), said(), b"v" * 32, chunks=1000, count=5) != drawn[0]


def test_every_set_of_chunks_is_equally_likely() -> None:
    counts = Counter(draw(i).chunks for i in range(3000))
    assert set(counts) == set(combinations(range(6), 2))
    expected = 3000 / 15
    assert sum((seen - expected) ** 2 / expected for seen in counts.values()) < 42.6  # chi-squared, 14 degrees of freedom, 1 in 10,000


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 1 << 30))
def test_chunks_are_distinct_ascend_and_are_there(chunks: int, count: int, i: int) -> None:
    drawn = draw(i, chunks=chunks, count=count).chunks
    assert list(drawn) == sorted(set(drawn))
    assert len(drawn) == min(count, chunks)
    assert all(0 <= each < chunks for each in drawn)


def test_a_share_of_the_rollouts_is_checked_and_the_others_are_not() -> None:
    checked = [draw(i, share=0.25) for i in range(2000)]
    assert 400 < sum(each.checked for each in checked) < 600
    assert all(bool(each.chunks) == each.checked for each in checked)
    assert all(draw(i, share=1.0).checked for i in range(20))
    assert not any(draw(i, share=0.0).checked for i in range(20))


def test_words_above_the_last_whole_multiple_are_dropped() -> None:
    bound = 3 << 62  # a quarter of all words is above
    assert _below(iter([2**64 - 1, bound, 5]), bound) == 5
    assert _below(iter([bound - 1]), bound) == bound - 1


@pytest.mark.parametrize("options", [{"share": 1.1}, {"share": -0.1}, {"count": 0}, {"chunks": -1}])
def test_draws_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="randomness, share"):
        draw(0, **options)
    with pytest.raises(ValueError, match="0 bytes of randomness"):
        Challenge.draw(b"", said(), REST["worker"], chunks=1, count=1)
