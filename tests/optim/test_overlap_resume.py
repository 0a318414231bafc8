"""Checkpoints and copies of optimizers whose exchanges run beside the training: resuming is the same as never having stopped."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.overlapped import EVERY, OVERLAP, anchor, make, ours, same
from tests.optim.problem import adamw, learn, model, run_members, weights
from thinwire import DiLoCo, LocalGroup

STEPS = 3 * EVERY + 3


def through_file(net: nn.Module, opt: DiLoCo, path: Path) -> tuple[Any, Any]:
    torch.save({"model": net.state_dict(), "optimizer": opt.state_dict()}, path)
    saved = torch.load(path, weights_only=True)
    return saved["model"], saved["optimizer"]


def resumed_from(saved: dict[int, Any], stop: int, codec: str, dtype: torch.dtype) -> list[list[Tensor]]:
    def member(rank: int, group: LocalGroup) -> list[Tensor]:
        net = model(seed=99, dtype=dtype)
        opt = make(net, group, codec)
        net.load_state_dict(saved[rank][0])
        opt.load_state_dict(saved[rank][1])
        seen = []
        for step in range(stop, STEPS):
            learn(net, opt, step, rank)
            seen.append(weights(net))
        opt.close()
        return [*seen, weights(net), *ours(opt)]

    return run_members(2, member)


@pytest.mark.parametrize(("codec", "dtype"), [("none", torch.float32), ("blockmax", torch.float32), ("topk", torch.bfloat16)])
@pytest.mark.parametrize("stop", range(EVERY - 1, 2 * EVERY + OVERLAP + 1))
def test_resume_equals_no_interruption_from_every_step(stop: int, codec: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Also with a round under way: its outcome is saved, and the weights follow at the same step."""
    saved: dict[int, Any] = {}

    def whole(rank: int, group: LocalGroup, save: bool) -> list[Tensor]:
        net = model(dtype=dtype)
        opt = make(net, group, codec)
        seen = []
        for step in range(STEPS):
            if step == stop and save:
                before = weights(net)
                saved[rank] = through_file(net, opt, tmp_path / f"{rank}.pt")
                assert torch.equal(before, weights(net))
            learn(net, opt, step, rank)
            if step >= stop:
                seen.append(weights(net))
        opt.close()
        return [*seen, weights(net), *ours(opt)]

    undisturbed = run_members(2, lambda rank, group: whole(rank, group, False))
    saving = run_members(2, lambda rank, group: whole(rank, group, True))
    for a, b, c in zip(undisturbed, saving, resumed_from(saved, stop, codec, dtype), strict=True):
        assert same(a, b)
        assert same(a, c)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_distributed_checkpoint_resumes_with_a_round_under_way(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    stop, turn = 2 * EVERY + 1, threading.Lock()

    def whole(rank: int, group: LocalGroup) -> list[Tensor]:
        net = model()
        opt = make(net, group)
        for step in range(STEPS):
            if step == stop:
                with turn:
                    model_, states = get_state_dict(net, opt)
                    dcp.save({"model": model_, "optimizer": states}, checkpoint_id=tmp_path / str(rank), no_dist=True)
            learn(net, opt, step, rank)
        return [weights(net), *ours(opt)]

    def resumed(rank: int, group: LocalGroup) -> list[Tensor]:
        net = model(seed=5)
        opt = make(net, group)
        with turn:
            model_, states = get_state_dict(net, opt)
            loaded = {"model": model_, "optimizer": states}
            dcp.load(loaded, checkpoint_id=tmp_path / str(rank), no_dist=True)
            set_state_dict(net, opt, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
        for step in range(stop, STEPS):
            learn(net, opt, step, rank)
        return [weights(net), *ours(opt)]

    for a, b in zip(run_members(2, whole), run_members(2, resumed), strict=True):
        assert same(a, b)


def test_keys_of_checkpoints_are_the_same_at_every_step() -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make(net, group)
        learn(net, opt, 0, rank)
        keys = {i: set(state) for i, state in opt.state_dict()["state"].items()}
        for step in range(1, 2 * EVERY):
            learn(net, opt, step, rank)
            saved = opt.state_dict()
            assert {i: set(state) for i, state in saved["state"].items()} == keys
            parts = saved["state"][0]
            assert parts["thinwire.base"].data_ptr() != parts["thinwire.anchor"].data_ptr()

    run_members(2, member)


@pytest.mark.parametrize(("every", "overlap", "steps"), [(4, 0, 1), (4, 1, 1), (4, 3, 2), (2, 1, 1)])
def test_after_a_checkpoint_of_other_settings_weights_follow_as_soon_as_these_say(
    every: int, overlap: int, steps: int, tmp_path: Path
) -> None:
    """In the last case a round is due before the step at which weights would follow."""
    saved: dict[int, Any] = {}

    def first(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make(net, group, "none")
        for step in range(EVERY + 1):
            learn(net, opt, step, rank)
        saved[rank] = through_file(net, opt, tmp_path / f"{rank}.pt")

    def second(rank: int, group: LocalGroup) -> tuple[Tensor, Tensor]:
        net = model(seed=1)
        opt = DiLoCo(adamw(net), sync_every=every, overlap=overlap, codec="none", group=group)
        net.load_state_dict(saved[rank][0])
        opt.load_state_dict(saved[rank][1])
        twin = copy.deepcopy(net)
        plain = adamw(twin)
        plain.load_state_dict(copy.deepcopy(opt.inner.state_dict()))
        held, base = opt._replicas[0].anchor.clone(), opt._replicas[0].base.clone()
        for step in range(steps):
            learn(net, opt, step, rank)
            learn(twin, plain, step, rank)
        assert torch.equal(weights(net), held - (base - weights(twin)))
        opt.close()
        return weights(net), anchor(opt)

    run_members(2, first)
    results = run_members(2, second)
    assert torch.equal(results[0][0], results[1][0])


def test_loading_with_a_round_under_way_goes_back_to_the_checkpoint(tmp_path: Path) -> None:
    stop, back = EVERY + 1, 2 * EVERY + 1

    def member(rank: int, group: LocalGroup, detour: bool) -> list[Tensor]:
        net = model()
        opt = make(net, group)
        for step in range(stop):
            learn(net, opt, step, rank)
        if detour:
            saved = through_file(net, opt, tmp_path / f"{rank}.pt")
            for step in range(stop, back):
                learn(net, opt, step, rank)
            assert opt._flight is not None
            net.load_state_dict(saved[0])
            opt.load_state_dict(saved[1])
        for step in range(stop, STEPS):
            learn(net, opt, step, rank)
        opt.close()
        return [weights(net), *ours(opt)]

    straight = run_members(2, lambda rank, group: member(rank, group, False))
    for a, b in zip(straight, run_members(2, lambda rank, group: member(rank, group, True)), strict=True):
        assert same(a, b)


def test_copies_made_while_a_round_is_under_way_drop_it_and_train_alone() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[Tensor, int]:
        net = model()
        opt = make(net, group)
        for step in range(EVERY + 1):
            learn(net, opt, step, rank)
        assert opt._flight is not None
        for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
            before = weights(net)
            assert twin._flight is None
            for _ in range(2 * EVERY):
                for group_ in twin.param_groups:
                    for p in group_["params"]:
                        p.grad = torch.ones_like(p)
                twin.step()
            assert torch.equal(weights(net), before)
            assert twin.round == 0
        for step in range(EVERY + 1, 2 * EVERY):
            learn(net, opt, step, rank)
        return anchor(opt), opt.round

    results = run_members(2, member)
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == 1
