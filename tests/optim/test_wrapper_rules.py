"""The optimizer contract, DESIGN section 5: each rule broke a real library."""

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import thinwire
from tests.optim.problem import adamw, learn, model, run_members, weights
from thinwire import DeMo, DiLoCo, LocalGroup


def test_rule_1_it_is_an_optimizer_with_hooks_and_schedulers() -> None:
    net = model()
    opt = DiLoCo(adamw(net), sync_every=3)
    assert isinstance(opt, torch.optim.Optimizer)
    calls: list[str] = []
    opt.register_step_pre_hook(lambda *_: calls.append("pre"))
    opt.register_step_post_hook(lambda *_: calls.append("post"))
    opt.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        opt, [torch.optim.lr_scheduler.LambdaLR(opt, lambda n: 1 / (n + 1)), torch.optim.lr_scheduler.ConstantLR(opt)], [4]
    )
    for step in range(3):
        learn(net, opt, step)
        scheduler.step()
    opt.state_dict()
    assert calls == ["pre", "post"] * 3 + ["saved"]
    assert opt.inner.param_groups[0]["lr"] == pytest.approx(1e-2 / 4)


def test_rule_2_groups_state_and_defaults_are_the_inner_ones_and_settable() -> None:
    opt = DiLoCo(adamw(model()))
    assert opt.param_groups is opt.inner.param_groups
    assert opt.state is opt.inner.state
    assert opt.defaults is opt.inner.defaults
    for name in ("param_groups", "state", "defaults"):
        value = copy.copy(getattr(opt, name))
        setattr(opt, name, value)
        assert getattr(opt.inner, name) is value


@pytest.mark.parametrize("kind", [DiLoCo, DeMo])
def test_rule_3_signatures_are_torchs_and_the_closure_runs_once(kind: Any) -> None:
    net = model()
    opt = kind(adamw(net)) if kind is DiLoCo else kind(net.parameters())
    for name in ("step", "zero_grad", "load_state_dict", "add_param_group"):
        ours = inspect.signature(getattr(kind, name)).parameters
        assert list(ours) == list(inspect.signature(getattr(torch.optim.SGD, name)).parameters)
    calls = []

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = (net(torch.ones(1, 6)) * net.gain).square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert opt.step(closure) is calls[0]
    assert len(calls) == 1
    before = [p.grad.clone() for p in net.parameters()]
    opt.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))
    opt.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in net.parameters())
    opt.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_rule_4_nothing_is_forwarded_by_name_and_step_can_be_replaced() -> None:
    opt = DiLoCo(adamw(model(), fused=True))
    assert not hasattr(opt, "_step_supports_amp_scaling")
    assert not hasattr(type(opt), "__getattr__")
    assert not hasattr(opt, "no_such_attribute")
    assert inspect.ismethod(opt.step)
    opt.step = lambda closure=None: None
    assert opt.step() is None


def test_rule_5_weights_loaded_after_construction_are_the_anchor() -> None:
    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model(seed=rank)
        opt = DiLoCo(adamw(net), sync_every=2, codec="none", outer_lr=1.0, outer_momentum=0.0, group=group)
        net.load_state_dict(model(seed=7).state_dict())
        for step in range(2):
            learn(net, opt, step)
        return weights(net)

    alone = model(seed=7)
    opt = adamw(alone)
    for step in range(2):
        learn(alone, opt, step)
    for result in run_members(2, member):
        assert torch.allclose(result, weights(alone), atol=1e-6)


def test_rule_6_extra_tensors_stay_out_of_the_inner_state() -> None:
    net = model()
    opt = DiLoCo(adamw(net), sync_every=2)
    assert not opt.state
    learn(net, opt, 0)
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in opt.state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rule_7_state_dict_is_plain_and_our_tensors_stay_float32(dtype: torch.dtype) -> None:
    net = model(dtype=dtype)
    opt = DiLoCo(adamw(net), sync_every=2, codec="int8")
    for step in range(3):
        learn(net, opt, step)
    saved = opt.state_dict()
    assert set(saved) == {"state", "param_groups"}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    fresh = DiLoCo(adamw(net), sync_every=2, codec="int8")
    fresh.load_state_dict(loaded)
    again = fresh.state_dict()
    for index, tensors in saved["state"].items():
        assert {"thinwire.anchor", "thinwire.momentum", "thinwire.residual"} <= set(tensors)
        for name, value in tensors.items():
            assert torch.equal(again["state"][index][name], value)
            if name.startswith("thinwire."):
                assert again["state"][index][name].dtype == torch.float32


def test_rule_7_checkpoints_of_plain_adamw_load_both_ways() -> None:
    net = model()
    plain = adamw(net)
    learn(net, plain, 0)
    ours = DiLoCo(adamw(net), sync_every=2)
    ours.load_state_dict(plain.state_dict())
    assert ours.round == ours.global_step == 0
    learn(net, ours, 1)
    back = adamw(net)
    back.load_state_dict(ours.state_dict())
    learn(net, back, 2)
    assert float(next(iter(back.state.values()))["step"]) == 3.0


@pytest.mark.parametrize("kind", [DiLoCo, DeMo])
def test_rule_8_a_checkpoint_library_that_allocates_state_is_not_a_step(kind: Any) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def make(net: nn.Module) -> Any:
        return kind(adamw(net), sync_every=4) if kind is DiLoCo else kind(net.parameters())

    net = model()
    opt = make(net)
    before = weights(net)
    got = get_optimizer_state_dict(net, opt)
    assert opt.global_step == opt.round == 0
    assert torch.equal(weights(net), before)
    assert any("thinwire" in name for tensors in got["state"].values() for name in tensors)
    for step in range(3):
        learn(net, opt, step)
    saved = copy.deepcopy(get_optimizer_state_dict(net, opt))
    other = make(net)
    set_optimizer_state_dict(net, other, saved)
    assert other.global_step == 3
    ours, theirs = opt.state_dict(), other.state_dict()
    for index in ours["state"]:
        assert all(torch.equal(value, theirs["state"][index][name]) for name, value in ours["state"][index].items())


