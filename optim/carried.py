"""What travels beside the tensors when a member joins: learning rates, counters and schedulers, as plain JSON.

It is the member's own, not agreed: nothing of it is part of a replica's bits. What comes from a peer is compared with what this member
has, number for number, before anything is changed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from torch import Tensor

from thinwire.comms.door import SnapshotError
from thinwire.optim.replica import PREFIX

MAX_NBYTES = 1 << 20  # of a peer's account of itself


def check(name: str, carried: object) -> None:
    """Raise `TypeError` for what has no state that plain JSON can hold."""
    if not callable(getattr(carried, "state_dict", None)) or not callable(getattr(carried, "load_state_dict", None)):
        raise TypeError(f"{name} is a {type(carried).__name__}; carry objects with state_dict and load_state_dict, such as schedulers")
    state = carried.state_dict()  # type: ignore[attr-defined]
    for key, value in state.items():
        if not isinstance(key, str) or not _is_plain(value):
            raise TypeError(
                f"{name}.state_dict()[{key!r}] is {value!r}, which is no plain JSON; carry an object whose state is numbers, strings, "
                "lists and dicts with string keys (newcomers take nothing else from a peer)"
            )


def pack(groups: Sequence[Mapping[str, Any]], steps: int, carried: Mapping[str, Any]) -> bytes:
    """The numbers of the parameter groups, the steps of this member, and the state of what it carries."""
    told = {
        "steps": steps,
        "groups": [{name: _plain(value) for name, value in group.items() if _is_number(name, value)} for group in groups],
        "carried": {name: thing.state_dict() for name, thing in carried.items()},
    }
    return json.dumps(told).encode()


def unpack(meta: bytes, groups: Sequence[dict[str, Any]], carried: Mapping[str, Any]) -> tuple[int, Callable[[], None]]:
    """The steps of the member that packed `meta`, and what takes over the rest. Raises `SnapshotError` for what is not like ours."""
    if len(meta) > MAX_NBYTES:
        raise SnapshotError(f"numbers of {len(meta)} bytes, at most {MAX_NBYTES}")
    try:
        told = json.loads(meta)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"numbers that are no JSON: {error}") from None
    if not isinstance(told, dict) or told.keys() != {"steps", "groups", "carried"}:
        raise SnapshotError("numbers of another kind than steps, groups and carried")
    steps, theirs, states = told["steps"], told["groups"], told["carried"]
    if not _like(0, steps) or not 0 <= steps < 1 << 53:
        raise SnapshotError(f"steps are {steps!r:.40}")
    if not isinstance(theirs, list) or len(theirs) != len(groups) or not all(isinstance(group, dict) for group in theirs):
        raise SnapshotError(f"numbers of other parameter groups than our {len(groups)}")
    for mine, group in zip(groups, theirs, strict=True):
        for name, value in group.items():
            if name in mine and not (_is_number(name, mine[name]) and _like(_plain(mine[name]), value)):
                raise SnapshotError(f"{name} of a parameter group is {value!r:.40}, ours {mine[name]!r:.40}")
    if not isinstance(states, dict) or states.keys() != carried.keys():
        raise SnapshotError("other objects are carried than ours")
    for name, thing in carried.items():
        own = thing.state_dict()
        if not isinstance(states[name], dict) or states[name].keys() != own.keys():
            raise SnapshotError(f"the state of {name} has other entries than ours")
        for key, value in own.items():
            if not _is_plain(states[name][key]) or not _alike(value, states[name][key]):
                raise SnapshotError(f"{key} of {name} is {states[name][key]!r:.40}, ours {value!r:.40}")

    def take() -> None:
        for name, thing in carried.items():
            thing.load_state_dict(states[name])
        for mine, group in zip(groups, theirs, strict=True):
            for name in group.keys() & mine.keys():
                _put(mine, name, group[name])

    return steps, take


def _is_number(name: str, value: object) -> bool:
    """Whether an entry of a parameter group is a number or a few of them; switches such as `fused` are each machine's own."""
    if name.startswith(PREFIX) or name in ("params", "param_names"):
        return False
    values = value if isinstance(value, tuple) else (value,)
    return all(_like(0.0, _plain(part)) for part in values)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _put(group: dict[str, Any], name: str, value: Any) -> None:
    held = group[name]
    if isinstance(held, Tensor):  # a compiled or captured step reads this very tensor
        held.fill_(value)
    elif isinstance(held, tuple):
        group[name] = tuple(like if isinstance(like, Tensor) else type(like)(part) for like, part in zip(held, value, strict=True))
    else:
        group[name] = type(held)(value) if float(type(held)(value)) == float(value) else value


def _like(mine: Any, theirs: Any) -> bool:
    """Whether `theirs` can stand where `mine` does: finite numbers, lists of as many."""
    if isinstance(mine, list):
        return isinstance(theirs, list) and len(mine) == len(theirs) and all(map(_like, mine, theirs))
    kinds = int if isinstance(mine, int) else (int, float)
    return isinstance(theirs, kinds) and not isinstance(theirs, bool) and isfinite(theirs)


def _alike(mine: Any, theirs: Any) -> bool:
    """Whether entries of two states are of one kind; None may become anything."""
    numbers = (int, float)
    if mine is None or theirs is None:
        return True
    if isinstance(mine, bool) or isinstance(theirs, bool):
        return type(mine) is type(theirs)
    return type(mine) is type(theirs) or (isinstance(mine, numbers) and isinstance(theirs, numbers))


def _is_plain(value: object) -> bool:
    """Whether JSON gives back the same."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
