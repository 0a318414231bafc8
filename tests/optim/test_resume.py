"""Resuming is the same as never having stopped, bit for bit, from any step and through every checkpoint format."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.optim.problem import adamw, learn, model, run_members, weights
from thinwire import DeMo, DiLoCo, LocalGroup
from thinwire.optim.checkpoint import from_tensors, to_tensors

STEPS, STOP = 11, 7  # in the middle of the third window of 3


def make(method: str, net: nn.Module, group: Any) -> Any:
    if method == "demo":
        return DeMo(net.parameters(), lr=1e-2, weight_decay=0.1, group=group)
    codec = {"diloco": "blockmax", "dense": "int8", "none": "none"}[method]
    return DiLoCo(adamw(net), sync_every=3, codec=codec, group=group)


def through_torch(net: nn.Module, opt: Any, path: Path) -> tuple[Any, Any]:
    buffer = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimizer": opt.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    return saved["model"], saved["optimizer"]


def through_safetensors(net: nn.Module, opt: Any, path: Path) -> tuple[Any, Any]:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    tensors, metadata = to_tensors(opt.state_dict())
    save_file(tensors, path / "optimizer.safetensors", metadata)
    save_file(net.state_dict(), path / "model.safetensors")
    with safe_open(path / "optimizer.safetensors", "pt") as file:
        metadata = file.metadata()
    return load_file(path / "model.safetensors"), from_tensors(load_file(path / "optimizer.safetensors"), metadata)


FORMATS = {"torch.save": through_torch, "safetensors": through_safetensors}


@pytest.mark.parametrize("method", ["diloco", "dense", "none", "demo"])
@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_equals_no_interruption(method: str, form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    saved: dict[int, Any] = {}

    def whole(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model(dtype=dtype)
        opt = make(method, net, group)
        for step in range(STEPS):
            if step == STOP:
                folder = tmp_path / str(rank)
                folder.mkdir()
                saved[rank] = FORMATS[form](net, opt, folder)
            learn(net, opt, step, rank)
        opt.close()
        return weights(net)

    def resumed(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model(seed=99, dtype=dtype)
        opt = make(method, net, group)
        net.load_state_dict(saved[rank][0])
        opt.load_state_dict(saved[rank][1])
        for step in range(STOP, STEPS):
            learn(net, opt, step, rank)
        opt.close()
        return weights(net)

    uninterrupted = run_members(2, whole)
    for a, b in zip(uninterrupted, run_members(2, resumed), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_resume_is_exact_from_every_step(stop: int, tmp_path: Path) -> None:
    saved: dict[int, Any] = {}

    def whole(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model()
        opt = make("diloco", net, group)
        for step in range(STEPS):
            if step == stop:
                saved[rank] = through_torch(net, opt, tmp_path)
            learn(net, opt, step, rank)
        return weights(net)

    def resumed(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model(seed=99)
        opt = make("diloco", net, group)
        net.load_state_dict(saved[rank][0])
        opt.load_state_dict(saved[rank][1])
        for step in range(stop, STEPS):
            learn(net, opt, step, rank)
        return weights(net)

    uninterrupted = run_members(2, whole)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted, run_members(2, resumed), strict=True))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_distributed_checkpoint_on_disk_resumes_in_the_middle_of_a_window(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def train(net: nn.Module, opt: Any, steps: range) -> None:
        for step in steps:
            learn(net, opt, step)

    net = model()
    opt = DiLoCo(adamw(net), sync_every=4, codec="int8")
    train(net, opt, range(6))
    weights_, states = get_state_dict(net, opt)
    dcp.save({"model": weights_, "optimizer": states}, checkpoint_id=tmp_path / "step6", no_dist=True)
    train(net, opt, range(6, 9))

    fresh = model(seed=5)
    other = DiLoCo(adamw(fresh), sync_every=4, codec="int8")
    weights_, states = get_state_dict(fresh, other)
    loaded = {"model": weights_, "optimizer": states}
    dcp.load(loaded, checkpoint_id=tmp_path / "step6", no_dist=True)
    set_state_dict(fresh, other, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    assert other.global_step == 6
    train(fresh, other, range(6, 9))
    assert torch.equal(weights(net), weights(fresh))
    ours, theirs = opt.state_dict(), other.state_dict()
    for index in ours["state"]:
        for name, value in ours["state"][index].items():
            assert torch.equal(value, theirs["state"][index][name]), name


def test_a_checkpoint_of_another_codec_keeps_what_fits_and_says_what_does_not(caplog: pytest.LogCaptureFixture) -> None:
    net = model()
    opt = DiLoCo(adamw(net), sync_every=3, codec="int8")
    for step in range(4):
        learn(net, opt, step)
    other = DiLoCo(adamw(net), sync_every=3, codec="dct-topk")
    other.load_state_dict(opt.state_dict())
    assert other.global_step == 4
    assert "residual" in caplog.text
    anchors = [opt.state_dict()["state"][i]["thinwire.anchor"] for i in range(7)]
    assert all(torch.equal(other.state_dict()["state"][i]["thinwire.anchor"], a) for i, a in enumerate(anchors))
