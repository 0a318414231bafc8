"""The specification itself: what its arithmetic must be, told in another way."""

import numpy as np
import pytest
import torch

from thinwire.kernels import reference
from thinwire.kernels.reference import E2M1, E4M3, Tiny

ONE = np.float32(1)


def numbers(tiny: Tiny) -> np.ndarray:
    """Float32 around every number and every midpoint between two, and at random."""
    grid = reference.from_tiny(np.arange(tiny.largest + 1, dtype=np.uint8), tiny)
    places = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, np.random.default_rng(0).uniform(0, tiny.qmax, 1000)]).astype(np.float32)
    near = np.concatenate([places, np.nextafter(places, np.float32(0)), np.nextafter(places, np.float32(1e9))])
    return np.concatenate([near, -near])


@pytest.mark.parametrize("tiny", [E4M3, E2M1])
def test_a_tiny_float_is_the_nearest_and_of_two_the_even_one(tiny: Tiny) -> None:
    x = numbers(tiny)
    grid = reference.from_tiny(np.arange(tiny.largest + 1, dtype=np.uint8), tiny).astype(np.float64)
    gaps = np.abs(np.abs(x).astype(np.float64)[:, None] - grid)
    nearest = gaps == gaps.min(1, keepdims=True)
    wanted = np.where(nearest.sum(1) == 1, nearest.argmax(1), nearest.argmax(1) + nearest.argmax(1) % 2)
    wanted = np.where((x < 0) & (wanted > 0), wanted | tiny.sign, wanted)
    assert np.array_equal(reference.to_tiny(x, ONE, tiny), wanted)
    assert grid.max() == tiny.qmax


def test_e4m3_is_the_format_that_others_call_so() -> None:
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    number = np.isfinite(theirs)
    assert np.array_equal(reference.from_tiny(codes, E4M3)[number], theirs[number])
    x = numbers(E4M3)
    ours = reference.to_tiny(x, ONE, E4M3)
    rounded = torch.from_numpy(np.clip(x, -448, 448)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(ours, np.where(rounded == 0x80, 0, rounded))


def test_e2m1_is_the_list_of_the_wire_format() -> None:
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert reference.from_tiny(np.arange(16, dtype=np.uint8), E2M1).tolist() == magnitudes + [-m for m in magnitudes]


def test_the_mixing_is_lowbias32_and_a_permutation_of_small_words() -> None:
    def plain(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    words = np.concatenate([np.arange(2**16), 2**32 - 1 - np.arange(2**10)]).astype(np.uint32)
    mixed = reference.lowbias32(words)
    assert mixed.tolist() == [plain(int(word)) for word in words]
    assert len(set(mixed.tolist())) == len(words)


@pytest.mark.parametrize("qmax", [1, 7, 127])
def test_random_rounding_is_right_on_average_and_never_further_than_one_code(qmax: int) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 4096).astype(np.float32)
    values[0] = 1.0
    scale = reference.absmax_scale(values, qmax)
    codes = np.stack([reference.quantise_stochastic(values, scale, qmax, 3, row) for row in range(200)]).astype(np.float64)
    exact = values.astype(np.float64) / scale
    assert np.abs(codes - exact).max() <= 1
    assert np.abs(codes.mean(1) - exact.mean()).max() < 0.04
    assert np.abs(codes.mean(0) - exact).max() < 0.2
    assert not np.array_equal(codes[0], codes[1])
    whole = np.float32(scale) * np.arange(-qmax, qmax + 1, dtype=np.float32)
    assert np.array_equal(reference.quantise_stochastic(whole, scale, qmax, 9, 0), np.arange(-qmax, qmax + 1))
