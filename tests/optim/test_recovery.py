"""Faults a run recovers from: nothing is lost, replicas hold the same bits again, and the ledger has said what happened."""

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.optim.problem import adamw, backward, learn, model, run_members, weights
from tests.worlds import run_ranks, set_key, wait_for_keys
from thinwire import ConfigError, DeMo, DiLoCo, LocalGroup, RoundInfo, TorchGroup
from thinwire.comms import wire
from thinwire.comms.group import Patience

METHODS = ["none", "int8", "blockmax", "demo"]


def make(method: str, net: nn.Module, group: Any, **options: Any) -> Any:
    """Rounds of 2 steps, or of 1 for DeMo; replicas are compared in every round."""
    if method == "demo":
        return DeMo(net.parameters(), lr=1e-2, group=group, verify_every=1, **options)
    return DiLoCo(torch.optim.SGD(net.parameters(), lr=0.1), sync_every=2, codec=method, group=group, **options)


def damage(group: LocalGroup, round_: int) -> None:
    """One bit of this member's payload flips on its way in that round, once."""
    over: list[bool] = []

    def post(message: torch.Tensor) -> torch.Tensor:
        head = wire.peek(message)
        # Heads and control frames are small or of another fragment; they are for the tests of groups.
        if over or head is None or (head.key.round, head.key.fragment) != (round_, 0) or head.nbytes < 64:
            return message
        over.append(True)
        message = message.clone()
        message[-1] ^= 1
        return message

    group._post = post  # type: ignore[method-assign]


def poisoned(net: nn.Module, opt: Any, step: int, rank: int, bad: bool) -> None:
    """A step whose gradient holds one NaN where `bad`."""
    opt.zero_grad()
    backward(net, step, rank)
    if bad:
        net[0].weight.grad[0, 0] = float("nan")
    opt.step()


def once(method: Callable[..., Any], instead: Any) -> Callable[..., Any]:
    """`method`, but the first call only returns `instead`."""
    calls: list[bool] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(True)
        return instead if len(calls) == 1 else method(*args, **options)

    return call


# -- a member that is refused in one round -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["damaged", "late"])
@pytest.mark.parametrize("method", METHODS)
def test_after_a_round_without_one_member_replicas_are_identical_again(method: str, fault: str) -> None:
    went_on, caught_up = threading.Event(), threading.Event()

    def member(rank: int, group: LocalGroup) -> tuple[list[torch.Tensor], list[RoundInfo]]:
        net, told, seen = model(), [], []
        opt = make(method, net, group, on_round=told.append)
        steps = iter(range(100))
        for round_ in range(5):
            faulty = round_ == 2
            if faulty and fault == "damaged" and rank == 1:
                damage(group, 2)
            if faulty and fault == "late":
                if rank == 1:
                    assert went_on.wait(20)
                else:
                    group._patience = Patience(0.3)
            while opt.round == round_:
                learn(net, opt, next(steps), rank)
            if faulty and fault == "late":
                if rank == 1:
                    caught_up.set()
                else:
                    group._patience = Patience(20.0)
                    went_on.set()
                    assert caught_up.wait(20)
            seen.append(weights(net))
        opt.close()
        return [*seen, weights(net)], told

    results = run_members(3, member)
    for seen, told in results:
        assert all(torch.equal(a, b) for a, b in zip(seen[3:], results[0][0][3:], strict=True))
        assert 1 in told[2].rejected
        assert [info.rejected for info in told if info.round != 2] == [{}] * (len(told) - 1)
        assert not torch.equal(seen[2], seen[3])


@pytest.mark.parametrize("method", METHODS)
def test_the_work_of_a_refused_member_arrives_in_a_later_round(method: str) -> None:
    """Nobody works but the refused member, and it only in the refused round: what moves later is what it did."""

    def member(rank: int, group: LocalGroup) -> list[torch.Tensor]:
        net = model()
        opt = make(method, net, group, **({"codec": "topk"} if method == "demo" else {}))
        seen = [weights(net)]
        if rank == 1:
            damage(group, 1)
        for round_ in range(4):
            while opt.round == round_:
                opt.zero_grad(set_to_none=False)
                if rank == 1 and round_ == 1:
                    backward(net, 0, rank)
                else:
                    for p in net.parameters():
                        p.grad = torch.zeros_like(p)
                opt.step()
            seen.append(weights(net))
        return seen

    first, refused, third = run_members(3, member)
    assert torch.equal(first[2], first[0])
    assert not torch.equal(first[3], first[2])
    for other in (refused, third):
        assert all(torch.equal(a, b) for a, b in zip(first[3:], other[3:], strict=True))


