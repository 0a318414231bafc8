"""Golomb-Rice coding of the places in a row: the shortest simple code, of another length in every row.

Records on the wire have a fixed size (Elias-Fano: 8 bits an index at 64 of 4096), so that they can be sent by equal-size collectives and
read anywhere. This is a recoding for a transport that carries any length, or a file: 7.5 bits an index there (7.55 with the padding of rows
to bytes; the entropy is 7.36).

A row is one stream of bits, from the least significant bit of the first byte, padded with zeros to a whole byte. For every index in
ascending order: gap = index - previous - 1 (the first: the index itself), then `gap >> b` ones, a zero, and the low `b` bits of the gap.

`rice` and `unpack_rice` (numpy) are the specification, `rice_rows` and `unpack_rice_rows` the same for all rows of a torch tensor.

S. W. Golomb, Run-length encodings, 1966; R. F. Rice, JPL Publication 79-22, 1979.
"""

import numpy as np
import torch
from torch import Tensor

from thinwire.kernels import vector
from thinwire.kernels.reference import Bytes, Index
from thinwire.kernels.reference_read import Unsound, require, require_places


def rice_parameter(k: int, chunk: int) -> int:
    """The number of low bits that codes k random indices of `chunk` in the fewest bits: 5 for 64 of 4096."""
    absent = 1 - k / chunk
    return min(range(16), key=lambda b: b + 1 / (1 - absent ** (1 << b))) if k else 0


def rice_nbytes(k: int, chunk: int, b: int) -> int:
    """The most bytes that a row can take."""
    return (k * (1 + b) + (chunk >> b) + 7) // 8


def rice(index: Index, chunk: int, b: int) -> Bytes:
    """Ascending indices below `chunk` to the bytes of their stream."""
    gaps = np.diff(index, prepend=-1) - 1
    bits: list[int] = []
    for gap in gaps.tolist():
        bits += [1] * (gap >> b) + [0] + [gap >> p & 1 for p in range(b)]
    return np.packbits(np.array(bits, np.uint8), bitorder="little")


def unpack_rice(packed: Bytes, k: int, chunk: int, b: int) -> Index:
    """The k indices of a stream; raises `Unsound` for bytes that `rice` can not have made."""
    bits = np.unpackbits(packed, bitorder="little").tolist()
    index, at, last = [], 0, -1
    for _ in range(k):
        try:
            zero = bits.index(0, at)
        except ValueError as error:
            raise Unsound("the stream ends within an index") from error
        low = bits[zero + 1 : zero + 1 + b]
        require(len(low) == b, "the stream ends within an index")
        last += 1 + (zero - at << b) + sum(bit << p for p, bit in enumerate(low))
        index.append(last)
        at = zero + 1 + b
    require(len(bits) - at < 8 and not any(bits[at:]), "the stream goes on behind the last index")
    places = np.array(index, np.int64)
    require_places(places, chunk)
    return places


def rice_rows(index: Tensor, chunk: int, b: int) -> tuple[Tensor, Tensor]:
    """`(rows, k)` ascending indices to `(rows, rice_nbytes)` bytes, zeros behind each stream, and `(rows,)` how many bytes it has."""
    rows, k = index.shape
    room = 8 * rice_nbytes(k, chunk, b)
    gaps = torch.diff(index, dim=1, prepend=index.new_full((rows, 1), -1)) - 1
    ones = gaps >> b
    end = (ones + 1 + b).cumsum(1)
    zero = end - 1 - b
    # A run of ones is +1 where it begins and -1 where it ends, summed up.
    edges = torch.zeros((rows, room + 1), dtype=torch.int32, device=index.device)
    step = torch.ones_like(zero, dtype=torch.int32)
    edges.scatter_add_(1, zero - ones, step).scatter_add_(1, zero, -step)
    bits = edges.cumsum(1)[:, :room].to(torch.uint8)
    for p in range(b):
        bits.scatter_(1, zero + 1 + p, (gaps >> p & 1).to(torch.uint8))
    sizes = (end[:, -1] + 7) // 8 if k else end.new_zeros(rows)
    return vector.pack_bits(bits, 1)[:, : room // 8], sizes


def unpack_rice_rows(packed: Tensor, sizes: Tensor, k: int, chunk: int, b: int) -> tuple[Tensor, Tensor]:
    """The `(rows, k)` int64 indices of the streams in the first `sizes` bytes of each row, and whether a row is sound; others read as 0."""
    rows, room = packed.shape[0], 8 * packed.shape[1]
    places = torch.arange(room, device=packed.device)
    used = 8 * sizes[:, None]
    bits = vector.unpack_bits(packed, 1, room)[0].masked_fill_(places >= used, 0)
    # For every place the next zero from there on. Behind the room there are more, so that no bytes lead out of the tensor.
    margin = room + 1 + b
    zeros = torch.where((bits == 0) & (places < used), places, margin)
    following = torch.cat([zeros.flip(1).cummin(1).values.flip(1), zeros.new_full((rows, margin + 1 - room), margin)], 1)
    bits = torch.nn.functional.pad(bits, (0, 2 * (b + 1) + 1)).to(torch.int64)
    at = torch.zeros((rows, 1), dtype=torch.int64, device=packed.device)
    index, last = [], torch.full_like(at, -1)
    for _ in range(k):
        zero = following.gather(1, at)
        low = sum((bits.gather(1, zero + 1 + p) << p for p in range(b)), torch.zeros_like(at))
        last = last + 1 + ((zero - at) << b) + low
        index.append(last)
        at = (zero + 1 + b).clamp_(max=margin)
    ended = (at <= used) & (used - at < 8) & (sizes[:, None] >= 0) & (used <= room)
    rest = (bits[:, :room].bool() & (places >= at)).any(1, keepdim=True)
    sound = (ended & ~rest & (last < chunk))[:, 0]
    found = torch.cat(index, 1) if k else at.new_zeros((rows, 0))
    return found.masked_fill_(~sound[:, None], 0), sound
