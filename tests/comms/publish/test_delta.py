"""Lossy steps: everybody comes to the same bits, near what was given, and hostile bytes are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.publish import delta
from thinwire.comms.wire import WireError

SIZES = st.sampled_from([0, 1, 2, 255, 256, 257, 1009])


@given(SIZES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-38, 1e-12, 1e-3, 1.0, 1e30]), st.sampled_from([0.0, 1e-3, 1e3]))
@settings(max_examples=200, deadline=None)
def test_a_decoder_comes_to_what_the_encoder_said_within_half_a_step(numel: int, seed: int, by: float, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    old = (size * torch.randn(numel, generator=generator)).to(torch.bfloat16)
    new = old.float() + by * torch.randn(numel, generator=generator)
    coded = delta.encode(old, new)
    assert coded is not None
    payload, made = coded
    assert len(payload) <= delta.limit_nbytes(numel)
    assert torch.equal(delta.decode(old, payload, numel).view(torch.int16), made.view(torch.int16))
    for at in range(0, numel, delta.BLOCK):
        step = new[at : at + delta.BLOCK] - old[at : at + delta.BLOCK].float()
        half = step.abs().max() / 127 * (1 + 2**-7) / 2 + 2.0**-100 * 127
        error = (made[at : at + delta.BLOCK].float() - new[at : at + delta.BLOCK]).abs()
        assert bool((error <= half + 2**-8 * (new[at : at + delta.BLOCK].abs() + half) + 1e-38).all())


def test_errors_do_not_add_up_when_every_step_starts_from_what_is_held() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(1000, generator=generator)
    held = exact.to(torch.bfloat16)
    for _ in range(50):
        exact = exact + 1e-2 * torch.randn(1000, generator=generator)
        coded = delta.encode(held, exact)
        assert coded is not None
        held = coded[1]
    assert bool(((held.float() - exact).abs() <= 2**-8 * exact.abs() + 6e-2 / 127).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3.4e38])
def test_numbers_that_a_delta_cannot_carry_make_none(bad: float) -> None:
    old, new = torch.full((300,), -3e38).to(torch.bfloat16), torch.zeros(300)
    new[7] = bad
    assert delta.encode(old, new) is None
    assert delta.encode(torch.full((3,), float("nan"), dtype=torch.bfloat16), torch.zeros(3)) is None


@given(st.binary(max_size=600), SIZES)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_weights_or_refused(data: bytes, numel: int) -> None:
    try:
        assert delta.decode(torch.zeros(numel, dtype=torch.bfloat16), data, numel).shape == (numel,)
    except WireError:
        pass


def test_scales_that_no_encoder_sends_are_refused() -> None:
    old = torch.zeros(3, dtype=torch.bfloat16)
    for scale in (0x7F80, 0x7FC0, 0xBF80, 0x0001, 0x8000 | 0x3F80):
        with pytest.raises(WireError, match="a scale"):
            delta.decode(old, np.array([scale], "<u2").tobytes() + b"\x03\0\0\0abc", 3)
    with pytest.raises(WireError, match="1 bytes behind"):
        delta.decode(old, b"\x80\x3f\x03\0\0\0abcd", 3)
