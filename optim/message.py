"""What a member sends of one fragment, made in one pass by the fused kernels where they know the codec, and by the stages otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

from thinwire.kernels import dispatch
from thinwire.kernels.vector import all_finite, flush
from thinwire.optim import residual
from thinwire.optim.fragment import Fragment, gather_flat, local
from thinwire.optim.gate import Gate, source


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
    gate: Gate | None = None,
) -> Message:
    """The message of `tensors`, or of anchor - tensors (a pseudo-gradient).

    - `anchor`: `(numel,)` float32. `held`: the residual, `(rows, chunk)` float32 in the basis, or None where none is kept.
    - `spare`: memory like `held` that `kept` may be written into.
    - `gate`: sends only what shows; needs `anchor` and `held`, and a codec without a basis.
    """
    if gate is not None:
        assert anchor is not None and held is not None
        return _gated(fragment, tensors, anchor, held, decay, gate)
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


def _gated(fragment: Fragment, tensors: Sequence[Tensor], anchor: Tensor, held: Tensor, decay: float, gate: Gate) -> Message:
    """What shows is coded, what does not stays: sent + kept equals whole bit for bit.

    The sum is made before the codec sees it, so it is that of the stages; the fused kernels only code what is left of it.
    """
    plan = fragment.plan
    flat = source(anchor, tensors)
    whole = residual.added(held, flush(fragment.matrix(flat)), decay=decay)
    shows = gate.shows(fragment.matrix(anchor), whole)
    visible = torch.where(shows, whole, 0.0)
    if plan.program is not None and dispatch.runs_fused(plan.program, visible.device):
        made = dispatch.encode(plan.program, [visible.view(-1)[: fragment.numel]])
        payload, left = made.payload, made.kept
        assert left is not None
    else:
        coded = residual.encode(plan, None, visible, decay=0.0)
        payload, left = coded.payload, coded.kept
    kept = torch.where(shows, left, whole)
    finite = all_finite(flat)
    return Message(payload, kept, lambda: whole, finite, norm([flat]) if finite else nan, norm([kept]))


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
