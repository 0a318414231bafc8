"""`thinwire.kernels.dct` in Triton: Lee's butterfly on square tiles, the same operations in the same order, so the same bits.

A tile of side n is transformed along one axis after the other. Lee's first step makes two transforms of n/2 numbers out of one of n: their
sums, and their differences times cosines. Here the two are two lanes. Each holds its n/2 numbers in registers, as a tuple of tensors, so
that a butterfly costs its additions and multiplications and nothing else; between the steps tensors change lanes through shared memory.

To be paired without moving, numbers come as a top half and a reversed bottom half: `near` holds lines i < n/2, `far` the lines n-1-i, and
within a line the places go 0 .. n/2-1, n-1 .. n/2 (see `place`).
"""

from functools import lru_cache
from math import cos, pi, sqrt

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

SIDES = (8, 16, 32, 64)


def _float32(x: float) -> float:
    return float(np.float32(x))


_HALVES = (1, 2, 4, 8, 16, 32)
# 1 / (2 cos((2i+1) pi / 2n)) for i < n/2, level after level: those of n begin at n/2 - 1.
_COSINES = tuple(_float32(1 / (2 * cos((2 * i + 1) * pi / (4 * half)))) for half in _HALVES for i in range(half))
COSINES = tl.constexpr(_COSINES)
# s_v * s_u with s_0 = sqrt(1/side), s_k = sqrt(2/side): where both frequencies are zero, one of them, none.
_S = {side: (sqrt(1 / side), sqrt(2 / side)) for side in SIDES}
SCALES = tl.constexpr({side: (_float32(a * a), _float32(a * b), _float32(b * b)) for side, (a, b) in _S.items()})


@lru_cache(maxsize=16)
def cosines(device: torch.device) -> Tensor:
    """`COSINES` in memory, for kernels that need as many as there are lanes."""
    return torch.tensor(_COSINES, dtype=torch.float32, device=device)


