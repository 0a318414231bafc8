"""What was not sent yet: error feedback and decoupled momentum are one rule with two constants.

    r <- decay * r + gain * x          x in the basis of the codec; two products and a sum, never fused; a denormal r counts as 0
    payload = encode(r);  r <- r - decode(payload)

decay 1, gain 1 is error feedback (1809.07599); decay .999 is DeMo's decoupled momentum (2411.19870). A second copy of this rule that
rounds differently would flip ties of the selection, so there is none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.comms.codec import Plan
from thinwire.kernels.vector import flush


@dataclass(frozen=True)
class Message:
    """A payload, and what the residual becomes: `kept` when members count the payload, `whole` when they do not."""

    payload: Tensor
    kept: Tensor
    whole: Tensor


def encode(plan: Plan, residual: Tensor | None, x: Tensor, *, decay: float, gain: float = 1.0) -> Message:
    """Add `x` to the residual and encode it; nothing is changed in place, so a failed round leaves no trace.

    `x` and `residual` are `(rows, chunk)` float32 in the basis; a residual of None is zero and stays unused (dense codecs).
    sent + kept equals whole bit for bit for every codec but `sign` (there to an ulp of the row's scale); a vote counts as all of its
    coefficient.
    """
    whole = added(residual, x, decay=decay, gain=gain)
    payload = plan.encode(whole)
    return Message(payload, _subtract(plan, whole, payload), whole)


def added(residual: Tensor | None, x: Tensor, *, decay: float, gain: float = 1.0) -> Tensor:
    """The residual with `x` in it: what is encoded."""
    whole = x if gain == 1.0 else x * gain
    if residual is not None and decay != 0.0:
        carried = flush(residual)  # what decays forever would become denormal, and slow
        whole = (carried if decay == 1.0 else carried * decay) + whole
    return whole


def _subtract(plan: Plan, whole: Tensor, payload: Tensor) -> Tensor:
    sent = plan.values(payload)
    held = whole if sent.index is None else whole.gather(1, sent.index)
    left = _after_vote(held, sent.values) if plan.codec.unitless else held - sent.values
    return left if sent.index is None else torch.scatter(whole, 1, sent.index, left)


_NEXT = 2.0**-100  # any gradient is larger


def _after_vote(held: Tensor, votes: Tensor) -> Tensor:
    """Who has voted is done. A block of zeros cannot abstain beside others that vote: it takes its vote back in the next round."""
    return torch.where(votes == 0, held, torch.where(held == 0, votes * -_NEXT, 0.0))
