"""The specification of whole chains, in numpy: what every fused kernel computes from a `Program`, one row at a time.

    encode_rows   source rows -> payload, what is kept of them, how many numbers were not finite
    decode_rows   payloads of several members -> their aggregate, still in the basis
    to_matrix     tensors -> the rows of a fragment; `to_tensors` back

Slow and plain. `Plan` and `thinwire.optim.residual` are the same in torch, the C++ library and the Triton kernels in one pass.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.kernels import dct, reference
from thinwire.kernels.program import Program, Select, Value
from thinwire.kernels.reference import Bytes, Row
from thinwire.kernels.reference_record import Sent, pack_row, read_row

Matrix = NDArray[np.float32]

PAYBACK = np.float32(2.0**-100)  # what a vote on nothing leaves behind, with the other sign


def encode_rows(
    program: Program, x: Matrix, held: Matrix | None, decay: float, gain: float = 1.0, *, anchor: Matrix | None = None
) -> tuple[Bytes, Matrix, int]:
    """`(rows, chunk)` float32 outside the basis to `(nbytes,)` payload, `(rows, chunk)` kept in the basis, and the count of bad numbers.

    `x` may be of a shorter float and is widened; with an anchor the source is anchor - x. `held` is what was kept before, or None.
    """
    with np.errstate(all="ignore"):  # NaN and Inf are counted, not warned of
        source = x.astype(np.float32) if anchor is None else anchor - x.astype(np.float32)
        fresh, bad = reference.flush(source)
        if program.side:
            fresh = dct.dct_tiles(fresh, program.side)
        wholes = accumulate(fresh, held, decay, gain)
        records = [encode_row(program, whole, row) for row, whole in enumerate(wholes)]
        kept = [keep(program, whole, read_row(program, record)) for whole, record in zip(wholes, records, strict=True)]
    payload = np.array(records, np.uint8).reshape(program.nbytes)
    return payload, np.array(kept, np.float32).reshape(program.rows, program.chunk), bad


def accumulate(fresh: Matrix, held: Matrix | None, decay: float, gain: float) -> Matrix:
    """decay * held + gain * fresh: two products and a sum, each rounded. A decay of 0 forgets."""
    gained = fresh * np.float32(gain)
    if held is None or decay == 0:
        return gained
    return reference.flush(held)[0] * np.float32(decay) + gained


def encode_row(program: Program, whole: Row, row: int) -> Bytes:
    """The record of row number `row`."""
    numbers, _ = reference.flush(whole)
    places = select(program, numbers)
    return pack_row(program, Sent(places, numbers[places]), row)


def select(program: Program, numbers: Row) -> reference.Index:
    """The places of the coefficients that are sent, ascending."""
    if program.select == Select.TOP_K:
        return reference.top_k(numbers, program.k)
    if program.select == Select.BLOCK_MAX:
        return reference.block_max(numbers, program.block)
    return np.arange(program.chunk)


def keep(program: Program, whole: Row, sent: Sent) -> Row:
    """What stays of a row once the receivers have what they decode. A vote counts as all of its coefficient."""
    kept = whole.copy()
    before = whole[sent.places]
    if program.value == Value.VOTE:
        spent = np.where(before == 0, sent.values * -PAYBACK, np.float32(0))
        kept[sent.places] = np.where(sent.values == 0, before, spent)
    else:
        kept[sent.places] = before - sent.values
    return kept


def decode_rows(program: Program, payloads: NDArray[np.uint8], contributors: bool = False) -> Matrix:
    """`(members, nbytes)` sound payloads to their `(rows, chunk)` aggregate in the basis: summed in member order, then divided once.

    By how many members there are or, with `contributors`, each coefficient by how many sent it. Raises `Unsound`.
    """
    total = np.zeros((program.rows, program.chunk), np.float32)
    count = np.zeros_like(total)
    for payload in payloads:
        for row, record in enumerate(payload.reshape(program.rows, program.record)):
            sent = read_row(program, record)
            total[row, sent.places] += sent.values
            count[row, sent.places] += 1
    divisor = np.maximum(count, np.float32(1)) if contributors else np.float32(len(payloads))
    return (total / divisor).astype(np.float32)


def to_matrix(program: Program, tensors: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Tensors of one dtype as the `(rows, chunk)` matrix of their fragment: tiles of all, then the pool of what is left, zero-padded.

    A tensor is a sheet of first dimension x the rest; with fewer than two dimensions it is one row of a sheet.
    """
    tiles, pool = [], []
    for sheet in map(_sheet, tensors):
        cut, edges = _cut(sheet, program.side)
        tiles += cut
        pool += edges
    flat = np.concatenate([part.reshape(-1) for part in [*tiles, *pool]]) if tensors else np.zeros(0, np.float32)
    return np.pad(flat, (0, program.rows * program.chunk - flat.size)).reshape(program.rows, program.chunk)


def to_tensors(program: Program, matrix: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[Any]]:
    """A matrix back to tensors of these shapes; the padding is dropped."""
    tensors = [np.empty(shape, matrix.dtype) for shape in shapes]
    parts = [_cut(_sheet(tensor), program.side) for tensor in tensors]
    flat, taken = matrix.reshape(-1), 0
    for view in [*(tile for tiles, _ in parts for tile in tiles), *(edge for _, edges in parts for edge in edges)]:
        view[...] = flat[taken : taken + view.size].reshape(view.shape)
        taken += view.size
    return tensors


def _sheet(tensor: NDArray[Any]) -> NDArray[Any]:
    if tensor.ndim < 2 or not tensor.size:
        return tensor.reshape(1, tensor.size)
    return tensor.reshape(tensor.shape[0], -1)


def _cut(sheet: NDArray[Any], side: int) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Views of the whole tiles of a sheet, row by row, and of the edges: right of the tiles, then below them."""
    down, across = (sheet.shape[0] // side, sheet.shape[1] // side) if side else (0, 0)
    starts = [(side * i, side * j) for i in range(down) for j in range(across)]
    tiles = [sheet[i : i + side, j : j + side] for i, j in starts]
    return tiles, [sheet[: down * side, across * side :], sheet[down * side :]]
