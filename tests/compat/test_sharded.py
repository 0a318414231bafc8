"""Sharded models: FSDP2, HSDP and tensor parallel on a two-dimensional mesh (region x shard), with torch.distributed.checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.compat.regions import alone, check, weights, whole
from tests.worlds import run_ranks
from thinwire import DiLoCo
from thinwire.optim.shards import cut

REGIONS, STEPS, STOP = 2, 11, 7  # in the middle of the third window of 3
CODECS = ("blockmax", "dct-topk")


def network(width: int = 33) -> nn.Module:
    """Uneven shards, and empty ones: 33 and 1 rows over two processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 130), nn.Tanh(), nn.Linear(130, 1))


def sharded(kind: str, shards: int = 2) -> tuple[nn.Module, Any]:
    """A network on its mesh; the mesh has a dimension "region", the rest is within one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    net = network(32 if kind == "tensor parallel" else 33)  # that one wants even shards
    if kind == "HSDP":
        mesh = init_device_mesh("cpu", (REGIONS, shards, 1), mesh_dim_names=("region", "replicate", "shard"))
        fully_shard(net, mesh=mesh["replicate", "shard"])
        return net, mesh
    mesh = init_device_mesh("cpu", (REGIONS, shards), mesh_dim_names=("region", "shard"))
    if kind == "tensor parallel":
        parallelize_module(net, mesh["shard"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    else:
        fully_shard(net, mesh=mesh["shard"])
    return net, mesh


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    cuts = {cut(p) for p in net.parameters()}
    groups = [{"params": [p for p in net.parameters() if cut(p) == each]} for each in sorted(cuts)]
    return torch.optim.AdamW(groups, lr=1e-2)


def learn(net: nn.Module, opt: Any, region: int, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(100 * region + step))
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()


def states(net: nn.Module, opt: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = get_state_dict(net, opt)
    return {"model": model, "optimizer": optimizer}


def save(net: nn.Module, opt: Any, folder: Path, within: Any) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(states(net, opt), checkpoint_id=folder, process_group=within)


def load(net: nn.Module, opt: Any, folder: Path, within: Any, *, partial: bool = False) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.state_dict import set_state_dict

    state = states(net, opt)
    dcp.load(state, checkpoint_id=folder, process_group=within, planner=DefaultLoadPlanner(allow_partial_load=partial))
    set_state_dict(net, opt, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def within(mesh: Any) -> Any:
    """The processes of this region."""
    region = mesh.get_local_rank("region")
    size = dist.get_world_size() // REGIONS
    groups = [dist.new_group(list(range(i * size, (i + 1) * size))) for i in range(REGIONS)]
    return groups[region]


def everything(rank: int, kind: str, codec: str, folder: Path) -> dict[str, str]:
    dist.init_process_group("gloo")

    def run(wrap: Any, *, steps: range = range(STEPS), resume: bool = False, keep: bool = False, close: bool = False) -> str:
        net, mesh = sharded(kind)
        group, region = within(mesh), mesh.get_local_rank("region")
        opt = wrap(adamw(net), mesh)
        if resume:
            load(net, opt, folder / str(region), group)
            steps = range(STOP, STEPS)
        for step in steps:
            learn(net, opt, region, range(step, step + 1))
            if keep and step + 1 == STOP:
                save(net, opt, folder / str(region), group)
        if close:
            opt.close()
        return weights(net)

    def member(inner: torch.optim.Optimizer, mesh: Any) -> DiLoCo:
        return DiLoCo(inner, sync_every=3, codec=codec, group=mesh["region"])

    found = {
        "plain": run(lambda inner, mesh: inner),
        "alone": run(lambda inner, mesh: alone(inner)),
        "members": run(member, close=True),
        "whole": run(member, keep=True),
        "resumed": run(member, resume=True),
    }
    dist.barrier()
    dist.destroy_process_group()
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("FSDP2", "blockmax"),
        ("FSDP2", "dct-topk"),
        ("HSDP", "blockmax"),
        pytest.param("HSDP", "dct-topk", marks=pytest.mark.slow),
        ("tensor parallel", "blockmax"),
        pytest.param("tensor parallel", "dct-topk", marks=pytest.mark.slow),
    ],
)
def test_sharded(kind: str, codec: str, tmp_path: Path) -> None:
    found = run_ranks(4, everything, kind, codec, tmp_path, deadline_s=180.0)
    for first, second in zip(found[:2], found[2:], strict=True):
        check(first, second)
    assert found[0] == found[1]


def kept(rank: int, codec: str, folder: Path) -> list[list[bytes]]:
    """Trained on two shards; what the state holds, whole."""
    dist.init_process_group("gloo")
    net, mesh = sharded("FSDP2")
    opt = DiLoCo(adamw(net), sync_every=3, codec=codec, group=mesh["region"])
    learn(net, opt, mesh.get_local_rank("region"), range(STOP))
    save(net, opt, folder / str(mesh.get_local_rank("region")), within(mesh))
    told = held(opt)
    opt.close()
    dist.destroy_process_group()
    return told


def found_again(rank: int, codec: str, folder: Path) -> list[list[bytes]]:
    """The same on one shard a region."""
    dist.init_process_group("gloo")
    net, mesh = sharded("FSDP2", shards=1)
    opt = DiLoCo(adamw(net), sync_every=3, codec=codec, group=mesh["region"])
    load(net, opt, folder / str(mesh.get_local_rank("region")), within(mesh), partial=True)
    assert (opt.round, opt.global_step) == (2, STOP)
    told = held(opt)
    learn(net, opt, mesh.get_local_rank("region"), range(STOP, STEPS))
    opt.close()
    assert opt.round == 4
    dist.destroy_process_group()
    return told


def held(opt: DiLoCo) -> list[list[bytes]]:
    """For each parameter anchor and residual, without what pads it."""
    state = opt.state_dict()["state"]
    names = ("thinwire.anchor", "thinwire.residual")
    return [[whole(each[name]).contiguous().numpy().tobytes() for name in names if name in each] for each in state.values()]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("codec", CODECS)
def test_a_checkpoint_loads_on_another_number_of_shards(codec: str, tmp_path: Path) -> None:
    before = run_ranks(4, kept, codec, tmp_path, deadline_s=180.0)
    after = run_ranks(2, found_again, codec, tmp_path, deadline_s=180.0)
    assert (before[0] != before[2]) == (codec == "blockmax")  # regions share an anchor, and have a residual each
    assert [before[0], before[2]] == after
    assert all(len(each) == (2 if codec == "blockmax" else 1) for each in after[0])  # tiles of coefficients cannot be cut anew


def mixed(rank: int) -> str:
    dist.init_process_group("gloo")
    net, _ = sharded("tensor parallel")
    opt = alone(torch.optim.AdamW(net.parameters(), lr=1e-2, foreach=False))
    with pytest.raises(ValueError, match="group 0") as caught:
        learn(net, opt, 0, range(1))
    dist.barrier()
    dist.destroy_process_group()
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_shards_and_whole_parameters_in_one_group_are_refused() -> None:
    assert run_ranks(4, mixed)[0] == (
        "parameter group 0 has parameters that are whole on every rank and cut over shard; give each kind a group of its own: "
        "torch.optim.AdamW([{'params': cut}, {'params': whole}], ...)"
    )
