"""The optimizers on real processes: over gloo from the torchrun environment, over FSDP2 shards, and when a rank is killed."""

import os
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.optim.problem import adamw, learn, model, weights
from tests.worlds import run_ranks
from thinwire import DeMo, DiLoCo, TorchGroup


def bits(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes: a tensor itself would travel as a file descriptor of a process that may be gone."""
    return tensor.contiguous().numpy().tobytes()


def plain(rank: int, method: str) -> tuple[bytes, int, bool]:
    net = model()
    opt: Any = DeMo(net.parameters(), lr=1e-2) if method == "demo" else DiLoCo(adamw(net), sync_every=3, codec=method)
    for step in range(7 + rank):
        learn(net, opt, step, rank)
    opt.close()
    return bits(weights(net)), opt.stats().rounds, dist.is_initialized()


@pytest.mark.parametrize("method", ["blockmax", "none", "demo"])
def test_members_from_the_torchrun_environment_end_identical_without_a_default_group(method: str) -> None:
    results = run_ranks(3, plain, method)
    assert all(result == results[0][0] for result, _, _ in results)
    assert {rounds for _, rounds, _ in results} == {results[0][1]}
    assert not any(initialised for _, _, initialised in results)


def interrupted(rank: int, victim: int) -> tuple[bytes, float, dict[int, str], list[str | None], int]:
    net = model()
    errors: list[str | None] = []
    missing: dict[int, str] = {}
    group = TorchGroup.from_env(timeout_s=40.0)  # no round waits so long: a busy machine meets it

    def told(info: Any) -> None:
        errors.append(info.error)
        missing.update(info.missing | info.rejected)

    opt = DiLoCo(adamw(net), sync_every=2, group=group, on_round=told)
    slowest = 0.0
    for step in range(12):
        if rank == victim and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        before = time.monotonic()
        learn(net, opt, step, rank)
        slowest = max(slowest, time.monotonic() - before)
    opt.close()
    group.leave()
    return bits(weights(net)), slowest, missing, errors, opt.round


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_is_named_and_the_survivors_go_on_identical(victim: int) -> None:
    results = [r for r in run_ranks(3, interrupted, victim, killed=[victim]) if r is not None]
    assert len(results) == 2
    for result, slowest, missing, errors, round_ in results:
        assert result == results[0][0]
        assert slowest < 40.0
        assert set(missing) == {victim}
        assert errors.count(None) >= 4
        assert round_ == results[0][4]


def sharded(rank: int) -> tuple[int, list[bytes], list[bytes], int]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("region", "shard"))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 33), torch.nn.Tanh(), torch.nn.Linear(33, 1))
    fully_shard(net, mesh=mesh["shard"])
    region, shard = mesh.get_local_rank("region"), mesh.get_local_rank("shard")
    opt = DiLoCo(torch.optim.AdamW(net.parameters(), lr=1e-2), sync_every=2, group=mesh["region"], codec="blockmax")
    for step in range(4):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(100 * region + step))
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()
    shards = [bits(p.to_local().detach()) for p in net.parameters()]
    saved = opt.state_dict()
    anchors = [bits(saved["state"][i]["thinwire.anchor"].to_local()) for i in range(len(shards))]
    rounds = opt.stats().rounds
    opt.close()
    dist.barrier()
    dist.destroy_process_group()
    return shard, shards, anchors, rounds


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fsdp2_shards_are_exchanged_between_regions_also_when_they_are_empty() -> None:
    results = run_ranks(4, sharded)
    by_shard: dict[int, list[Any]] = {}
    for shard, shards, anchors, rounds in results:
        assert rounds == 2
        assert shards == anchors
        by_shard.setdefault(shard, []).append(shards)
    assert any(part == b"" for _, shards, _, _ in results for part in shards)
    for first, second in by_shard.values():
        assert first == second
