"""One policy in shards over the ranks of a torchrun world (FSDP2): whose part of a batch is whose, and how whole tensors come and go.

    one update        every rank: its completions, forward and backward; a layer's weights are gathered while it computes, its gradients
                      are summed into the shards; norm of all shards, step of the own one
    whole tensors     one parameter after the other, never all of them on a device

Losses are divided by the tokens of the whole batch before they are summed, so the gradient is that of one process but for the order of its
sums.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any, cast

import msgspec
import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from examples.rl.loss import Tally

# A trainer may wait for workers for days. A rank that dies closes its connections, and torchrun ends the others: no time limit finds it.
PATIENCE = timedelta(days=365)


@dataclass(frozen=True, eq=False)
class World:
    """The ranks of one torchrun; `orders` is a group of its own, so that an order never meets a collective that went wrong."""

    rank: int
    size: int
    mesh: DeviceMesh
    device: torch.device
    orders: dist.ProcessGroup

    @classmethod
    def join(cls, device: str = "cpu") -> World:
        """The world of torchrun's environment; `device` "cuda" takes the card of the local rank."""
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        orders = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        return cls(dist.get_rank(), dist.get_world_size(), mesh, torch.device(device), orders)

    def leave(self) -> None:
        """Be in it no more."""
        dist.destroy_process_group()

    def tell(self, data: bytes) -> None:
        """Rank 0: give bytes to all others, which `hear` them."""
        dist.broadcast(torch.tensor([len(data)]), src=0, group=self.orders)
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), src=0, group=self.orders)

    def hear(self) -> bytes:
        """Wait for what rank 0 tells."""
        nbytes = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(nbytes, src=0, group=self.orders)
        data = torch.empty(int(nbytes), dtype=torch.uint8)
        dist.broadcast(data, src=0, group=self.orders)
        return data.numpy().tobytes()


class Entry(Struct, frozen=True, array_like=True):
    """One tensor of an optimizer's state: of which parameter, its name, shape and type."""

    parameter: int
    name: str
    shape: tuple[int, ...]
    dtype: str


class Layout(Struct, frozen=True, array_like=True):
    """What there is of an optimizer's state beside the numbers of its tensors."""

    entries: tuple[Entry, ...]
    param_groups: list[dict[str, Any]]


class Shards:
    """Shards `module`, in place. Its methods are collective: all ranks call the same ones in the same order.

    - `parts`, `total`: see `learner.Shares`.
    """

    def __init__(self, module: nn.Module, world: World) -> None:
        self.module, self.world = module, world
        # A layer may return the keys and values that it would cache; nobody changes them in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        for layer in layers(module):
            self._shard(layer)
        self._shard(module, reshard_after_forward=False)  # what is outside of layers is needed at both ends
        if hasattr(module, "hidden"):
            register_fsdp_forward_method(module, "hidden")  # `Tiny` enters its module there

    def _shard(self, module: nn.Module, **options: Any) -> None:
        sharded: FSDPModule = fully_shard(module, mesh=self.world.mesh, **options)
        sharded.set_gradient_divide_factor(1.0)  # each loss is a part of one sum, and no mean of its own
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other

    # -- one update --------------------------------------------------------------------------------------------------------------------

    def parts(self, n: int, size: int) -> Iterator[slice]:
        stride = size * self.world.size
        for start in range(0, n, stride):
            yield slice(start + self.world.rank, min(start + stride, n), self.world.size)

    def total(self, tally: Tally) -> Tally:
        own = torch.tensor(astuple(tally), dtype=torch.float64)
        told = [torch.empty_like(own) for _ in range(self.world.size)]
        dist.all_gather(told, own)
        total = Tally()
        for each in told:
            total.add(Tally(*each.tolist()))
        return total

    # -- weights -----------------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def gather(self, copy: nn.Module | None) -> None:
        """Set the parameters of `copy` to those that are trained; on ranks that have one."""
        into = dict(copy.named_parameters()) if copy is not None else {}
        for name, parameter in self._parameters():
            whole = parameter.full_tensor()
            if into:
                into[name].copy_(whole)

    @torch.no_grad()
    def rounded(self) -> dict[str, Tensor]:
        """Whole parameters as they are published, on rank 0: bfloat16, rounded before they travel. Nothing on other ranks."""
        found = {}
        for name, parameter in self._parameters():
            whole = cast(DTensor, parameter.to(torch.bfloat16)).full_tensor()
            if self.world.rank == 0:
                found[name] = whole.cpu()
        return found

    @torch.no_grad()
    def spread(self, copy: nn.Module | None) -> None:
        """Train from the parameters of rank 0's `copy`."""
        given = dict(copy.named_parameters()) if copy is not None else {}
        for name, parameter in self._parameters():
            parameter.copy_(self._distributed(given.get(name), parameter))

    # -- the optimizer -----------------------------------------------------------------------------------------------------------------

    def state_of(self, optimizer: Optimizer) -> dict[str, Any]:
        """Its `state_dict` with whole tensors on the CPU, on rank 0: that of one process. On other ranks it holds no tensors."""
        held = optimizer.state_dict()
        whole: dict[int, dict[str, Tensor]] = {}
        for i, values in held["state"].items():
            for name, value in values.items():
                tensor = value.full_tensor() if isinstance(value, DTensor) else value
                if self.world.rank == 0:
                    whole.setdefault(i, {})[name] = tensor.cpu()
        return {"state": whole, "param_groups": held["param_groups"]}

    def load_into(self, optimizer: Optimizer, state: Mapping[str, Any] | None) -> None:
        """Give all ranks their shards of rank 0's `state`."""
        if state is not None:
            self.world.tell(msgspec.msgpack.encode(layout_of(state)))
        layout = layout_of(state) if state is not None else msgspec.msgpack.decode(self.world.hear(), type=Layout)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found: dict[int, dict[str, Tensor]] = {}
        for entry in layout.entries:
            given = state["state"][entry.parameter][entry.name] if state is not None else None
            like = parameters[entry.parameter]
            if entry.shape == tuple(like.shape):
                value: Tensor = self._distributed(given, like)
            else:  # the number of steps
                value = given if given is not None else torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
                dist.broadcast(value, src=0)
            found.setdefault(entry.parameter, {})[entry.name] = value
        optimizer.load_state_dict({"state": found, "param_groups": layout.param_groups})

    def _parameters(self) -> Iterator[tuple[str, DTensor]]:
        for name, parameter in self.module.named_parameters():
            yield name, cast(DTensor, parameter.detach())

    def _distributed(self, given: Tensor | None, like: DTensor) -> DTensor:
        """Shards of rank 0's tensor as those of `like`."""
        whole = torch.empty(like.shape, dtype=like.dtype) if given is None else given.detach()
        return distribute_tensor(whole.to(self.world.device, like.dtype), like.device_mesh, like.placements)


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost module lists: what a transformer repeats."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers(child)


def layout_of(state: Mapping[str, Any]) -> Layout:
    """Of an optimizer's `state_dict` with whole tensors."""
    entries = (
        Entry(i, name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for i, values in state["state"].items()
        for name, value in values.items()
    )
    return Layout(tuple(entries), state["param_groups"])
