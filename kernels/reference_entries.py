"""The entries of `native` computed by the numpy specification: where there is no C++ library.

    encode, check, decode    the arguments and the bits of `thinwire.kernels.native`, thousands of times slower

The specification works row by row on numpy arrays; here tensors become rows, and rows tensors.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thinwire.kernels import dct, reference, reference_chain
from thinwire.kernels.finish import Finish, apply
from thinwire.kernels.native import Encoded
from thinwire.kernels.program import Program
from thinwire.kernels.reference_chain import Matrix
from thinwire.kernels.reference_read import Unsound
from thinwire.kernels.reference_record import read_row


def encode(
    program: Program,
    sources: Sequence[Tensor],
    *,
    anchor: Tensor | None = None,
    held: Tensor | None = None,
    decay: float = 1.0,
    gain: float = 1.0,
    state: bool = True,
    code: bool = True,
    kept: Tensor | None = None,
) -> Encoded:
    """`native.encode`."""
    x = _matrix(program, sources)
    if anchor is not None:
        parts = anchor.detach().split([source.numel() for source in sources])
        x = _matrix(program, [part.view(source.shape) for part, source in zip(parts, sources, strict=True)]) - x
    before = None if held is None else held.detach().view(program.rows, program.chunk).numpy()
    with np.errstate(all="ignore"):
        flushed, bad = reference.flush(x)
    if code:
        payload, left, _ = reference_chain.encode_rows(program, x, before, decay, gain)
    else:
        fresh = dct.dct_tiles(flushed, program.side) if program.side else flushed
        payload, left = np.zeros(0, np.uint8), reference_chain.accumulate(fresh, before, decay, gain)
    stats = torch.tensor([bad, *(np.square(part, dtype=np.float64).sum() for part in (flushed, left))], dtype=torch.float64)
    if not state:
        return Encoded(torch.from_numpy(payload), None, stats)
    kept = torch.empty((program.rows, program.chunk), dtype=torch.float32) if kept is None else kept
    kept.view(program.rows, program.chunk).copy_(torch.from_numpy(left))
    return Encoded(torch.from_numpy(payload), kept, stats)


def check(program: Program, payload: Tensor) -> int:
    """`native.check`."""
    for row, record in enumerate(_records(program, payload)):
        try:
            read_row(program, record)
        except Unsound:
            return row
    return -1


def decode(program: Program, payloads: Sequence[Tensor], targets: Sequence[Tensor], finish: Finish, *, contributors: bool = False) -> None:
    """`native.decode`."""
    if not payloads:
        raise ValueError("decode got no payloads; a round in which nothing counts has no update")
    records = np.stack([_records(program, payload).reshape(-1) for payload in payloads])
    rows = reference_chain.decode_rows(program, records, contributors)
    update = dct.idct_tiles(rows, program.side) if program.side else rows
    parts = reference_chain.to_tensors(program, update, [tuple(target.shape) for target in targets])
    flat = np.concatenate([part.reshape(-1) for part in parts]) if parts else np.zeros(0, np.float32)
    apply(finish, torch.from_numpy(flat), targets)


def _matrix(program: Program, tensors: Sequence[Tensor]) -> Matrix:
    return reference_chain.to_matrix(program, [tensor.detach().to(torch.float32).numpy() for tensor in tensors])


def _records(program: Program, payload: Tensor) -> reference.Bytes:
    if payload.shape != (program.nbytes,) or payload.dtype != torch.uint8:
        raise ValueError(f"payload is {tuple(payload.shape)} {payload.dtype}, expected ({program.nbytes},) uint8")
    return payload.contiguous().numpy().reshape(program.rows, program.record)
