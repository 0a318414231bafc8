"""An optimizer's state dict as named tensors and a string, for formats such as safetensors that hold nothing else."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thinwire.optim.replica import PREFIX

_NUMBERS = "thinwire.optimizer"


def to_tensors(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by `state.<parameter>.<name>` (copies, as safetensors wants no shared memory), and the rest as JSON metadata.

    Raises `TypeError` for state that is neither tensors nor plain numbers and strings.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    >>> from_tensors(*to_tensors(opt.state_dict()))["param_groups"][0]["lr"]
    0.1
    """
    tensors, plain = {}, {}
    for index, state in state_dict["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"state.{index}.{name}"] = value.detach().clone().contiguous()
            else:
                plain[f"{index}.{name}"] = value
    return tensors, {_NUMBERS: json.dumps({"state": plain, "param_groups": state_dict["param_groups"]})}


def from_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The state dict that `to_tensors` took apart; raises `ValueError` when the metadata are not its own."""
    if _NUMBERS not in metadata:
        raise ValueError(f"no {_NUMBERS!r} among the metadata {sorted(metadata)}; was this saved from to_tensors?")
    numbers = json.loads(metadata[_NUMBERS])
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        _, index, name = key.split(".", 2)
        state.setdefault(int(index), {})[name] = value
    for key, plain in numbers["state"].items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = plain
    return {"state": dict(sorted(state.items())), "param_groups": numbers["param_groups"]}


def saved_names(state_dict: dict[str, Any]) -> list[list[Any]]:
    return [list(group["params"]) for group in state_dict["param_groups"]]


def split_ours(state_dict: dict[str, Any]) -> tuple[dict[Any, dict[str, Tensor]], dict[str, Any]]:
    """Our tensors by saved parameter, and the state dict of the inner optimizer without them."""
    ours = {i: {k: v for k, v in s.items() if str(k).startswith(PREFIX)} for i, s in state_dict["state"].items()}
    state = {i: {k: v for k, v in s.items() if not str(k).startswith(PREFIX)} for i, s in state_dict["state"].items()}
    groups = [{k: v for k, v in g.items() if not k.startswith(PREFIX)} for g in state_dict["param_groups"]]
    return ours, {"state": {i: s for i, s in state.items() if s}, "param_groups": groups}


def our_numbers(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Our counters, from the first parameter group."""
    groups = state_dict["param_groups"]
    return {k.removeprefix(PREFIX): v for k, v in groups[0].items() if k.startswith(PREFIX)} if groups else {}
