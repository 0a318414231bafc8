"""The polynomial goes through its points, is the only one that does, and refuses what is no residue."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.verify.field import PRIME, evaluate, interpolate, inverses

residues = st.integers(0, PRIME - 1)


def test_the_modulus_is_prime_and_every_finite_bfloat16_is_a_residue() -> None:
    assert all(PRIME % divisor for divisor in range(2, 256))
    bits = torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(torch.bfloat16)
    assert int(bits.isfinite().nonzero().max()) < PRIME
    assert bits[PRIME:].isnan().all()


def test_every_residue_but_zero_has_its_inverse() -> None:
    assert torch.equal(inverses()[1:] * torch.arange(1, PRIME) % PRIME, torch.ones(PRIME - 1, dtype=torch.int64))


@settings(deadline=None)
@given(st.lists(st.tuples(residues, residues), min_size=1, max_size=20, unique_by=lambda point: point[0]))
def test_the_polynomial_goes_through_its_points(points: list[tuple[int, int]]) -> None:
    x, y = (torch.tensor(each)[None] for each in zip(*points, strict=True))
    assert torch.equal(evaluate(interpolate(x, y), x), y)


@settings(max_examples=40, deadline=None)
@given(st.lists(residues, min_size=1, max_size=12), st.integers(0, 1 << 30))
def test_a_polynomial_is_found_again_from_any_of_its_points(coefficients: list[int], seed: int) -> None:
    wanted = torch.tensor(coefficients)[None]
    x = torch.randperm(PRIME, generator=torch.Generator().manual_seed(seed))[None, : len(coefficients)]
    y = torch.tensor([[sum(c * pow(int(at), i, PRIME) for i, c in enumerate(coefficients)) % PRIME for at in x[0]]])
    assert torch.equal(evaluate(wanted, x), y)
    assert torch.equal(interpolate(x, y), wanted)


def test_rows_are_independent() -> None:
    x = torch.stack([torch.randperm(PRIME)[:128] for _ in range(3)])
    y = torch.randint(0, PRIME, (3, 128))
    assert torch.equal(interpolate(x, y), torch.cat([interpolate(a[None], b[None]) for a, b in zip(x, y, strict=True)]))


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([[1, 2, 1]], [[0, 0, 0]], "same x"),
        ([[1, PRIME]], [[0, 0]], "outside"),
        ([[1, 2]], [[0, -1]], "outside"),
        ([[1, 2]], [[0]], "give two"),
        ([1, 2], [0, 0], "give two"),
    ],
)
def test_what_determines_no_polynomial_is_refused(x: list[list[int]], y: list[list[int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        interpolate(torch.tensor(x), torch.tensor(y))
