"""What of a pseudo-gradient shows: the visibility gate of PULSELoCo (arXiv:2602.03839).

At the learning rates of reinforcement learning (1e-6 .. 3e-6) most of what a few steps change is below half a unit in the last place of
the bfloat16 weights that everybody computes with. An entry of r = residual + delta is coded only where it shows,

    low(anchor - outer_lr * r) != low(anchor)         low: rounded to the short type; anchor, r and the difference float32

and is zero in the payload elsewhere, where all of it stays in the residual, bit for bit, until enough has gathered. Whether it shows is
asked of a member's own contribution, as if it were alone: others need not be known, so a payload is made before any other arrives. What
the mean over members then moves by less than shows is kept in the float32 anchor. Nothing is lost either way.

The gate is a matter of the encoder alone: payloads keep their planned size, decoders see ordinary zeros. What is saved is saved by a
transport that codes zeros short (`thinwire.comms.lossless`, in a `SwarmGroup`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.comms.codec import Codec
from thinwire.kernels.vector import LARGEST, SMALLEST
from thinwire.optim.fragment import local
from thinwire.optim.outer import SGD, OuterRule

DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Gate:
    """Which entries show in weights of type `dtype` once the outer step of learning rate `lr` (no momentum) has moved them.

    >>> gate = Gate(torch.bfloat16, 1.0)
    >>> gate.shows(torch.ones(3), torch.tensor([1e-3, 3e-3, -5e-3]))
    tensor([False,  True,  True])
    """

    dtype: torch.dtype
    lr: float

    def shows(self, anchor: Tensor, r: Tensor) -> Tensor:
        """Bool of the shape of `anchor` and `r`, float32 both. What the wire cannot carry (denormals, NaN, above 2^100) never shows."""
        moved = anchor - (r if self.lr == 1.0 else r * self.lr)  # as the outer rule does it
        magnitude = r.abs()
        return (moved.to(self.dtype) != anchor.to(self.dtype)) & (magnitude >= SMALLEST) & (magnitude <= LARGEST)


def source(anchor: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """`(numel,)` float32: what a window changed in tensors that held `anchor`, each rounded to its own type, when it began.

    Without a gate a window of bfloat16 parameters is measured from the float32 anchor: its first payload carries what the rounding cut
    off, and that is the end of it. Behind a gate that would stay in the residual, be added to it in every round, and show by and by
    though nobody has learnt it.
    """
    if not tensors:
        return anchor.clone()
    began = anchor.split([local(tensor).numel() for tensor in tensors])
    parts = []
    for held, tensor in zip(began, tensors, strict=True):
        now = local(tensor).detach().reshape(-1)
        parts.append(held.to(now.dtype).to(torch.float32) - now.to(torch.float32))
    return torch.cat(parts)


def built(
    dtype: torch.dtype,
    codec: Codec,
    *,
    lr: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    outer: OuterRule | None = None,
    decay: float | None = None,
) -> Gate:
    """The gate for these settings of `DiLoCo`; raises `ValueError` for what it cannot be combined with.

    It must know where a contribution moves the weights, the codec must have a zero for what does not show, and all of that must stay.
    """
    if dtype not in DTYPES:
        raise ValueError(f"visible is {dtype!r}; give the type that the weights are computed with, torch.bfloat16 or torch.float16")
    if codec.basis:
        raise ValueError(f"visible= asks of every weight by itself, but {codec} sends sums of many; choose a codec without a basis")
    if not _has_zero(codec):
        raise ValueError(f"visible= sends zeros for what does not show, but {codec} has no code for zero; choose int8, int4 or topk")
    if outer is not None or momentum or nesterov:
        raise ValueError("visible= asks what one contribution changes, which momentum and a rule of your own hide; give outer_lr alone")
    if decay not in (None, 1.0):
        raise ValueError(f"decay is {decay}, but visible= keeps what does not show until it does; leave decay out, or give 1.0")
    return Gate(dtype, SGD(1.0 if lr is None else lr).lr)


def _has_zero(codec: Codec) -> bool:
    """Whether zeros beside a number arrive as zeros."""
    plan = codec.plan(1, codec.chunk or 64)
    alone = torch.zeros(plan.rows, plan.chunk)
    alone[0, 0] = 1.0
    return int(plan.decode(plan.encode(alone)).count_nonzero()) == 1
