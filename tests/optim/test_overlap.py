"""Exchanges that run while inner steps are taken: the rule bit for bit, what members agree on, what a round cost, and that it learns."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.overlapped import CODECS, EVERY, OVERLAP, anchor, make, same
from tests.optim.problem import adamw, backward, learn, model, run_members, weights
from tests.worlds import run_ranks
from thinwire import ConfigError, DiLoCo, DivergenceError, LocalGroup, TorchGroup
from thinwire.optim import residual
from thinwire.optim.aggregate import contributors, mean
from thinwire.optim.fragment import Fragment

# -- the rule ------------------------------------------------------------------------------------------------------------------


def sequential(codec: str, overlap: int, members: int, steps: int, dtype: torch.dtype) -> list[list[Tensor]]:
    """The same training in one thread and in plain torch: the weights of every member after every step."""
    nets = [model(dtype=dtype) for _ in range(members)]
    inners = [adamw(net) for net in nets]
    fragment = Fragment([p.shape for p in nets[0].parameters()], codec)
    plan, dense = fragment.plan, codec in ("none", "int8")
    decay, held, momentum, agreed = (1.0 if dense else 0.95), [None] * members, None, weights(nets[0])
    seen: list[list[Tensor]] = [[] for _ in nets]
    for step in range(steps):
        for rank, (net, inner) in enumerate(zip(nets, inners, strict=True)):
            inner.zero_grad()
            backward(net, step, rank)
            inner.step()
        since = (step + 1) % EVERY
        if since == 0:
            bases = [weights(net) for net in nets]
            deltas = [plan.forward(fragment.matrix(agreed - base)) for base in bases]
            coded = [residual.encode(plan, None if codec == "none" else h, d, decay=decay) for h, d in zip(held, deltas, strict=True)]
            update = fragment.flat(plan.inverse((mean if dense else contributors)(plan, [plan.values(c.payload) for c in coded])))
        if since == overlap and step + 1 >= EVERY:
            held = [c.kept for c in coded]
            if dense:
                momentum = update if momentum is None else momentum * 0.9 + update
                update = (update + momentum * 0.9) * 0.7
            agreed = agreed - update
            for net, base in zip(nets, bases, strict=True):
                values = (agreed - (base - weights(net))).split([p.numel() for p in net.parameters()])
                for p, value in zip(net.parameters(), values, strict=True):
                    p.data.copy_(value.view(p.shape))
        for mine, net in zip(seen, nets, strict=True):
            mine.append(weights(net))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("codec", CODECS)
def test_weights_are_those_of_a_sequential_loop(codec: str, overlap: int, dtype: torch.dtype) -> None:
    def member(rank: int, group: LocalGroup) -> list[Tensor]:
        net, seen = model(dtype=dtype), []
        opt = make(net, group, codec, overlap=overlap)
        for step in range(3 * EVERY + 2):
            learn(net, opt, step, rank)
            seen.append(weights(net))
        return seen

    results = run_members(3, member)
    for seen, expected in zip(results, sequential(codec, overlap, 3, 3 * EVERY + 2, dtype), strict=True):
        assert same(seen, expected)


def test_an_outer_rule_of_the_users_own_overlaps_too() -> None:
    def member(rank: int, group: LocalGroup, outer: Any) -> tuple[Tensor, Tensor]:
        net = model()
        options = {"outer": outer} if outer else {"outer_lr": 1.0, "outer_momentum": 0.0}
        opt = make(net, group, "int8", **options)
        for step in range(11):
            learn(net, opt, step, rank)
        return weights(net), anchor(opt)

    own = run_members(2, lambda rank, group: member(rank, group, lambda held, update, round_: held - update))
    sgd = run_members(2, lambda rank, group: member(rank, group, None))
    assert all(same(a, b) for a, b in zip(own, sgd, strict=True))


def test_steps_are_taken_while_the_exchange_is_under_way() -> None:
    """Member 1 begins the round only when member 0 has taken all but the last of its overlapped steps."""
    went_on = threading.Event()

    def member(rank: int, group: LocalGroup) -> tuple[Tensor, list[int]]:
        net, rounds = model(), []
        opt = make(net, group)
        for step in range(EVERY + OVERLAP):
            if rank == 1 and step == EVERY - 1:
                assert went_on.wait(20)
            learn(net, opt, step, rank)
            rounds.append(opt.round)
            if rank == 0 and step == EVERY + OVERLAP - 2:
                went_on.set()
        return anchor(opt), rounds

    results = run_members(2, member)
    assert torch.equal(results[0][0], results[1][0])
    assert all(rounds == [0] * 5 + [1] for _, rounds in results)


def test_anchors_are_identical_while_weights_differ_and_hashes_are_of_anchors() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[list[Tensor], list[Tensor], list[int]]:
        net, told, anchors, locals_ = model(), [], [], []
        opt = make(net, group, on_round=told.append)
        for step in range(5 * EVERY):
            learn(net, opt, step, rank)
            if (step + 1) % EVERY == OVERLAP:
                anchors.append(anchor(opt))
                locals_.append(weights(net))
        return anchors, locals_, [info.state_hash for info in told]

    (anchors, locals_, hashes), *others = run_members(3, member)
    assert len(set(hashes)) == 4
    for theirs, other_locals, other_hashes in others:
        assert same(anchors, theirs)
        assert hashes == other_hashes
        assert not any(torch.equal(a, b) for a, b in zip(locals_[1:], other_locals[1:], strict=True))


def test_a_replica_that_was_changed_is_named_when_the_round_lands() -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model()
        opt = make(net, group)
        for step in range(EVERY + OVERLAP):
            learn(net, opt, step, rank)
        if rank == 1:
            opt._replicas[0].anchor[3] += 1e-3
        for step in range(EVERY + OVERLAP, 2 * EVERY + OVERLAP - 1):
            learn(net, opt, step, rank)
        with pytest.raises(DivergenceError) as caught:
            learn(net, opt, 0, rank)
        return str(caught.value)

    assert all("member 1 differs" in words for words in run_members(3, member))


def on_rank(rank: int) -> tuple[bytes, int]:
    net = model()
    group = TorchGroup.from_env(timeout_s=40.0)
    with make(net, group) as opt:
        for step in range(3 * EVERY + 1):
            learn(net, opt, step, rank)
    group.leave()
    return weights(net).numpy().tobytes(), opt.round


def test_ranks_over_gloo_end_with_the_bits_of_threads() -> None:
    def member(rank: int, group: LocalGroup) -> bytes:
        net = model()
        with make(net, group) as opt:
            for step in range(3 * EVERY + 1):
                learn(net, opt, step, rank)
        return weights(net).numpy().tobytes()

    threads = run_members(2, member)
    assert [result for result, _ in run_ranks(2, on_rank)] == threads


# -- settings, groups of parameters, scalers, schedulers -----------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [-1, EVERY, True, 1.5, "2", None])
def test_an_overlap_that_does_not_fit_a_window_is_refused(overlap: Any) -> None:
    with pytest.raises(ValueError, match=r"overlap is .*choose 0 .* to 3"):
        make(model(), None, overlap=overlap)


def test_members_that_overlap_differently_are_refused_with_both_values() -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model()
        with pytest.raises(ConfigError) as caught:
            learn(net, make(net, group, overlap=rank), 0, rank)
        return str(caught.value)

    assert all("overlap = 0" in words and "overlap = 1" in words for words in run_members(2, member))


@pytest.mark.parametrize("through", ["opt", "inner"])
def test_parameters_may_be_added_while_a_round_is_under_way(through: str) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[Tensor, Tensor, int]:
        net, more = model(), nn.Parameter(torch.zeros(5))
        opt = make(net, group, "none")
        for step in range(3 * EVERY + OVERLAP):
            if step == EVERY + 1:
                (opt if through == "opt" else opt.inner).add_param_group({"params": [more], "lr": 0.1})
            opt.zero_grad()
            backward(net, step, rank)
            more.grad = torch.full((5,), 1.0 + rank)
            opt.step()
        held = anchor(opt)
        opt.close()
        return held, torch.cat([weights(net), more.detach()]), opt.stats().nothing_averaged

    results = run_members(2, member)
    for held, result, failed in results:
        assert torch.equal(held, results[0][0])
        assert torch.equal(result, results[0][1])
        assert failed == 0
        assert bool((held[-5:] != 0).all())


def test_a_step_skipped_on_one_member_while_a_round_is_under_way_neither_hangs_nor_shifts_rounds() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[Tensor, int, int]:
        net = model()
        opt = make(net, group)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(3 * EVERY + 3):
            opt.zero_grad()
            scaler.scale(backward(net, step, rank))
            for p in net.parameters():
                p.grad.mul_(scaler.get_scale())
            if rank == 1 and step == EVERY:
                net[0].weight.grad[0, 0] = float("inf")
            scaler.step(opt)
            scaler.update()
            scheduler.step()
        held, skipped = anchor(opt), 3 * EVERY + 3 - opt.global_step
        opt.close()
        assert torch.equal(anchor(opt), weights(net))
        return torch.cat([held, weights(net)]), opt.round, skipped

    results = run_members(2, member)
    assert [skipped for _, _, skipped in results] == [0, 1]
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] == 4


# -- the ledger ----------------------------------------------------------------------------------------------------------------


def test_only_the_time_that_was_waited_for_is_exchange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clock moves only where the test says so: 1 s an inner step, 8 s in the wait at the end."""
    now = [0.0]
    monkeypatch.setattr("thinwire.optim.engine.time.perf_counter", lambda: now[0])
    (group,) = LocalGroup.world(1)
    group._members = (0, 1)  # or it would train alone
    group.gather_bytes = lambda blob: [blob, blob]  # type: ignore[method-assign]
    real = group.start

    def start(*args: Any, **options: Any) -> Any:
        group._members = (0,)
        pending = real(*args, **options)
        exchange = pending.wait()

        def wait() -> Any:
            now[0] += 8.0
            return exchange.__class__(**{**vars(exchange), "seconds": 10.0})

        pending.wait = wait  # type: ignore[method-assign]
        return pending

    group.start = start  # type: ignore[method-assign]
    net, told = model(), []
    opt = make(net, group, on_round=told.append, log=tmp_path / "rounds.jsonl")
    for step in range(EVERY + OVERLAP):
        learn(net, opt, step)
        now[0] += 1.0
    (info,) = told
    assert info.seconds == {"compute": 5.0, "encode": 0.0, "exchange": 8.0, "decode": 0.0, "apply": 0.0}
    assert info.hidden_s == 2.0
    assert "sync 8.000 s, 2.000 s hidden" in info.line()
    assert json.loads((tmp_path / "rounds.jsonl").read_text())["hidden_s"] == 2.0
    group.leave()


# -- learning ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["blockmax", "none"])
def test_half_a_window_of_overlap_learns_nearly_as_well(codec: str) -> None:
    def loss_after(overlap: int) -> float:
        def member(rank: int, group: LocalGroup) -> float:
            net = model()
            opt = DiLoCo(adamw(net, lr=3e-3), sync_every=10, overlap=overlap, codec=codec, group=group, outer_lr=1.0, outer_momentum=0.0)
            for step in range(200):
                learn(net, opt, step, rank)
            opt.close()
            x = torch.randn(512, 6, generator=torch.Generator().manual_seed(77))
            with torch.no_grad():
                return float((net(x) * net.gain - x[:, :2]).square().mean())

        return run_members(4, member)[0]

    assert loss_after(5) < 1.5 * loss_after(0)
