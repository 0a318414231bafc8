"""The orthonormal DCT-II of square tiles by Lee's butterfly, written once for numpy arrays and torch tensors.

22 operations an element, each an unfused float32 addition or multiplication in a fixed order, so every implementation has the same
bits. Order of coefficients: column frequency * side + row frequency, which saves a transposition.

B. G. Lee, A new algorithm to compute the discrete cosine transform, IEEE TASSP 32(6), 1984.
"""

from collections.abc import Callable
from functools import cache
from math import cos, pi, sqrt
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = TypeVar("Array", NDArray[np.float32], torch.Tensor)

BLOCK = 32  # tiles worked on at a time on a CPU: large enough to hide the cost of a call, small enough for the caches
DEVICE_BLOCK = 4096  # on an accelerator the number of launches counts


def dct_tiles(x: Array, side: int) -> Array:
    """`(tiles, side*side)` float32 tiles, row-major, to their DCT-II coefficients."""
    done: Array = _each_block(x, side, _forward_2d)
    return done


def idct_tiles(x: Array, side: int) -> Array:
    """Coefficients of `dct_tiles` back to tiles, to rounding."""
    done: Array = _each_block(x, side, _inverse_2d)
    return done


# Below, `x` is a numpy array or a torch tensor and `xp` its library: the names and `out=` used here are the same in both.


def _each_block(x: Any, side: int, transform: Callable[[Any, Any, int, Any], None]) -> Any:
    xp = np if isinstance(x, np.ndarray) else torch
    out = xp.empty_like(x)
    block = BLOCK if xp is np or x.device.type == "cpu" else DEVICE_BLOCK
    for start in range(0, len(x), block):
        tiles, into = (array[start : start + block].reshape(-1, side, side) for array in (x, out))
        transform(tiles, into, side, xp)
    return out


def _forward_2d(tiles: Any, into: Any, side: int, xp: Any) -> None:
    # One transform along the first axis each: (i, tile, j) -> (u, tile, j), seen as (j, tile, u) -> (v, tile, u).
    rows = _forward(xp.swapaxes(tiles, 0, 1)[:, None], side, xp)
    columns = _forward(xp.swapaxes(rows, 0, 3), side, xp)
    xp.multiply(xp.swapaxes(columns[:, 0], 0, 1), _like(_scale_2d(side), tiles), out=into)


def _inverse_2d(tiles: Any, into: Any, side: int, xp: Any) -> None:
    scaled = xp.swapaxes(tiles * _like(_scale_2d(side), tiles), 0, 1)[:, None]
    columns = _inverse(scaled, side, xp)  # (v, tile, u) -> (j, tile, u)
    rows = _inverse(xp.swapaxes(columns, 0, 3), side, xp)  # (u, tile, j) -> (i, tile, j)
    into[:] = xp.swapaxes(rows[:, 0], 0, 1)


def _forward(x: Any, n: int, xp: Any) -> Any:
    """Along the first axis of `(n, parts, tiles, side)`, without the scale: out[k] = sum x[i] cos(pi (2i+1) k / 2n).

    Both halves of a part go down together as two parts, so there are log2(n) levels of few large operations.
    """
    if n == 1:
        return x
    half, parts = n // 2, x.shape[1]
    top, bottom = x[:half], xp.flip(x[half:], (0,))
    halves = _empty(x, half, 2 * parts, xp)
    xp.add(top, bottom, out=halves[:, :parts])
    odd = halves[:, parts:]
    xp.subtract(top, bottom, out=odd)
    odd *= _like(_cosines(n), x)
    halves = _forward(halves, half, xp)
    odd = halves[:, parts:]
    out = _empty(x, n, parts, xp)
    out[0::2] = halves[:, :parts]
    xp.add(odd[:-1], odd[1:], out=out[1:-1:2])
    out[-1] = odd[-1]
    return out


def _inverse(x: Any, n: int, xp: Any) -> Any:
    """The transpose of `_forward`: out[i] = sum x[k] cos(pi (2i+1) k / 2n)."""
    if n == 1:
        return x
    half, parts = n // 2, x.shape[1]
    halves = _empty(x, half, 2 * parts, xp)
    halves[:, :parts] = x[0::2]
    halves[0, parts:] = x[1]
    xp.add(x[3::2], x[1:-1:2], out=halves[1:, parts:])
    halves = _inverse(halves, half, xp)
    even, odd = halves[:, :parts], halves[:, parts:] * _like(_cosines(n), x)
    out = _empty(x, n, parts, xp)
    xp.add(even, odd, out=out[:half])
    out[half:] = xp.flip(even - odd, (0,))
    return out


@cache
def _cosines(n: int) -> NDArray[np.float32]:
    """1 / (2 cos((2i+1) pi / 2n)), shaped to multiply along the first axis of four."""
    return np.array([1 / (2 * cos((2 * i + 1) * pi / (2 * n))) for i in range(n // 2)], np.float32).reshape(-1, 1, 1, 1)


@cache
def _scale_2d(side: int) -> NDArray[np.float32]:
    """s_v * s_u with s_0 = sqrt(1/side), s_k = sqrt(2/side): the same for both directions, as the transform is orthonormal."""
    s = [sqrt(1 / side)] + [sqrt(2 / side)] * (side - 1)
    return np.array([[v * u for u in s] for v in s], np.float32)


def _empty(x: Any, n: int, parts: int, xp: Any) -> Any:
    shape = (n, parts, *x.shape[2:])
    return np.empty(shape, np.float32) if xp is np else x.new_empty(shape)


def _like(constant: NDArray[np.float32], x: Any) -> Any:
    return constant if isinstance(x, np.ndarray) else torch.from_numpy(constant).to(x.device)
