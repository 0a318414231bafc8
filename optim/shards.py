"""Our tensors of a sharded parameter (FSDP2, HSDP, tensor parallel), sharded alike: a checkpoint then holds all shards, not one of them.

torch.distributed.checkpoint takes a plain tensor that several ranks hold under one name to be the same everywhere and keeps one of them.
Anchors, bases and momenta have the parameter's shape and become DTensors as it is one: they are saved whole and load on any number of
shards, bit for bit. So does a residual, unless its codec has a basis: tiles of coefficients belong to their shard, and cannot be cut anew.
They are saved a row a shard, under a name that says of how many, as is what pads a residual; another number of shards does not find it
there, and starts without (`DefaultLoadPlanner(allow_partial_load=True)`).
"""

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from thinwire.comms.codec import Codec
from thinwire.optim.fragment import is_sharded, local

RESIDUAL, PADDING = "residual", "padding"
_ROWS = ".rows."


def cut(param: Any) -> tuple[str, ...]:
    """The dimensions of its mesh over which a parameter is cut into shards; none for a plain one."""
    if not is_sharded(param):
        return ()
    mesh = param.device_mesh
    names = mesh.mesh_dim_names or tuple(map(str, range(mesh.ndim)))
    return tuple(name for dim, name in enumerate(names) if param.placements[dim].is_shard() and mesh.size(dim) > 1)


def refuse_mixture(index: int, params: Sequence[Tensor]) -> None:
    """Raise `ValueError` for a parameter group of which some parameters are cut into shards and others are whole on every rank.

    They would share blocks and scales, which differ from shard to shard, and what has to be the same on all ranks would not stay so.
    """
    kinds = {cut(param) for param in params}
    if len(kinds) > 1:
        told = " and ".join(f"cut over {', '.join(kind)}" if kind else "whole on every rank" for kind in sorted(kinds))
        raise ValueError(
            f"parameter group {index} has parameters that are {told}; give each kind a group of its own: "
            "torch.optim.AdamW([{'params': cut}, {'params': whole}], ...)"
        )


def exported(parts: Mapping[str, Tensor], param: Tensor, codec: Codec) -> dict[str, Tensor]:
    """The parts of a parameter by name, as a checkpoint is to hold them; themselves where the parameter is no DTensor."""
    if not is_sharded(param):
        return dict(parts)
    made = {}
    for name, part in parts.items():
        if name == PADDING or (name == RESIDUAL and codec.basis):
            numel, shards = _largest(param)
            made[f"{name}{_ROWS}{shards}"] = _row(part, param, (codec.chunk or 0) + (numel if name == RESIDUAL else 0))
        else:
            made[name] = _alike(part, param)
    return made


def part_of(saved: Mapping[str, Tensor], name: str, numel: int) -> Tensor | None:
    """This shard's part of what `exported` gave, flat, of `numel` elements; None when there is none that fits.

    Of a sharded residual, and of what pads one, there may be more or less: zeros are added, and what is over is another shard's length.
    """
    value = next((saved[key] for key in saved if key == name or key.startswith(name + _ROWS)), None)
    if value is None:
        return None
    flat = local(value).reshape(-1)
    if is_sharded(value) and name.endswith((RESIDUAL, PADDING)):
        flat = pad(flat, (0, max(0, numel - flat.numel())))[:numel]
    return flat if flat.numel() == numel else None


def _alike(part: Tensor, param: Any) -> Tensor:
    """The same numbers as a DTensor of the parameter's shape and placements; the zeros that pad a residual are left out."""
    from torch.distributed.tensor import DTensor

    held = param.to_local()
    shard = part.reshape(-1)[: held.numel()].view(held.shape)
    made: Tensor = DTensor.from_local(shard, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride())
    return made


def _largest(param: Any) -> tuple[int, int]:
    """Elements of the largest shard, and how many shards there are."""
    shape, shards = list(param.shape), 1
    for dim, placement in enumerate(param.placements):
        if placement.is_shard():
            shape[placement.dim] = ceil(shape[placement.dim] / param.device_mesh.size(dim))
            shards *= param.device_mesh.size(dim)
    return prod(shape), shards


def _row(part: Tensor, param: Any, numel: int) -> Tensor:
    """One of as many rows as there are shards, all of `numel` elements."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = [Shard(0) if placement.is_shard() else Replicate() for placement in param.placements]
    made: Tensor = DTensor.from_local(
        pad(part.reshape(-1), (0, numel - part.numel())).view(1, numel), param.device_mesh, placements, run_check=False
    )
    return made
