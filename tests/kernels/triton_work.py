"""What the tests of the Triton kernels run in another process: with TRITON_INTERPRET or without, which Triton reads when it is imported.

Arrays of numpy go in and come out; Triton is imported in here only.
"""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thinwire.kernels.finish import Finish, Out, Sgd, Step
from thinwire.kernels.program import Program

Array = NDArray[Any]
Encoded = tuple[Array, Array | None, Array]


def begin(interpret: bool) -> None:
    """Set up the process."""
    os.environ["TRITON_INTERPRET"] = "1" if interpret else "0"
    np.seterr(all="ignore")  # NaN and Inf are meant
    torch.set_num_threads(1)


def tensors(arrays: list[Array], dtype: str) -> list[torch.Tensor]:
    """Tensors of a dtype with the numbers of float32 arrays."""
    return [torch.from_numpy(array.copy()).to(getattr(torch, dtype)) for array in arrays]


def encode(
    program: Program,
    sources: list[Array],
    dtype: str = "float32",
    anchor: Array | None = None,
    held: Array | None = None,
    **options: Any,
) -> Encoded:
    from thinwire.kernels.triton_encode import encode

    own = [None if array is None else torch.from_numpy(array.copy()) for array in (anchor, held)]
    made = encode(program, tensors(sources, dtype), anchor=own[0], held=own[1], **options)
    return made.payload.numpy(), None if made.kept is None else made.kept.numpy(), made.stats.numpy()


def decode(program: Program, payloads: list[Array], shapes: list[tuple[int, ...]], *, contributors: bool = False) -> list[Array]:
    """The update in the tensors' shapes."""
    from thinwire.kernels.triton_decode import decode

    out = torch.full((sum(int(np.prod(shape)) for shape in shapes),), float("nan"))
    decode(program, _words(payloads), [torch.empty(shape) for shape in shapes], Out(out), contributors=contributors)
    parts = out.split([int(np.prod(shape)) for shape in shapes])
    return [part.view(shape).numpy() for part, shape in zip(parts, shapes, strict=True)]


def finish(
    program: Program, payloads: list[Array], weights: list[Array], dtype: str, kind: str, options: dict[str, Any], state: list[Array]
) -> tuple[list[Array], list[Array]]:
    """Weights, as float32, and the flat anchor and momentum after a decode that ends in Step or Sgd."""
    from thinwire.kernels.triton_decode import decode

    own, held = tensors(weights, dtype), tensors(state, "float32")
    todo: Finish = Step(**options) if kind == "step" else Sgd(held[0], buffer=held[1] if len(held) > 1 else None, **options)
    decode(program, _words(payloads), own, todo)
    return [weight.float().numpy() for weight in own], [array.numpy() for array in held]


def check(program: Program, payload: Array) -> int:
    from thinwire.kernels.triton_check import check

    return check(program, torch.from_numpy(payload.copy()))


def step(name: str, x: Array, *args: int) -> Array:
    """One of `thinwire.kernels.triton_ops`."""
    from thinwire.kernels import triton_ops

    done: Array = getattr(triton_ops, name)(torch.from_numpy(x.copy()), *args).numpy()
    return done


def _words(payloads: list[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(payload.copy()) for payload in payloads]
