"""What an optimizer of ours tells a logger, and how it is found below the wrappers of frameworks.

opt = thinwire.DiLoCo(inner, on_round=to(writer))       a TensorBoard SummaryWriter, a wandb or trackio run
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thinwire.optim.base import Synchronised
from thinwire.optim.ledger import RoundInfo, Stats

PREFIX = "thinwire/"


def ours(optimizer: Any) -> Synchronised:
    """The `DiLoCo` or `DeMo` in whatever a framework has put around it. Raises `TypeError` when there is none."""
    inside = optimizer
    while inside is not None and not isinstance(inside, Synchronised):
        inside = vars(inside).get("optimizer", vars(inside).get("_optimizer")) if hasattr(inside, "__dict__") else None
    if inside is None:
        raise TypeError(
            f"the optimizer is {type(optimizer).__name__}, which exchanges nothing; wrap it: thinwire.DiLoCo(torch.optim.AdamW(...)), and "
            "give that to the framework"
        )
    return inside


def scalars(stats: Stats) -> dict[str, float]:
    """Totals so far, in numbers of which curves are drawn."""
    told = {
        "rounds": float(stats.rounds),
        "nothing_averaged": float(stats.nothing_averaged),
        "sent_mb": stats.wire_sent / 1e6,
        "received_mb": stats.wire_received / 1e6,
    }
    if stats.last is not None and not _ends(stats.last):
        told["members"] = float(len(stats.last.members))
    return {PREFIX + name: value for name, value in told.items()}


def of_round(info: RoundInfo) -> dict[str, float]:
    """One round, in numbers of which curves are drawn."""
    told = {
        "members": float(len(info.members)),
        "sent_mb": info.wire_sent / 1e6,
        "received_mb": info.wire_received / 1e6,
        "delta_norm": info.delta_norm,
        "residual_norm": info.residual_norm,
    }
    return {PREFIX + name: value for name, value in told.items() if value is not None}


def _ends(info: RoundInfo) -> bool:
    """The round in which everybody has only said that it is done: a curve that ends in its zeros would be misread."""
    return not info.members and info.error is None


def to(logger: Any) -> Callable[[RoundInfo], None]:
    """An `on_round` for a TensorBoard `SummaryWriter` (anything with `add_scalar`), or a wandb or trackio run (anything with `log`).

    Raises `TypeError` for what is neither.
    """
    if hasattr(logger, "add_scalar"):

        def put(numbers: dict[str, float], at: int) -> None:
            for name, value in numbers.items():
                logger.add_scalar(name, value, at)
    elif hasattr(logger, "log"):

        def put(numbers: dict[str, float], at: int) -> None:
            logger.log(numbers | {PREFIX + "round": at})
    else:
        raise TypeError(f"{type(logger).__name__} has neither add_scalar nor log; give a SummaryWriter, a wandb run or a trackio run")

    def tell(info: RoundInfo) -> None:
        if not _ends(info):
            put(of_round(info), info.round)

    return tell
