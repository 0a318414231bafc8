"""Payloads to one update: decode and sum in member order, on every member, from the same bytes.

`mean` divides by the members. `contributors` divides each coefficient by those that sent it: for sparse codes whose supports hardly
overlap that is a step up to as many times larger as there are members, and the better default (benchmarks/training/sweep).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thinwire.comms.codec import Plan, Values

Aggregator = Callable[[Plan, Sequence[Values]], Tensor]


def total(plan: Plan, sent: Sequence[Values]) -> tuple[Tensor, Tensor | None]:
    """The sum in member order, `(rows, chunk)` in the basis, and how many members sent each coefficient (None: all of them)."""
    if sent[0].index is None:
        summed = sent[0].values
        for part in sent[1:]:
            summed = summed + part.values
        return summed, None
    summed = sent[0].values.new_zeros((plan.rows, plan.chunk))
    count = torch.zeros_like(summed)
    for part in sent:
        assert part.index is not None
        # Indices are distinct within a member: gather, add, scatter has one order.
        summed.scatter_(1, part.index, summed.gather(1, part.index) + part.values)
        count.scatter_(1, part.index, count.gather(1, part.index) + 1.0)
    return summed, count


def mean(plan: Plan, sent: Sequence[Values]) -> Tensor:
    """The sum over members divided by how many there are."""
    summed, _ = total(plan, sent)
    return summed / torch.full_like(summed, len(sent))


def contributors(plan: Plan, sent: Sequence[Values]) -> Tensor:
    """Each coefficient's sum divided by how many members sent it; equal to `mean` for dense codes."""
    summed, count = total(plan, sent)
    return summed / (torch.full_like(summed, len(sent)) if count is None else count.clamp_(min=1.0))
