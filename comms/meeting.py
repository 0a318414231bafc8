"""How members meet: in the torchrun environment, by a private gloo group, or through a process group that the user made."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup, ProcessGroupGloo, Store, TCPStore

from thinwire.comms import gloo
from thinwire.comms.region import BETWEEN, PREFIX
from thinwire.comms.rounds import TransportError


class Moves(Protocol):
    """A backend: both begin a collective on flat uint8 tensors on `device` and return torch's work handle."""

    device: torch.device
    polled: bool  # whether the work handle has to be asked, as its future completes before the data is there

    def all_gather(self, out: Tensor, message: Tensor, timeout_s: float) -> Any: ...
    def all_to_all(self, out: Tensor, messages: Tensor, timeout_s: float) -> Any: ...


class Private:
    """A gloo group of our own, unknown to torch.distributed."""

    device, polled = torch.device("cpu"), False

    def __init__(self, group: ProcessGroupGloo) -> None:
        self._group = group

    def all_gather(self, out: Tensor, message: Tensor, timeout_s: float) -> Any:
        return gloo.all_gather(self._group, out, message, timeout_s)

    def all_to_all(self, out: Tensor, messages: Tensor, timeout_s: float) -> Any:
        return gloo.all_to_all(self._group, out, messages, timeout_s)


class _Given:
    """The user's group; its own timeout stays as it is."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self.polled = torch.device("cpu") not in group._device_types  # nccl; a group for both kinds moves ours by its gloo half
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.polled else torch.device("cpu")

    def all_gather(self, out: Tensor, message: Tensor, timeout_s: float) -> Any:
        # Renamed in torch 2.13, where the old name warns.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return gather(out, message, group=self._group, async_op=True)

    def all_to_all(self, out: Tensor, messages: Tensor, timeout_s: float) -> Any:
        return dist.all_to_all_single(out, messages, group=self._group, async_op=True)


@dataclass(frozen=True, eq=False)
class Meeting:
    """How the members met: `store` is this group's alone.

    `connections`: two more to it, as a blocked wait locks the one it is on; none in a world of one. They are made before the members
    meet: a store looks up the name of whoever connects, and while no name server answers, 5 s or more, it serves nobody.
    """

    store: Store
    connections: tuple[Store, ...]
    rank: int
    size: int
    moves: Moves | None  # None: a world of one
    devices: Callable[[], list[Any]]  # for the groups of survivors
    run: int
    hosts_store: bool = False
    global_ranks: tuple[int, ...] = ()


_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_groups_made: dict[str, int] = {}  # by place: several groups of the same members must not share keys


def _place(name: str) -> str:
    _groups_made[name] = _groups_made.get(name, -1) + 1
    return f"thinwire/{name}/{_groups_made[name]}"


def _connections(store: Any, size: int) -> tuple[Store, ...]:
    return (store.clone(), store.clone()) if size > 1 else ()  # torch's stubs lack `clone`


def in_environment() -> bool:
    """Whether this process was started as one of several, by torchrun or by `thinwire run`."""
    return int(_environment().get("WORLD_SIZE") or 1) > 1


def _environment() -> dict[str, str]:
    """What torchrun told this process of the members: as it is, or as `thinwire run` has put it aside (`thinwire.comms.region`)."""
    prefix = PREFIX if PREFIX + "WORLD_SIZE" in os.environ else ""
    names = ("RANK", "WORLD_SIZE", "SHARD", "ONE_HOST", "LOCAL_WORLD_SIZE", *BETWEEN)
    return {name: os.environ[prefix + name] for name in names if prefix + name in os.environ}


def from_environment(join_timeout_s: float) -> Meeting:
    """All ranks of the torchrun environment, at the agent's store or one that rank 0 hosts; blocks until all are there."""
    env = _environment()
    absent = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if absent:
        raise ValueError(f"the environment lacks {', '.join(absent)}; start with torchrun, or give a process group")
    numbers = {name: env[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    if not all(number.isdecimal() for number in numbers.values()) or int(numbers["MASTER_PORT"]) > 65535:
        raise ValueError(f"the environment says {numbers}; ranks are whole numbers, ports are below 65536")
    rank, size, port = map(int, numbers.values())
    host, shard = env["MASTER_ADDR"], env.get("SHARD", "0")
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} of WORLD_SIZE={size}: ranks are 0 to {size - 1}")
    one_host = env.get("LOCAL_WORLD_SIZE") == str(size) or env.get("ONE_HOST") == "1" or host in _LOOPBACK
    agent = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    place = _place(f"{env.get('TORCHELASTIC_RESTART_COUNT', '0')}/shard {shard}")
    run = xxhash.xxh3_64_intdigest(f"{env.get('TORCHELASTIC_RUN_ID', '')}/{place}".encode())
    try:
        patience, hosts = timedelta(seconds=join_timeout_s), rank == 0 and shard == "0" and not agent
        server = TCPStore(host, port, size, hosts, patience, wait_for_workers=False, multi_tenant=True)
        store = PrefixStore(place, server)
        connections = _connections(store, size)
        where = partial(gloo.devices, host, one_host=one_host)
        moves = None
        if size > 1:
            moves = Private(gloo.form(PrefixStore("0/pg", store), rank, size, join_timeout_s, where()))
    except (TransportError, RuntimeError) as error:
        raise ConnectionError(
            f"rank {rank} of {size} could not meet the others at MASTER_ADDR={host} MASTER_PORT={port} within "
            f"{join_timeout_s:g} s: {gloo.first_line(error)}"
        ) from error
    # The default group of a region's script has other ranks than the WAN: of its members only this process is in both.
    global_ranks = (int(os.environ.get("RANK", "0")),) if "SHARD" in env else tuple(range(size))
    return Meeting(store, connections, rank, size, moves, where, run, hosts, global_ranks)


def from_process_group(group: ProcessGroup) -> Meeting:
    """Through a group of torch.distributed that this rank belongs to; raises `ValueError` for any other."""
    known = dist.distributed_c10d._world.pg_map.get(group) if isinstance(group, ProcessGroup) else None
    if known is None:
        raise ValueError(f"{group!r} is not a process group that this rank belongs to; give one made by torch.distributed")
    ranks = tuple(dist.get_process_group_ranks(group))
    name = "given/" + group.group_name
    store = PrefixStore(_place(name), known[1])
    host = os.environ.get("MASTER_ADDR")
    where = partial(gloo.devices, host, one_host=host in _LOOPBACK)
    run = xxhash.xxh3_64_intdigest(f"{name}/{ranks}".encode())
    moves = _Given(group) if len(ranks) > 1 else None
    return Meeting(store, _connections(store, len(ranks)), dist.get_rank(group), len(ranks), moves, where, run, global_ranks=ranks)
