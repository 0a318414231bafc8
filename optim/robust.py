"""Aggregation among members of whom a few may be hostile or broken, and the choice of an aggregator.

`clipped` (what elastic groups do unless told otherwise): a payload that several members send counts once, and no payload counts for more
than the median norm. Payloads that are not finite were refused before. With 2 hostile members of 8 the loss stays within 1.25 times the
clean one (tests/optim/test_robust.py); what 2 of 8 honest-looking members can still do is pull their share of the way.

Norms are exact: squares of whole numbers whose sum float64 holds without rounding. Else it would depend on the order in which torch adds,
and so on the device and the number of threads, and replicas would part.
"""

from collections.abc import Sequence
from math import frexp, sqrt

import torch
from torch import Tensor

from thinwire.comms.codec import Codec, Plan, Values
from thinwire.optim.aggregate import Aggregator, contributors, mean, total

BITS = 16  # of the largest magnitude of a payload that its norm takes into account
BLOCK = 1 << 16  # coefficients at a time, as many as fit into a cache; exact up to 2^20, whose squares add up to 2^52


def clipped(plan: Plan, sent: Sequence[Values]) -> Tensor:
    """`contributors` (`mean` for dense codes) of payloads shortened to the median norm, copies counted once.

    The median is that of the payloads that are not zero, of an even number the larger of the two in the middle. Among four or more
    members what only one has sent counts half: on most coefficients of a sparse code a hostile member is alone.
    """
    norms = [norm(part.values) for part in sent]
    first = [i for i, part in enumerate(sent) if not any(norms[i] == norms[j] and _same(part, sent[j]) for j in range(i))]
    ranked = sorted(norms[i] for i in first if norms[i])
    median = ranked[len(ranked) // 2] if ranked else 0.0
    counted = [_shortened(sent[i], median / norms[i]) if norms[i] > median else sent[i] for i in first]
    summed, count = total(plan, counted)
    if count is None:
        return summed / torch.full_like(summed, len(counted))
    return summed / count.clamp_(min=2.0 if len(sent) >= 4 else 1.0)


def trimmed(plan: Plan, sent: Sequence[Values]) -> Tensor:
    """The mean of each coefficient without the quarter of the members with the largest and the quarter with the smallest."""
    if len(sent) < 3:
        return mean(plan, sent)
    cut = max(len(sent) // 4, 1)
    ordered = _ordered(sent)[cut : len(sent) - cut]
    return mean(plan, [Values(values, None) for values in ordered])


def median(plan: Plan, sent: Sequence[Values]) -> Tensor:
    """The middle of each coefficient's values, or the mean of the two in the middle."""
    ordered, half = _ordered(sent), len(sent) // 2
    return mean(plan, [Values(values, None) for values in ordered[(len(sent) - 1) // 2 : half + 1]])


def norm(values: Tensor) -> float:
    """The Euclidean norm to 16 bits of the largest magnitude: the same bits on every device, whatever the order of the sum."""
    flat = values.reshape(-1)
    largest = float(flat.abs().amax()) if flat.numel() else 0.0
    if largest == 0.0:
        return 0.0
    exponent = frexp(largest)[1]
    total = 0
    for block in flat.split(BLOCK):
        whole = block.double().mul_(2.0 ** (BITS - exponent)).round_()
        total += int(torch.dot(whole, whole))
    return sqrt(total) * 2.0 ** (exponent - BITS)


def _shortened(part: Values, factor: float) -> Values:
    return Values(part.values * torch.full((), factor, dtype=torch.float32, device=part.values.device), part.index)


def _same(left: Values, right: Values) -> bool:
    if (left.index is None) != (right.index is None) or not torch.equal(left.values, right.values):
        return False
    return left.index is None or right.index is None or torch.equal(left.index, right.index)


def _ordered(sent: Sequence[Values]) -> list[Tensor]:
    """Each coefficient's values from the smallest to the largest."""
    return list(torch.stack([part.values for part in sent]).sort(0).values)


AGGREGATORS: dict[str, Aggregator] = {"mean": mean, "contributors": contributors, "clipped": clipped, "trimmed": trimmed, "median": median}
DENSE_ONLY = {
    "median": "most members send nothing of a coefficient, so that its median is zero whatever the others have learnt",
    "trimmed": "most members send nothing of a coefficient, so that what is cut off is all that anybody sent",
}


def aggregator(choice: str | Aggregator, codec: Codec) -> Aggregator:
    """An aggregator from its name or itself; raises `ValueError` for an unknown name, or one that cannot work with this codec."""
    if callable(choice):
        return choice
    if choice not in AGGREGATORS:
        raise ValueError(f"aggregate is {choice!r}; choose one of {', '.join(AGGREGATORS)}, or pass a function")
    if choice in DENSE_ONLY and codec.sparse:
        raise ValueError(
            f"aggregate is {choice!r}, but {codec} is sparse: {DENSE_ONLY[choice]}. Choose 'clipped', or a dense codec such as 'int8'"
        )
    return AGGREGATORS[choice]