@pytest.mark.parametrize("more", [0, 2], ids=["together", "uneven"])
@pytest.mark.parametrize("method", METHODS)
def test_a_frame_damaged_while_closing_is_sent_again_and_replicas_end_identical(method: str, more: int) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, int, list[RoundInfo]]:
        net, told = model(), []
        opt = make(method, net, group, on_round=told.append)
        for step in range(5 + more * (rank != 1)):
            learn(net, opt, step, rank)
        if rank == 1:
            damage(group, opt.round)  # its first closing round, which for the others may be a round of training
        opt.close()
        return weights(net), opt.round, told

    results = run_members(3, member)
    for result, round_, told in results:
        assert torch.equal(result, results[0][0])
        assert round_ == results[0][1]
        assert [set(info.rejected) for info in told if info.rejected] == [{1}]
        refused = next(i for i, info in enumerate(told) if info.rejected)
        if method != "demo":  # which has nothing to flush: what was not sent stays in the residual
            assert any(1 in info.members for info in told[refused + 1 :])


# -- nobody else is there ------------------------------------------------------------------------------------------------------


def test_demo_in_a_group_of_one_trains_as_without_a_group() -> None:
    (group,) = LocalGroup.world(1)
    nets = [model(), model()]
    opts = [DeMo(nets[0].parameters(), lr=1e-2, group=group), DeMo(nets[1].parameters(), lr=1e-2)]
    start = weights(nets[0])
    for step in range(5):
        for net, opt in zip(nets, opts, strict=True):
            learn(net, opt, step)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), start)
    assert opts[0].round == 5
    opts[0].close()
    group.leave()


@pytest.mark.parametrize("method", METHODS)
def test_a_member_whose_group_has_ended_trains_on_alone_and_says_so_once(method: str, caplog: pytest.LogCaptureFixture) -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make(method, net, group)
        for step in range(4):
            learn(net, opt, step, rank)
        group.leave()
        for step in range(4, 10):
            before = weights(net)
            learn(net, opt, step, rank)
            assert not torch.equal(weights(net), before)
        opt.close()
        assert opt.global_step == 10

    run_members(2, member)
    assert caplog.text.count("training goes on alone: this member has left the group") == 2  # once a member


@pytest.mark.parametrize("method", METHODS)
def test_the_last_member_of_a_group_goes_on(method: str) -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make(method, net, group)
        for step in range(10):
            if rank and step == 4:
                group.leave()
                return
            before = weights(net)
            learn(net, opt, step, rank)
            assert not torch.equal(weights(net), before)
        opt.close()
        assert opt.stats().nothing_averaged == 0

    run_members(3, member)


# -- NaN -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "blockmax"])
@pytest.mark.parametrize("step_of_nan", [2, 3])
def test_one_nan_costs_one_member_one_round_and_no_moment_of_adamw_stays_nan(method: str, step_of_nan: int) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, list[list[int]]]:
        net, told = model(), []
        inner = adamw(net)
        opt = DiLoCo(inner, sync_every=2, codec=method, group=group, on_round=told.append)
        for step in range(12):
            poisoned(net, opt, step, rank, rank == 1 and step == step_of_nan)
        assert all(bool(value.isfinite().all()) for state in inner.state.values() for value in state.values())
        return weights(net), [sorted(info.rejected) for info in told]

    for result, rejected in run_members(2, member):
        assert rejected == [[], [1], [], [], [], []]
        assert bool(result.isfinite().all())


@pytest.mark.parametrize("apart", [0, 2], ids=["in one round", "in different rounds"])
@pytest.mark.parametrize("method", METHODS)
def test_training_recovers_from_a_nan_on_every_member(method: str, apart: int) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        net = model()
        if method == "demo":
            opt: Any = make(method, net, group)
        else:
            opt = DiLoCo(adamw(net), sync_every=2, codec=method, group=group)
        for step in range(12):
            poisoned(net, opt, step, rank, step == 3 + apart * rank)
            if step == 9:
                before = weights(net)
        opt.close()
        return weights(net), before, opt.stats().nothing_averaged, opt.stats().rejected

    results = run_members(2, member)
    for result, before, failed, rejected in results:
        assert bool(result.isfinite().all())
        assert torch.equal(result, results[0][0])
        assert not torch.equal(result, before)
        assert (failed, rejected) == ((0, 2) if apart else (1, 2))


@pytest.mark.parametrize("method", ["none", "int8", "blockmax"])
def test_a_last_window_that_is_nan_everywhere_is_an_error_in_the_ledger(method: str) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, RoundInfo]:
        net = model()
        opt = make(method, net, group)
        for step in range(5):
            if step == 4:
                anchor = weights(net)
            poisoned(net, opt, step, rank, step == 4)
        opt.close()
        assert torch.equal(weights(net), anchor)
        assert bool(anchor.isfinite().all())
        assert (opt.stats().rounds, opt.stats().nothing_averaged) == (2, 1)
        return anchor, opt.stats().last

    for _, info in run_members(2, member):
        assert info.error is not None
        assert "no payload counts" in info.error
        assert set(info.rejected) == {0, 1}


