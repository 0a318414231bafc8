"""What a user does wrong or unusually: told in words at the earliest moment, or simply right."""

import copy
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.optim.problem import adamw, backward, learn, model, run_members, weights
from thinwire import ConfigError, DeMo, DiLoCo, DivergenceError, LocalGroup, RoundInfo

NAN = float("nan")
NUMEL = weights(model()).numel()


def make(kind: str, net: nn.Module, **options: Any) -> Any:
    """DeMo, or DiLoCo over SGD without momentum, which keeps no state of its own."""
    if kind == "demo":
        return DeMo(net.named_parameters(), lr=1e-2, **options)
    return DiLoCo(torch.optim.SGD(net.named_parameters(), lr=0.1), **{"sync_every": 2, **options})


def ours(state_dict: dict[str, Any], name: str) -> torch.Tensor:
    """All of one kind of tensor of a checkpoint."""
    return torch.cat([state[f"thinwire.{name}"].reshape(-1) for state in state_dict["state"].values()])


# -- arguments -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        ("both", {"group": "lan"}, TypeError, "group is 'lan'; give a Group"),
        ("both", {"group": "alone"}, TypeError, "group is 'alone'; give a Group"),
        ("both", {"group": 5}, TypeError, "group is 5; give a Group"),
        ("both", {"on_round": 5}, TypeError, "on_round is 5; give a function"),
        ("both", {"codec": None}, TypeError, "codec is None; give a name"),
        ("both", {"codec": 8}, TypeError, "codec is 8; give a name"),
        ("both", {"verify_every": True}, ValueError, "verify_every is True; choose a positive whole number"),
        ("both", {"verify_every": 0}, ValueError, "verify_every is 0; choose a positive whole number"),
        ("diloco", {"sync_every": True}, ValueError, "sync_every is True; choose a positive whole number"),
        ("diloco", {"sync_every": 0}, ValueError, "sync_every is 0; choose a positive whole number"),
        ("diloco", {"sync_every": "5"}, ValueError, "sync_every is '5'; choose a positive whole number"),
        ("diloco", {"outer": 5}, TypeError, "outer is 5; give a function"),
        ("diloco", {"outer_lr": float("inf")}, ValueError, "outer_lr is inf; choose a positive number"),
        ("diloco", {"outer_lr": NAN}, ValueError, "outer_lr is nan; choose a positive number"),
        ("demo", {"lr": float("inf")}, ValueError, "lr is inf; choose a number >= 0"),
        ("demo", {"lr": NAN}, ValueError, "lr is nan; choose a number >= 0"),
        ("demo", {"weight_decay": float("inf")}, ValueError, "weight_decay is inf; choose a number >= 0"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(kind: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    net = model()
    for each in ("diloco", "demo") if kind == "both" else (kind,):
        with pytest.raises(error) as caught:
            DeMo(net.parameters(), **options) if each == "demo" else DiLoCo(adamw(net), **options)
        assert words in str(caught.value)


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    net = model()
    opt = DiLoCo(adamw(net), sync_every=np.int64(5), verify_every=np.int32(2))
    saved = json.dumps(opt.state_dict()["param_groups"])  # none of them ends in a checkpoint
    assert "thinwire.round" in saved


@pytest.mark.parametrize("kind", ["diloco", "demo"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_parameters_that_float32_cannot_hold_are_refused_by_name(kind: str, dtype: torch.dtype) -> None:
    net = model()
    net.gain = nn.Parameter(torch.ones((), dtype=dtype))
    with pytest.raises(TypeError, match=f"gain is {dtype}; members exchange float32"):
        make(kind, net)


def test_an_outer_rule_that_returns_another_shape_is_told_so_and_changes_nothing() -> None:
    def outer(anchor: torch.Tensor, update: torch.Tensor, round_: int) -> torch.Tensor:
        return (anchor - update).sum()

    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make("diloco", net, outer=outer, group=group)
        start = weights(net)
        learn(net, opt, 0, rank)
        with pytest.raises(ValueError, match=rf"outer returned \(\); the new anchor has the anchor's \({NUMEL},\)"):
            learn(net, opt, 1, rank)
        assert torch.equal(ours(opt.state_dict(), "anchor"), start)

    run_members(2, member)


def test_an_aggregator_of_the_users_own_sees_every_payload_also_of_the_dense_codec() -> None:
    seen: list[int] = []

    def nothing(plan: Any, sent: Any) -> torch.Tensor:
        seen.append(len(sent))
        return torch.zeros_like(sent[0].values)

    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        start = weights(net)
        opt = make("diloco", net, codec="none", aggregate=nothing, group=group)
        for step in range(2):
            learn(net, opt, step, rank)
        assert torch.equal(weights(net), start)

    run_members(3, member)
    assert seen == [3, 3, 3]  # once a member


def test_frozen_parameters_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    net = model()
    net[2].weight.requires_grad_(False)
    opt = make("diloco", net)
    for step in range(3):
        learn(net, opt, step)
    assert caplog.text.count(f"4690 of {NUMEL} numbers of group 0 are frozen") == 1


def test_a_subclass_of_ddp_is_refused_too(tmp_path: Path) -> None:
    import torch.distributed as dist

    from thinwire.optim import members

    class Wrapped(nn.parallel.DistributedDataParallel):
        pass

    class Wan:
        members = global_ranks = (0, 1)

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    original = torch.distributed.get_process_group_ranks
    try:
        net = Wrapped(model())
        torch.distributed.get_process_group_ranks = lambda _: [0, 1]  # two members, as far as the check can see
        with pytest.raises(ConfigError, match="DistributedDataParallel"):
            members.refuse_ddp(Wan(), list(net.parameters()))  # type: ignore[arg-type]
        del net
    finally:
        torch.distributed.get_process_group_ranks = original
        dist.destroy_process_group()


# -- unusual training ----------------------------------------------------------------------------------------------------------


def test_demo_trains_an_embedding_with_sparse_gradients() -> None:
    def member(rank: int, group: LocalGroup, sparse: bool) -> torch.Tensor:
        net = nn.Embedding(200, 16, sparse=sparse)
        with torch.no_grad():
            net.weight.fill_(0.1)
        opt = DeMo(net.parameters(), lr=1e-2, codec="topk", group=group)
        for step in range(3):
            opt.zero_grad()
            net(torch.tensor([rank, step])).square().sum().backward()
            opt.step()
        return weights(net)

    results = [*run_members(2, lambda *at: member(*at, True)), *run_members(2, lambda *at: member(*at, False))]
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(results[0].unique()) > 1


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("codec", ["none", "int8", "blockmax", "dct-topk", "demo"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_changes_nothing(codec: str, dtype: torch.dtype) -> None:
    def train(default: torch.dtype) -> list[torch.Tensor]:
        nets = [model(), model()]  # before: their random numbers follow the default
        generator = torch.Generator().manual_seed(0)
        gradients = [[torch.randn(p.shape, generator=generator) for p in nets[0].parameters()] for _ in range(10)]

        def member(rank: int, group: LocalGroup) -> torch.Tensor:
            net = nets[rank]
            opt = make("demo", net, group=group) if codec == "demo" else make("diloco", net, codec=codec, group=group)
            for step in range(5):
                for p, gradient in zip(net.parameters(), gradients[2 * step + rank], strict=True):
                    p.grad = gradient.clone()
                opt.step()
            for state in opt.state_dict()["state"].values():
                assert all(value.dtype == torch.float32 for name, value in state.items() if name.startswith("thinwire."))
            opt.close()
            return weights(net)

        with default_dtype(default):
            return run_members(2, member)

    usual = train(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(train(dtype), usual, strict=True))


class InterruptedTraining(Exception):
    pass


def test_an_exception_inside_with_releases_the_others_at_once() -> None:
    """At once: a member that is waited for until a deadline would be counted as rejected or missing."""

    def member(rank: int, group: LocalGroup) -> list[RoundInfo]:
        net, told = model(), []
        with suppress(InterruptedTraining), make("diloco", net, group=group, on_round=told.append) as opt:
            for step in range(8):
                if rank == 1 and step == 3:
                    raise InterruptedTraining
                learn(net, opt, step, rank)
        return told

    first, interrupted, third = run_members(3, member)
    assert len(interrupted) == 1
    for told in (first, third):
        assert [info.members for info in told] == [(0, 1, 2), (0, 2), (0, 2), (0, 2), ()]
        assert not any(info.error or info.rejected or info.missing for info in told)


def test_close_after_a_refused_start_neither_raises_nor_exchanges() -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make("diloco", net, sync_every=2 + rank, group=group)
        with pytest.raises(ConfigError):
            learn(net, opt, 0, rank)
        started = group._started
        opt.close()
        opt.close()
        assert group._started == started

    run_members(2, member)


def test_of_two_members_that_differ_nobody_is_blamed() -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model()
        opt = make("demo", net, group=group, verify_every=1)
        learn(net, opt, 0, rank)
        if rank == 1:
            with torch.no_grad():
                net[2].bias[3] += 1e-3
        with pytest.raises(DivergenceError) as caught:
            learn(net, opt, 1, rank)
        return str(caught.value)

    for words in run_members(2, member):
        assert "members 0, 1 cannot tell which of them is right" in words
        assert "first in 2.bias" in words
        assert "differs" not in words


# -- checkpoints and copies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["diloco", "demo"])
def test_asking_a_trained_optimizer_for_a_distributed_checkpoint_takes_no_step(kind: str) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model()
        opt = make(kind, net, group=group)
        for step in range(6):
            learn(net, opt, step, rank)
            opt.zero_grad()
            before, at = copy.deepcopy(opt.state_dict()), (opt.round, opt.global_step, weights(net))
            if rank == 0:  # as who saves only on the first rank
                get_optimizer_state_dict(net, opt)
            assert (opt.round, opt.global_step) == at[:2]
            assert torch.equal(weights(net), at[2])
            assert torch.equal(ours(opt.state_dict(), "residual"), ours(before, "residual"))
        opt.close()
        return weights(net)

    first, second = run_members(2, member)
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["diloco", "demo"])
def test_it_takes_no_step_right_after_resuming_either(kind: str) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net = model()
    first, second = make(kind, net), make(kind, net)
    for step in range(3):
        learn(net, first, step)
    second.load_state_dict(first.state_dict())
    second.zero_grad()
    at = weights(net)
    get_optimizer_state_dict(net, second)
    assert second.global_step == 3
    assert torch.equal(weights(net), at)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_dict_leaves_the_state_of_the_inner_optimizer_alone(momentum: float) -> None:
    net = model()
    opt = DiLoCo(torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum), sync_every=2)
    for step in range(3):
        learn(net, opt, step)
    assert any("thinwire" in name for state in opt.state_dict()["state"].values() for name in state)
    for tree in (opt.inner.state, opt.inner.state_dict()["state"]):
        assert not any("thinwire" in name for state in tree.values() for name in state)
    assert not any("thinwire" in name for group in opt.inner.param_groups for name in group)


def test_a_plain_checkpoint_in_a_used_optimizer_starts_a_new_run(caplog: pytest.LogCaptureFixture) -> None:
    saved_net = model(seed=3)
    plain = adamw(saved_net)
    for step in range(3):
        learn(saved_net, plain, step)

    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=2, codec="none", group=group)
        for step in range(5):
            learn(net, opt, step, rank)
        assert bool(ours(opt.state_dict(), "momentum").any())
        net.load_state_dict(saved_net.state_dict())
        opt.load_state_dict(copy.deepcopy(plain.state_dict()))
        after = opt.state_dict()
        assert not ours(after, "momentum").any()
        assert torch.equal(ours(after, "anchor"), weights(saved_net))
        assert (opt.round, opt.global_step) == (0, 0)
        for step in range(4):
            learn(net, opt, step, rank)
        return weights(net)

    first, second = run_members(2, member)
    assert caplog.text.count("the checkpoint holds no state of thinwire") == 2  # once a member
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["diloco", "demo"])
def test_the_residual_of_another_codec_is_dropped_also_when_its_size_fits(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def made(codec: str, group: LocalGroup | None = None) -> Any:
        weight = [nn.Parameter(torch.zeros(64, 64))]
        if kind == "demo":
            return DeMo(weight, lr=1e-2, codec=codec, group=group)
        return DiLoCo(torch.optim.SGD(weight, lr=0.1), sync_every=1, codec=codec, group=group)

    def member(rank: int, group: LocalGroup) -> dict[str, Any]:
        opt = made("topk", group)
        for step in range(3):
            opt.param_groups[0]["params"][0].grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(step))
            opt.step()
        return opt.state_dict()

    saved = run_members(2, member)[0]
    assert bool(ours(saved, "residual").any())
    same, other = made("topk"), made("dct-topk")
    same.load_state_dict(copy.deepcopy(saved))
    assert torch.equal(ours(same.state_dict(), "residual"), ours(saved, "residual"))
    assert not caplog.messages
    other.load_state_dict(copy.deepcopy(saved))
    assert not ours(other.state_dict(), "residual").any()
    assert caplog.messages == ["checkpoint of other settings: residual starts anew"]
    assert other.global_step == 3


@pytest.mark.parametrize("kind", ["diloco", "demo"])
def test_hooks_that_cannot_be_pickled_stay_behind(kind: str) -> None:
    net = model()
    opt = make(kind, net)
    calls: list[str] = []
    for name in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
        getattr(opt, f"register_{name}_hook")(lambda *_, name=name: calls.append(name))
    for step in range(3):
        learn(net, opt, step)
    assert calls == ["step_pre", "step_post"] * 3
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        twin.step()
        twin.state_dict()
        assert twin.global_step == 4
    assert len(calls) == 6
    opt.state_dict()
    assert calls[6:] == ["state_dict_pre", "state_dict_post"]


# -- the ledger ----------------------------------------------------------------------------------------------------------------


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_log_is_strict_json_also_after_nan_and_says_who_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"

    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make("diloco", net, group=group, log=path)
        for step in range(4):
            opt.zero_grad()
            backward(net, step, rank)
            if rank == 1 and step == 3:
                net[0].weight.grad[0, 0] = NAN
            opt.step()

    run_members(2, member)
    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    told = {(line["member"], line["round"]): line for line in lines}
    assert sorted(told) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert told[1, 1]["delta_norm"] is None
    assert told[0, 1]["delta_norm"] > 0


def test_failed_rounds_count_their_bytes_but_replace_no_dense_ones() -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net, told = model(), []
        opt = make("diloco", net, group=group, on_round=told.append)
        for step in range(6):
            opt.zero_grad()
            backward(net, step, rank)
            if step == 3:
                net[0].weight.grad[0, 0] = NAN
            opt.step()
        failed, good = told[1], [told[0], told[2]]
        assert failed.error is not None
        assert (failed.dense_nbytes, failed.ratio) == (0, 0.0)
        assert failed.wire_sent > 0
        stats = opt.stats()
        assert (stats.rounds, stats.nothing_averaged) == (2, 1)
        assert stats.dense_nbytes == sum(info.dense_nbytes for info in good) == 2 * 4 * NUMEL
        assert stats.wire_sent == sum(info.wire_sent for info in told) == group.sent_nbytes
        assert stats.ratio == stats.dense_nbytes / stats.wire_sent

    run_members(2, member)


@pytest.mark.parametrize("kind", ["diloco", "demo"])
def test_the_weights_of_member0_are_counted(kind: str) -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net, told = model(seed=rank), []
        opt = make(kind, net, group=group, initial="member0", on_round=told.append)
        for step in range(4):
            learn(net, opt, step, rank)
        assert told[0].wire_sent > told[1].wire_sent + 4 * NUMEL
        assert told[0].wire_received == told[0].wire_sent  # threads send everything to everybody
        assert opt.stats().wire_sent == group.sent_nbytes

    run_members(2, member)


@pytest.mark.parametrize("codec", ["none", "blockmax"])
def test_a_closing_round_in_which_nobody_has_anything_left_is_told_as_idle(codec: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "thinwire")

    def member(rank: int, group: LocalGroup) -> None:
        net, told = model(), []
        opt = make("diloco", net, codec=codec, group=group, on_round=told.append)
        for step in range(4):
            learn(net, opt, step, rank)
        opt.close()
        last = told[2]
        assert (last.error, last.members, last.rejected, last.dense_nbytes) == (None, (), {}, 0)
        assert (opt.stats().rounds, opt.stats().nothing_averaged) == (2, 0)

    run_members(2, member)
    assert caplog.text.count("round 2 | nothing to average: everybody is done") == 2  # once a member
