"""What an optimizer refuses before it begins: each error says what was given, what is expected, and what to do."""

import logging
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from thinwire.comms.group import Group

log = logging.getLogger("thinwire")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def positive(name: str, value: int) -> int:
    """`value` as an int; raises `ValueError` when it is no positive whole number."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; choose a positive whole number")
    return number


def overlap(value: int, sync_every: int) -> int:
    """`value` as an int; raises `ValueError` when so many steps do not fit between two rounds."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < sync_every or isinstance(value, bool):
        raise ValueError(f"overlap is {value!r}; choose 0 (wait for every round) to {sync_every - 1} (sync_every - 1) steps")
    return number


def on_round(given: object) -> None:
    """Raises `TypeError` for what cannot be called."""
    if given is not None and not callable(given):
        raise TypeError(f"on_round is {given!r}; give a function of a RoundInfo, or None")


def group(given: object) -> None:
    """Raises `TypeError` for what holds no members."""
    if given is not None and not isinstance(given, Group | torch.distributed.ProcessGroup) and not hasattr(given, "get_group"):
        raise TypeError(f"group is {given!r}; give a Group, a ProcessGroup, a DeviceMesh, or None for the torchrun environment")


def dtypes(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raises `TypeError` naming the first parameter that float32 cannot hold."""
    for name, p in named:
        if p.dtype not in DTYPES:
            raise TypeError(f"{name} is {p.dtype}; members exchange float32: convert the model to float32, bfloat16 or float16")


def warn_of_frozen(i: int, params: Sequence[Tensor]) -> None:
    """Say how much of parameter group `i` is exchanged though it never changes."""
    frozen, everything = sum(p.numel() for p in params if not p.requires_grad), sum(p.numel() for p in params)
    if frozen:
        log.warning("%d of %d numbers of group %d are frozen, and exchanged all the same: leave them out", frozen, everything, i)
