"""The one way from optimizers and codecs to the fused kernels: any tensors in, one operator of `thinwire.kernels.ops` a call.

Kernels take contiguous tensors of a few dtypes. What they do not take goes by way of copies, with the bits that torch's own operations on
that dtype would give.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from thinwire.kernels import native, ops
from thinwire.kernels.finish import Finish, Out, Sgd, apply
from thinwire.kernels.native import Encoded
from thinwire.kernels.program import Program

HAS_TRITON = find_spec("triton") is not None  # asked once; importing it takes a second


def runs_fused(program: Program | None, device: str | torch.device) -> bool:
    """Whether fused kernels can run this here: there is a program, and C++ for a CPU, Triton for a GPU. Otherwise the stages run."""
    if program is None:
        return False
    kind = torch.device(device).type
    return native.available() if kind == "cpu" else kind == "cuda" and HAS_TRITON


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
    """Residual, basis, selection, quantisation and packing in one pass; see `thinwire.kernels.native.encode`.

    - `sources`: of any layout and floating dtype, on one device; `x` is they as float32, end to end, or `anchor - x`.
    - `kept`: contiguous `(rows, chunk)` float32 to write the new residual into, or None for new memory.

    Raises `ValueError` for a program or a layout that the kernels do not know.

    >>> from thinwire.comms.recipes import codec
    >>> encode(codec("blockmax").plan(1).program, [torch.ones(4096)]).payload.numel()
    60
    """
    taken = [_taken(source, native.SOURCES) for source in sources]
    if not taken:  # an operator needs a tensor to know its device
        given = next((tensor for tensor in (held, anchor, kept) if tensor is not None), None)
        taken = [torch.empty(0, device=None if given is None else given.device)]
    if not state:
        kept = None
    elif kept is None:
        kept = torch.empty((program.rows, program.chunk), dtype=torch.float32, device=taken[0].device)
    payload, stats = ops.encode(taken, _contiguous(anchor), _contiguous(held), kept, tuple(program), decay, gain, code)
    return Encoded(payload, kept, stats)


@_disable_dynamo(recursive=True)  # memory, no computation to compile
def residual(rows: int, chunk: int, device: torch.device) -> Tensor:
    """`(rows, chunk)` float32 zeros for a residual, in memory that the kernels read and write fast."""
    return native.residual(rows, chunk) if device.type == "cpu" else torch.zeros((rows, chunk), dtype=torch.float32, device=device)


def check(program: Program, payload: Tensor) -> int:
    """The first row of a payload that no encoder of this program can have made, or -1."""
    return int(ops.check(payload, tuple(program)))


def decode(program: Program, payloads: Sequence[Tensor], targets: Sequence[Tensor], finish: Finish, *, contributors: bool = False) -> None:
    """Sum payloads in order, divide, undo the basis and finish, in one pass; see `thinwire.kernels.native.decode`.

    - `payloads`: of at least one member; each must have passed `check`.
    - `targets`: tensors with the shapes of the fragment, of any layout and floating dtype. `Step` and `Sgd` change them in place, rounding
      where torch's operations on that dtype would; for `Out` only their shapes matter.
    - `contributors`: divide each coefficient by the members that sent it, instead of by all.

    Raises `ValueError` for a program or a layout that the kernels do not know.
    """
    parts, integers = list(payloads), tuple(program)
    if isinstance(finish, Out):
        ops.decode_out(parts, list(targets), finish.out, integers, contributors)
        return
    if torch.is_grad_enabled() and any(target.requires_grad for target in targets):
        raise RuntimeError("decode changes tensors that require grad; call it under torch.no_grad()")
    if any(target.dtype not in native.TARGETS for target in targets):
        update = torch.empty(sum(target.numel() for target in targets), dtype=torch.float32, device=targets[0].device)
        ops.decode_out(parts, list(targets), update, integers, contributors)
        apply(finish, update, targets)
        return
    moved = [target.contiguous() for target in targets]
    if isinstance(finish, Sgd):
        lr, momentum = finish.lr, finish.momentum
        ops.sgd_(parts, moved, finish.anchor, finish.buffer, integers, contributors, lr, momentum, finish.nesterov)
    else:
        ops.step_(parts, moved, integers, contributors, finish.lr, finish.keep, finish.sign)
    for target, copy in zip(targets, moved, strict=True):
        if copy is not target:
            target.copy_(copy)


def dct_tiles(x: Tensor, side: int) -> Tensor:
    """`(tiles, side*side)` float32 to its orthonormal 2-D DCT-II, order column frequency * side + row frequency."""
    tiles: Tensor = ops.dct_tiles(x, side)
    return tiles


def idct_tiles(x: Tensor, side: int) -> Tensor:
    """The inverse of `dct_tiles`."""
    tiles: Tensor = ops.idct_tiles(x, side)
    return tiles


def _taken(tensor: Tensor, dtypes: Sequence[torch.dtype]) -> Tensor:
    if tensor.dtype not in dtypes:
        tensor = tensor.to(torch.float32)
    return tensor.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