@pytest.mark.parametrize("kind", [DiLoCo, DeMo])
def test_rule_9_copies_and_pickles_train_on_alone(kind: Any) -> None:
    net = model()
    opt = kind(adamw(net), sync_every=2) if kind is DiLoCo else kind(net.parameters(), lr=1e-2)
    torch.optim.lr_scheduler.LambdaLR(opt, lambda n: 1.0)
    for step in range(3):
        learn(net, opt, step)
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        before = weights(net)
        for group in twin.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        twin.step()
        assert torch.equal(weights(net), before), "a copy must not drive the original"
        assert twin.global_step == 4
        assert opt.global_step == 3


def test_rule_10_counters_live_in_one_object() -> None:
    opt = DiLoCo(adamw(model()))
    numbers = [name for name, value in vars(opt).items() if isinstance(value, int) and not isinstance(value, bool)]
    assert set(numbers) <= {"_sync_every", "_overlap", "_verify_every"}
    assert vars(opt._clock).keys() == {"round", "window", "steps", "open", "behind", "met"}


def test_rule_11_a_step_skipped_by_a_scaler_on_one_member_neither_hangs_nor_shifts_rounds() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[int, torch.Tensor]:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=3, group=group)
        for step in range(10):
            if rank == 1 and step == 4:
                continue  # what GradScaler does with an inf
            learn(net, opt, step, rank)
        opt.close()
        return opt.round, weights(net)

    results = run_members(2, member)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_rule_11_grad_scaler_unscales_and_skips() -> None:
    net = model()
    opt = DiLoCo(adamw(net), sync_every=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = weights(net)
    loss = net(torch.full((1, 6), float("inf"))).sum()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
    assert torch.equal(weights(net), before)
    assert opt.global_step == 0


def test_rule_12_close_flushes_the_partial_window_and_replicas_end_identical() -> None:
    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model()
        with DiLoCo(adamw(net), sync_every=4, group=group) as opt:
            for step in range(6 + rank):
                learn(net, opt, step, rank)
        opt.close()
        return weights(net)

    first, *others = run_members(3, member)
    assert all(torch.equal(first, other) for other in others)


def test_rule_14_a_model_in_ddp_over_the_same_members_is_refused(tmp_path: Any) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(model())
        from thinwire.optim import members

        class Wan:
            members = (0, 1)
            global_ranks = (0, 1)

        members.refuse_ddp(Wan(), list(net.parameters()))  # type: ignore[arg-type]
        original = dist.get_process_group_ranks
        try:
            dist.get_process_group_ranks = lambda _: [0, 1]  # type: ignore[assignment]
            torch.distributed.get_process_group_ranks = dist.get_process_group_ranks
            with pytest.raises(thinwire.ConfigError, match="DistributedDataParallel"):
                members.refuse_ddp(Wan(), list(net.parameters()))  # type: ignore[arg-type]
        finally:
            torch.distributed.get_process_group_ranks = original
        del net
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it imports its compiler
def test_rule_16_a_compiled_step_gives_the_same_weights() -> None:
    pytest.importorskip("torch._dynamo")
    nets = [model(), model()]
    opts = [DiLoCo(torch.optim.SGD(net.parameters(), lr=0.1), sync_every=2) for net in nets]
    opts[1].step = torch.compile(opts[1].step, backend="eager")
    for step in range(5):
        for net, opt in zip(nets, opts, strict=True):
            learn(net, opt, step)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert opts[1].global_step == 5


def test_rule_17_rounds_and_steps_are_told() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[int, int]:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=3, group=group)
        for step in range(7):
            learn(net, opt, step, rank)
        return opt.round, opt.global_step

    assert run_members(2, member) == [(2, 7), (2, 7)]


def test_unknown_and_impossible_options_are_refused_at_construction() -> None:
    net = model()
    with pytest.raises(TypeError):
        DiLoCo(adamw(net), sink_every=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        DeMo(net.parameters(), momentum=0.9)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="wraps a torch"):
        DiLoCo(net.parameters())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="already exchanges"):
        DiLoCo(DeMo(net.parameters()))
    for options, words in (
        ({"sync_every": 0}, "sync_every"),
        ({"sync_every": 2.5}, "sync_every"),
        ({"codec": "nope"}, "known"),
        ({"codec": "blockmax-vote"}, "votes"),
        ({"aggregate": "median"}, "aggregate"),
        ({"outer_lr": -1.0}, "outer_lr"),
        ({"outer_momentum": 1.0}, "momentum"),
        ({"decay": 1.5}, "decay"),
        ({"initial": "zeros"}, "initial"),
        ({"verify_every": 0}, "verify_every"),
        ({"outer": lambda a, u, r: a, "outer_lr": 1.0}, "either"),
    ):
        with pytest.raises(ValueError, match=words):
            DiLoCo(adamw(net), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="votes"):
        DeMo(net.parameters(), sign=False)


def test_one_process_without_a_group_is_the_inner_optimizer_bit_for_bit() -> None:
    nets = [model(), model()]
    opts = [adamw(nets[0]), DiLoCo(adamw(nets[1]), sync_every=2)]
    for step in range(7):
        for net, opt in zip(nets, opts, strict=True):
            learn(net, opt, step)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