@pytest.mark.parametrize("method", METHODS)
def test_rounds_stay_equal_when_some_leave_and_all_others_abstain(method: str) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[int, torch.Tensor]:
        net = model()
        opt = make(method, net, group)
        for step in range(8 if rank else 4):
            poisoned(net, opt, step, rank, step == 5)
        opt.close()
        assert opt.stats().nothing_averaged == 1
        return opt.round, weights(net)

    results = run_members(3, member)
    for round_, result in results:
        assert round_ == results[0][0]
        assert torch.equal(result, results[0][1])
        assert bool(result.isfinite().all())


# -- the beginning and the end -------------------------------------------------------------------------------------------------


def test_what_was_learnt_alone_survives_the_first_round_in_a_group() -> None:
    @torch.no_grad()
    def loss(net: nn.Module) -> float:
        x = torch.randn(256, 6, generator=torch.Generator().manual_seed(77))
        return float((net(x) * net.gain - x[:, :2]).square().mean())

    net = model()
    alone = DiLoCo(adamw(net), sync_every=10)
    untrained = loss(net)
    for step in range(300):
        learn(net, alone, step)
    reached = loss(net)
    assert reached < untrained / 20
    buffer = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimizer": alone.state_dict()}, buffer)

    def member(rank: int, group: LocalGroup) -> tuple[int, float]:
        saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
        net = model(seed=1)
        opt = DiLoCo(adamw(net), sync_every=10, group=group)
        net.load_state_dict(saved["model"])
        opt.load_state_dict(saved["optimizer"])
        for step in range(10):
            learn(net, opt, 300 + step, rank)
        return opt.round, loss(net)

    for round_, after in run_members(2, member):
        assert round_ == 1
        assert after < 2 * reached


@pytest.mark.parametrize("step", ["gather_bytes", "start"])
@pytest.mark.parametrize("method", METHODS)
def test_member0_gives_its_weights_also_when_the_first_attempt_fails(method: str, step: str) -> None:
    """`gather_bytes`: the settings are not compared; `start`: they are, but the weights do not arrive."""

    class Failed:
        def wait(self) -> None:
            return None

    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, int]:
        setattr(group, step, once(getattr(group, step), None if step == "gather_bytes" else Failed()))
        net = model(seed=rank)
        opt = make(method, net, group, initial="member0")
        for i in range(6):
            learn(net, opt, i, rank)
        opt.close()
        return weights(net), opt.stats().rounds

    first, second = run_members(2, member)
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1] >= 3


def test_demo_keeps_the_gradient_of_a_step_before_members_could_meet() -> None:
    def member(rank: int, group: LocalGroup) -> None:
        group.gather_bytes = once(group.gather_bytes, None)  # type: ignore[method-assign]
        net = model()
        opt = DeMo(net.parameters(), lr=1e-2, codec="topk", group=group)
        start = weights(net)
        learn(net, opt, 0, rank)
        replica = opt._replicas[0]
        gradient = replica.fragment.matrix(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))
        assert torch.equal(replica.residual, gradient)
        assert torch.equal(weights(net), start)
        learn(net, opt, 1, rank)
        assert opt.round == 1
        assert not torch.equal(weights(net), start)

    run_members(2, member)


def test_demo_takes_the_same_step_everywhere_when_a_scheduler_is_one_step_ahead() -> None:
    def member(rank: int, group: LocalGroup) -> list[torch.Tensor]:
        net, seen = model(), []
        opt = DeMo(net.parameters(), lr=1e-2, weight_decay=0.1, group=group, verify_every=1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        for step in range(6):
            learn(net, opt, step, rank)
            scheduler.step()
            if rank == 1 and step == 2:  # what a step that a scaler skipped on the other members does
                scheduler.step()
            seen.append(weights(net))
        return seen

    first, second = run_members(2, member)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[-1], first[-2])


@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_step_sizes_of_demo_that_differ_at_the_start_are_named(option: str) -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model()
        opt = DeMo(net.parameters(), group=group, **{option: 0.01 * (1 + rank)})
        with pytest.raises(ConfigError) as caught:
            learn(net, opt, 0, rank)
        return str(caught.value)

    for words in run_members(2, member):
        assert option in words
        assert "0.01" in words
        assert "0.02" in words


def behind(rank: int) -> tuple[bytes, int]:
    failed: list[str] = []

    def told(info: RoundInfo) -> None:
        if info.error is not None and rank == 0:
            set_key(f"failed {len(failed)}")
            failed.append(info.error)
            if len(failed) == 3:
                group._patience = Patience(40.0)

    net = model()
    group = TorchGroup.from_env(timeout_s=40.0)
    opt = make("blockmax", net, group, on_round=told)
    for step in range(5):
        learn(net, opt, step, rank)
    if rank == 1:
        wait_for_keys("failed 0", "failed 1", "failed 2")
    else:
        group._patience = Patience(4.0)
    opt.close()
    group.leave()
    return weights(net).numpy().tobytes(), len(failed)


def test_close_waits_for_a_member_that_is_alive_but_behind() -> None:
    (first, failed), (second, _) = run_ranks(2, behind)
    assert failed >= 3
    assert first == second
