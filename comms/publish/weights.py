"""Weights as everybody who publishes or follows sees them: the tensors in the order of their names, as bfloat16, one behind the other."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from msgspec import Meta, Struct
from torch import Tensor

from thinwire.comms.wire import bytes_of

DType = Literal["bfloat16", "float16", "float32", "float64"]
NamedTensors = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
_DTYPES: dict[torch.dtype, DType] = {
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float32: "float32",
    torch.float64: "float64",
}
MAX_TENSORS = 1 << 16


class TensorSpec(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor of the published model; `dtype` is what it has at the publisher, its values travel as bfloat16."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=16)]
    dtype: DType

    @property
    def numel(self) -> int:
        """How many values it has."""
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All weights at one moment: `flat` is `(numel,)` bfloat16 on the CPU; `exact` the same before rounding, float32, where it was kept."""

    tensors: tuple[TensorSpec, ...]
    flat: Tensor
    exact: Tensor | None = None


def snapshot(named_tensors: NamedTensors, *, exact: bool = False) -> Snapshot:
    """A copy of a model's tensors (`state_dict()`, `named_parameters()`), rounded to the nearest bfloat16, ties to even.

    Raises `ValueError` for tensors that are no floating-point numbers, two of one name, or none at all.
    """
    named = list(named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors)
    tensors = dict(named)
    if not tensors or len(tensors) != len(named):
        raise ValueError(f"{len(named)} tensors of {len(tensors)} names: publish at least one, each under a name of its own")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}: publish floating-point weights only, e.g. dict(model.named_parameters())")
    specs = tuple(TensorSpec(name, tuple(tensors[name].shape), _DTYPES[tensors[name].dtype]) for name in sorted(tensors))
    flat = torch.empty(numel_of(specs), dtype=torch.bfloat16)
    full = torch.empty(len(flat), dtype=torch.float32) if exact else None
    at = 0
    for spec in specs:
        values = tensors[spec.name].detach().reshape(-1)
        flat[at : at + spec.numel].copy_(values)
        if full is not None:
            full[at : at + spec.numel].copy_(values)
        at += spec.numel
    return Snapshot(specs, flat, full)


def split(tensors: Iterable[TensorSpec], flat: Tensor) -> dict[str, Tensor]:
    """The bfloat16 tensors by name, copies of what lies in `flat`."""
    found, at = {}, 0
    for spec in tensors:
        found[spec.name] = flat[at : at + spec.numel].clone().view(spec.shape)
        at += spec.numel
    return found


def numel_of(tensors: Iterable[TensorSpec]) -> int:
    """How many values all tensors have."""
    return sum(spec.numel for spec in tensors)


def sha256_of(flat: Tensor) -> bytes:
    """The sha256 of the canonical bytes: every value as 2 bytes, little-endian."""
    return hashlib.sha256(bytes_of(flat) if flat.numel() else b"").digest()
