"""What a member sends of one fragment, made in one pass by the fused kernels where they know the codec, and by the stages otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

from thinwire.kernels import dispatch
from thinwire.kernels.vector import all_finite
from thinwire.optim import residual
from thinwire.optim.fragment import Fragment, gather_flat, local


@dataclass(frozen=True, eq=False)
class Message:
    """A payload and what becomes of the residual; nothing has changed yet, so a failed round leaves no trace.

    - `kept`: the residual once members count the payload, `whole()` the one when they do not; None where nothing is held.
    - `finite`: whether the source holds no NaN, no Inf and nothing above 2^100; else the payload must not be counted.
    - `norm`, `kept_norm`: Euclidean norms of the source (NaN when not finite) and of `kept`, for the ledger.
    """

    payload: Tensor
    kept: Tensor | None
    whole: Callable[[], Tensor | None]
    finite: bool
    norm: float
    kept_norm: float


def encode(
    fragment: Fragment,
    tensors: Sequence[Tensor],
    *,
    anchor: Tensor | None = None,
    held: Tensor | None = None,
    spare: Tensor | None = None,
    decay: float,
) -> Message:
    """The message of `tensors`, or of anchor - tensors (a pseudo-gradient).

    - `anchor`: `(numel,)` float32. `held`: the residual, `(rows, chunk)` float32 in the basis, or None where none is kept.
    - `spare`: memory like `held` that `kept` may be written into.
    """
    sources = [local(tensor).detach() for tensor in tensors]
    program = fragment.plan.program
    device = sources[0].device if sources else torch.device("cpu")
    if program is None or not dispatch.runs_fused(program, device):
        return _by_stages(fragment, sources, anchor, held, decay)
    made = dispatch.encode(program, sources, anchor=anchor, held=held, decay=decay, state=held is not None, kept=spare)
    bad, squares, kept_squares = made.stats.tolist()

    def whole() -> Tensor | None:
        if held is None:
            return None
        return dispatch.encode(program, sources, anchor=anchor, held=held, decay=decay, code=False, kept=made.kept).kept

    return Message(made.payload, made.kept, whole, bad == 0, nan if bad else sqrt(squares), sqrt(kept_squares))


def silent(fragment: Fragment, device: torch.device) -> Message:
    """What a member sends whose payload is not to be counted."""
    nothing = torch.zeros(fragment.plan.nbytes, dtype=torch.uint8, device=device)
    return Message(nothing, None, lambda: None, True, 0.0, 0.0)


def _by_stages(fragment: Fragment, sources: Sequence[Tensor], anchor: Tensor | None, held: Tensor | None, decay: float) -> Message:
    flat = gather_flat(sources)
    if anchor is not None:
        flat = anchor - flat
    x = fragment.plan.forward(fragment.matrix(flat))
    coded = residual.encode(fragment.plan, held, x, decay=decay)
    finite = all_finite(flat)
    kept, whole = (coded.kept, coded.whole) if held is not None else (None, None)
    return Message(coded.payload, kept, lambda: whole, finite, norm([flat]) if finite else nan, norm([] if kept is None else [kept]))


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of several tensors together (for the ledger: not part of any agreed number)."""
    return sqrt(sum(float(tensor.square().sum(dtype=torch.float64)) for tensor in tensors))
