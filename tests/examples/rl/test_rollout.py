"""The group that a worker signs: it comes back whole, and whatever a stranger sends is a `RolloutError` before it is read."""

import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.rollout import Completion, Limits, RolloutError, RolloutGroup, Signed, check_bounds, seal, unseal
from tests.examples.rl.groups import RUN, completion, honest
from thinwire.comms.swarm.identity import Identity

ME = Identity.from_seed(bytes(range(32)))


def mine(**changed: Any) -> RolloutGroup:
    return msgspec.structs.replace(honest(ME.key), **changed)


def test_a_group_comes_back_as_it_was_sent() -> None:
    group = mine()
    assert unseal(seal(group, ME), run=RUN) == group
    [first, _] = unseal(seal(group, ME), run=RUN).completions
    assert first.tokens.tolist() == completion(first.text).tokens.tolist()
    assert first.behaviour.tolist() == [-1.0] * len(first.tokens)


def test_log_probs_travel_as_float16() -> None:
    made = Completion.of(np.asarray([1, 2]), np.asarray([-0.1, -3.0]), finished=True, text="x")
    assert made.behaviour.tolist() == np.asarray([-0.1, -3.0], np.float16).astype(np.float32).tolist()
    assert len(made.logprobs) == 4


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"worker": bytes(32)}, "signature"),
        ({"run": "another"}, "other run"),
        ({"version": -1}, "bounds"),
        ({"n": 1 << 63}, "bounds"),
        ({"rewards": (1.0,)}, "bounds"),
        ({"rewards": (float("nan"), 0.0)}, "bounds"),
        ({"rewards": (2.0, 0.0)}, "bounds"),
        ({"completions": (), "rewards": ()}, "bounds"),
        ({"prompt_ids": b"abc"}, "bounds"),
        ({"prompt_ids": struct.pack("<I", 1 << 30)}, "bounds"),
        ({"environment": "x" * 65}, "bounds"),
        ({"tokenizer": b"short"}, "bounds"),
        ({"commitment": b"short"}, "bounds"),
    ],
)
def test_what_no_honest_worker_sends_is_refused_with_its_reason(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(RolloutError) as refused:
        unseal(seal(mine(**changed), ME), run=RUN)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"logprobs": np.asarray([np.nan], "<f2").tobytes()}, "log-probs"),
        ({"logprobs": np.asarray([-np.inf], "<f2").tobytes()}, "log-probs"),
        ({"logprobs": np.asarray([0.5], "<f2").tobytes()}, "log-probs"),
        ({"logprobs": b""}, "bounds"),
        ({"ids": b"", "logprobs": b""}, "bounds"),
        ({"proof": bytes(258 * 129)}, "bounds"),
        ({"text": "x" * 65537}, "bounds"),
    ],
)
def test_a_completion_that_no_sampler_makes_is_refused(changed: dict[str, Any], reason: str) -> None:
    one = Completion(struct.pack("<I", 7), np.asarray([-1.0], "<f2").tobytes(), True, "x")
    group = mine(completions=(msgspec.structs.replace(one, **changed),), rewards=(0.0,))
    with pytest.raises(RolloutError) as refused:
        unseal(seal(group, ME), run=RUN)
    assert refused.value.reason == reason


def test_what_was_changed_on_its_way_is_refused() -> None:
    data = seal(mine(), ME)
    signed = msgspec.msgpack.decode(data, type=Signed)
    other = msgspec.structs.replace(signed, body=msgspec.msgpack.encode(mine(n=1)))
    with pytest.raises(RolloutError, match="signature"):
        unseal(msgspec.msgpack.encode(other), run=RUN)


def test_more_bytes_than_allowed_are_not_even_read() -> None:
    with pytest.raises(RolloutError, match="oversized"):
        unseal(bytes(100), run=RUN, limits=Limits(nbytes=99))


@given(st.binary(max_size=300))
def test_garbage_is_a_schema_error(data: bytes) -> None:
    with pytest.raises(RolloutError):
        unseal(data, run=RUN)


@settings(max_examples=200)
@given(st.data())
def test_a_flipped_byte_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal(mine(), ME))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RolloutError):
        unseal(bytes(sealed), run=RUN)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RolloutError, match="schema"):
        unseal(b"\x91" * 100_000, run=RUN)


def test_an_honest_group_is_within_its_bounds() -> None:
    check_bounds(mine(), Limits())
