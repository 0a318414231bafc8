"""How sure a count of refusals is."""

from collections.abc import Callable
from math import exp, lgamma, log, log1p

_HALVINGS = 60


def interval(found: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """The shares between which the true one lies when `found` of `of` independent trials had it: exact, two-sided.

    Raises `ValueError` for counts that cannot be. Source: Clopper and Pearson, Biometrika 26(4), 1934.

    >>> interval(0, 3000)[1] < 0.00123 < interval(0, 2990)[1] + 1e-5
    True
    """
    if not 0 <= found <= of or of < 1:
        raise ValueError(f"{found} of {of}; give a count that is not above the total, of at least one trial")
    tail = (1 - confidence) / 2
    least = 0.0 if found == 0 else _crossing(lambda share: 1 - _at_most(found - 1, of, share) < tail)
    most = 1.0 if found == of else _crossing(lambda share: _at_most(found, of, share) > tail)
    return least, most


def _crossing(before: Callable[[float], bool]) -> float:
    """The share up to which `before` holds."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2


def _at_most(found: int, of: int, share: float) -> float:
    """The probability of so many or fewer."""
    return sum(
        exp(lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1) + k * log(share) + (of - k) * log1p(-share)) for k in range(found + 1)
    )