@triton.jit
def forward(x, n: tl.constexpr):
    """out[k] = sum over i of x[i] cos(pi (2i+1) k / 2n), for a tuple of n tensors, without the scale."""
    if n == 1:
        out = x
    else:
        even = (x[0] + x[n - 1],)
        odd = ((x[0] - x[n - 1]) * COSINES[n // 2 - 1],)
        for i in tl.static_range(1, n // 2):
            even = even + (x[i] + x[n - 1 - i],)
            odd = odd + ((x[i] - x[n - 1 - i]) * COSINES[n // 2 - 1 + i],)
        even = forward(even, n // 2)
        odd = forward(odd, n // 2)
        out = (even[0],)
        for i in tl.static_range(1, n // 2):
            out = out + (odd[i - 1] + odd[i], even[i])
        out = out + (odd[n // 2 - 1],)
    return out


@triton.jit
def inverse(x, n: tl.constexpr):
    """The transpose of `forward`: out[i] = sum over k of x[k] cos(pi (2i+1) k / 2n)."""
    if n == 1:
        out = x
    else:
        odd = (x[1],)
        for i in tl.static_range(1, n // 2):
            odd = odd + (x[2 * i + 1] + x[2 * i - 1],)
        even = inverse(x[0::2], n // 2)
        odd = inverse(odd, n // 2)
        out = ()
        bottom = ()
        for i in tl.static_range(n // 2):
            product = odd[i] * COSINES[n // 2 - 1 + i]
            out = out + (even[i] + product,)
            bottom = (even[i] - product,) + bottom
        out = out + bottom
    return out


@triton.jit
def unstack(x, n: tl.constexpr):
    """`(lanes, n)` to n tensors `(lanes,)`: the last axis goes to registers."""
    if n == 2:
        even, odd = tl.split(x)
        out = (even, odd)
    else:
        even, odd = tl.split(tl.reshape(x, (x.shape[0], n // 2, 2)))
        evens = unstack(even, n // 2)
        odds = unstack(odd, n // 2)
        out = ()
        for i in tl.static_range(n // 2):
            out = out + (evens[i], odds[i])
    return out


@triton.jit
def stack(x, n: tl.constexpr):
    """n tensors `(lanes,)` to `(n, lanes)`; joined in this way around, the compiler moves nothing."""
    if n == 2:
        out = tl.permute(tl.join(x[0], x[1]), (1, 0))
    else:
        halves = tl.join(stack(x[: n // 2], n // 2), stack(x[n // 2 :], n // 2))
        out = tl.reshape(tl.permute(halves, (2, 0, 1)), (n, x[0].shape[0]))
    return out


@triton.jit
def place(n: tl.constexpr):
    """The places of a line in the order in which they are held: 0 .. n/2-1, then n-1 .. n/2."""
    at = tl.arange(0, n)
    return tl.where(at < n // 2, at, n + n // 2 - 1 - at)


@triton.jit
def _frequencies(near, far, cosine, tiles: tl.constexpr, n: tl.constexpr):
    """Along the second axis of `(tiles, n, n/2)`, whose last axis holds the places: a tuple over m of `(tiles * 2 * n,)`, where the second
    of each two lines has frequency 2m + 1 and the first 2m."""
    half: tl.constexpr = n // 2
    both = tl.permute(tl.join(near + far, (near - far) * cosine[None, None, :]), (0, 3, 1, 2))
    x = forward(unstack(tl.reshape(both, (tiles * 2 * n, half)), half), half)
    second = (tl.arange(0, tiles * 2 * n) // n) % 2 == 1
    out = ()
    for m in tl.static_range(half - 1):
        out = out + (tl.where(second, x[m] + x[m + 1], x[m]),)
    return out + (x[half - 1],)


@triton.jit
def _halves(x, tiles: tl.constexpr, n: tl.constexpr):
    """The inverse of `_frequencies` without its last step, from the tuple: of each two lines the sums and the differences of the pairs."""
    second = (tl.arange(0, tiles * 2 * n) // n) % 2 == 1
    own = (x[0],)
    for m in tl.static_range(1, n // 2):
        own = own + (tl.where(second, x[m] + x[m - 1], x[m]),)
    return inverse(own, n // 2)


@triton.jit
def places_of(x, table, first: tl.constexpr, count: tl.constexpr, tiles: tl.constexpr, n: tl.constexpr):
    """The last step of the inverse for `count` pairs of places from `first` on, out of `_halves`: `near` and `far` `(tiles, n, count)`."""
    even, odd = tl.split(tl.permute(tl.reshape(stack(x[first : first + count], count), (count, tiles, 2, n)), (1, 3, 0, 2)))
    product = odd * tl.load(table + n // 2 - 1 + first + tl.arange(0, count))[None, None, :]
    return even + product, even - product


@triton.jit
def _scaled(x, tiles: tl.constexpr, n: tl.constexpr):
    """A tuple over m times s_v * s_u: v is 2m in the first, 2m + 1 in the second of two lines of all u."""
    lane = tl.arange(0, tiles * 2 * n)
    edge = tl.where(lane % n == 0, SCALES[n][1], SCALES[n][2])
    corner = tl.where(lane % n == 0, SCALES[n][0], SCALES[n][1])
    out = (x[0] * tl.where((lane // n) % 2 == 1, edge, corner),)
    for m in tl.static_range(1, n // 2):
        out = out + (x[m] * edge,)
    return out


@triton.jit
def forward_2d(near, far, table, n: tl.constexpr):
    """`near` and `far` `(tiles, n/2, n)` to `(tiles, n * n)` coefficients, column frequency v * n + row frequency u; `table`: `cosines`."""
    tiles: tl.constexpr = near.shape[0]
    half: tl.constexpr = n // 2
    cosine = tl.load(table + half - 1 + tl.arange(0, half))
    lines = _frequencies(tl.permute(near, (0, 2, 1)), tl.permute(far, (0, 2, 1)), cosine, tiles, n)
    rows = tl.reshape(stack(lines, half), (half, tiles, 2, 2, half))  # (m, tile, which of two, near or far j, j)
    left, right = tl.split(tl.permute(rows, (1, 0, 2, 4, 3)))
    shape: tl.constexpr = (tiles, n, half)
    lines = _scaled(_frequencies(tl.reshape(left, shape), tl.reshape(right, shape), cosine, tiles, n), tiles, n)
    columns = tl.reshape(stack(lines, half), (half, tiles, 2 * n))
    return tl.reshape(tl.permute(columns, (1, 0, 2)), (tiles, n * n))


@triton.jit
def inverse_2d(x, table, n: tl.constexpr):
    """`(tiles, n * n)` coefficients back to lines, of which `lines_of` makes tiles, all or some lines at a time."""
    tiles: tl.constexpr = x.shape[0]
    half: tl.constexpr = n // 2
    lines = tl.permute(tl.reshape(x, (tiles, half, 2 * n)), (0, 2, 1))
    lines = _halves(_scaled(unstack(tl.reshape(lines, (tiles * 2 * n, half)), half), tiles, n), tiles, n)
    left, right = places_of(lines, table, 0, half, tiles, n)  # (tiles, u, j)
    rows = tl.reshape(tl.join(left, right), (tiles, half, 2, half, 2))  # (tile, m, which of two, j, near or far j)
    return _halves(unstack(tl.reshape(tl.permute(rows, (0, 2, 4, 3, 1)), (tiles * 2 * n, half)), half), tiles, n)


@triton.jit
def lines_of(x, table, first: tl.constexpr, count: tl.constexpr, tiles: tl.constexpr, n: tl.constexpr):
    """`near` and `far` `(tiles, count, n)` from line `first` on, out of `inverse_2d`."""
    near, far = places_of(x, table, first, count, tiles, n)  # (tiles, j, i)
    return tl.permute(near, (0, 2, 1)), tl.permute(far, (0, 2, 1))


@triton.jit(do_not_specialize=["rows"])
def dct_kernel(x, out, table, rows, n: tl.constexpr, tiles: tl.constexpr, back: tl.constexpr):
    """out = DCT(x), or its inverse, of `(rows, n * n)` tiles."""
    row = tl.program_id(0).to(tl.int64) * tiles
    held = (tl.arange(0, tiles) < rows - row)[:, None, None]
    tile = tl.arange(0, tiles)[:, None, None] * (n * n)
    near = tile + tl.arange(0, n // 2)[None, :, None] * n + place(n)[None, None, :]
    far = tile + (n - 1 - tl.arange(0, n // 2))[None, :, None] * n + place(n)[None, None, :]
    whole = tl.arange(0, tiles)[:, None] * (n * n) + tl.arange(0, n * n)[None, :]
    inside = (tl.arange(0, tiles) < rows - row)[:, None]
    x += row * n * n
    out += row * n * n
    if back:
        top, bottom = lines_of(inverse_2d(tl.load(x + whole, mask=inside, other=0.0), table, n), table, 0, n // 2, tiles, n)
        tl.store(out + near, top, mask=held)
        tl.store(out + far, bottom, mask=held)
    else:
        top = tl.load(x + near, mask=held, other=0.0)
        bottom = tl.load(x + far, mask=held, other=0.0)
        tl.store(out + whole, forward_2d(top, bottom, table, n), mask=inside)
