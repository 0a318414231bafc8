"""The agreed update of one fragment on its way into the weights: decoded and applied in one pass where the fused kernels know how."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from thinwire.comms.codec import Plan, Values
from thinwire.kernels import dispatch
from thinwire.kernels.finish import Finish, Out, apply
from thinwire.optim.aggregate import Aggregator, contributors, mean
from thinwire.optim.fragment import Fragment


class Update(Protocol):
    """What members agreed to do to some tensors."""

    def flat(self, like: Sequence[Tensor]) -> Tensor:
        """The update as `(numel,)` float32; `like` are the tensors it is for."""
        ...

    def apply(self, targets: Sequence[Tensor], finish: Finish) -> None:
        """Change `targets` in place, as `finish` says."""
        ...


@dataclass(frozen=True, eq=False)
class Plain(Update):
    """An update that is already decoded: `(numel,)` float32."""

    values: Tensor

    def flat(self, like: Sequence[Tensor]) -> Tensor:
        return self.values

    def apply(self, targets: Sequence[Tensor], finish: Finish) -> None:
        apply(finish, self.values, targets)


@dataclass(frozen=True, eq=False)
class Coded(Update):
    """Payloads of the members that count, in member order, each checked."""

    fragment: Fragment
    payloads: Sequence[Tensor]
    contributors: bool

    def flat(self, like: Sequence[Tensor]) -> Tensor:
        out = torch.empty(self.fragment.numel, dtype=torch.float32, device=self.payloads[0].device)
        self.apply(like, Out(out))
        return out

    def apply(self, targets: Sequence[Tensor], finish: Finish) -> None:
        assert self.fragment.plan.program is not None
        dispatch.decode(self.fragment.plan.program, self.payloads, targets, finish, contributors=self.contributors)


def sound(plan: Plan, payload: Tensor) -> bool:
    """Whether a payload of the right length is one that an encoder of this plan can have made."""
    if plan.program is not None and dispatch.runs_fused(plan.program, payload.device):
        return dispatch.check(plan.program, payload) < 0
    return bool(plan.read(payload)[1].all())


def combine(fragment: Fragment, payloads: Sequence[Tensor], aggregate: Aggregator) -> Update:
    """One update of the sound payloads of some members, in member order."""
    plan, fused = fragment.plan, dispatch.runs_fused(fragment.plan.program, payloads[0].device)
    if aggregate in (mean, contributors) and fused:
        return Coded(fragment, payloads, contributors=aggregate is contributors)
    read = partial(_dense, fragment) if fused and not plan.codec.sparse and not plan.codec.basis else plan.values
    summed = aggregate(plan, [read(payload) for payload in payloads])
    return Plain(fragment.flat(plan.inverse(summed)))


def _dense(fragment: Fragment, payload: Tensor) -> Values:
    """All coefficients of one payload, which outside of a basis are what the fused kernels decode it to."""
    nowhere = torch.empty((), dtype=torch.float32, device=payload.device)
    flat = Coded(fragment, [payload], contributors=False).flat([nowhere.expand(shape) for shape in fragment.shapes])
    return Values(fragment.matrix(flat), None)
