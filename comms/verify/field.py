"""Polynomials over GF(65497), many at a time: interpolation by Newton's divided differences, and evaluation.

65497 is the greatest prime whose field holds every 16-bit pattern of a finite bfloat16 and of both infinities: from 65497 = 0xFFD9 on
the patterns are NaNs. All tensors are int64 on the CPU; products of two residues stay below 2^32, and sums of 128 of them below 2^39.
Source: TOPLOC, arXiv:2501.16007, section 4.
"""

from functools import cache

import torch
from torch import Tensor

PRIME = 65497


@cache
def inverses() -> Tensor:
    """`(PRIME,)`: the inverse of every residue, by Fermat's theorem; 0 at 0, which has none. Half a megabyte, made once."""
    power, result = torch.arange(PRIME), torch.ones(PRIME, dtype=torch.int64)
    exponent = PRIME - 2
    while exponent:
        if exponent & 1:
            result = result * power % PRIME
        power = power * power % PRIME
        exponent >>= 1
    return result


def interpolate(x: Tensor, y: Tensor) -> Tensor:
    """`(rows, k)` coefficients, the constant first, of the one polynomial of degree below k with P(x) = y, in each row.

    `x (rows, k)` holds residues that differ within a row, `y (rows, k)` residues. Raises `ValueError` for anything else.
    """
    if x.shape != y.shape or x.ndim != 2 or x.dtype != torch.int64 or y.dtype != torch.int64:
        raise ValueError(f"interpolate got x {tuple(x.shape)} {x.dtype}, y {tuple(y.shape)} {y.dtype}; give two (rows, k) int64")
    if x.numel() and not (0 <= int(torch.minimum(x, y).min()) and int(torch.maximum(x, y).max()) < PRIME):
        raise ValueError(f"a coordinate is outside of 0..{PRIME - 1}; give residues")
    ordered = x.sort(1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("two points of a row have the same x; give points that differ")
    differences, inverse = y.clone(), inverses()
    for order in range(1, x.shape[1]):
        rise = differences[:, order:] - differences[:, order - 1 : -1]
        differences[:, order:] = rise.mul_(inverse[x[:, order:] - x[:, :-order]]).remainder_(PRIME)  # below zero it counts from the end
    return _expanded(x, differences)


def _expanded(x: Tensor, differences: Tensor) -> Tensor:
    """From Newton's form to powers of x: multiply by (X - x_i) and add the next difference, from the last to the first.

    Multiplying by X moves the window on the coefficients by one place, and nothing in memory.
    """
    rows, k = x.shape
    window = torch.zeros((rows, k + 1), dtype=torch.int64)
    for i in reversed(range(k)):
        held = window[:, i:]
        held[:, :-1].sub_(x[:, i : i + 1] * held[:, 1:])
        held[:, 0].add_(differences[:, i])
        held.remainder_(PRIME)
    return window[:, :k].contiguous()


def evaluate(coefficients: Tensor, x: Tensor) -> Tensor:
    """`(rows, n)`: P(x) of each row's polynomial `coefficients (rows, k)` at its points `x (rows, n)`, all int64."""
    result = torch.zeros_like(x)
    for i in reversed(range(coefficients.shape[1])):
        result = (result * x + coefficients[:, i : i + 1]) % PRIME
    return result
