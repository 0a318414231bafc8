"""An optimizer's state dict as named tensors and a string, for formats such as safetensors that hold nothing else."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
