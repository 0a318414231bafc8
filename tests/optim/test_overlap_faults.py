"""Rounds that fail, payloads that do not count and members that leave, while exchanges run beside the training."""

import copy

import pytest
import torch
from torch import Tensor

from tests.optim.overlapped import CODECS, EVERY, OVERLAP, anchor, make, ours, same
from tests.optim.problem import adamw, learn, model, run_members, weights
from tests.optim.test_recovery import damage, poisoned
from thinwire import LocalGroup


class Failed:
    """An exchange that failed for everybody."""

    def __init__(self) -> None:
        self.error, self.missing = "the link is down", {1: "no answer"}
        self.sent_nbytes = self.received_nbytes = 7

    def wait(self) -> None:
        return None


@pytest.mark.parametrize("codec", CODECS)
def test_a_failed_round_touches_nothing_and_its_work_waits_for_the_next(codec: str) -> None:
    """The twin takes the same steps with the inner optimizer alone."""

    def member(rank: int, group: LocalGroup) -> tuple[Tensor, list[int]]:
        net, told = model(), []
        opt = make(net, group, codec, on_round=told.append)
        for step in range(2 * EVERY - 1):
            learn(net, opt, step, rank)
        twin = copy.deepcopy(net)
        plain = adamw(twin)
        plain.load_state_dict(copy.deepcopy(opt.inner.state_dict()))
        before, real = ours(opt), group.start
        group.start = lambda *_, **__: Failed()  # type: ignore[method-assign]
        for step in range(2 * EVERY - 1, 2 * EVERY + OVERLAP):
            learn(net, opt, step, rank)
            learn(twin, plain, step, rank)
            assert torch.equal(weights(net), weights(twin))
        assert same(before, ours(opt))
        assert (told[-1].error, told[-1].steps, opt.round) == ("the link is down", EVERY, 1)
        group.start = real  # type: ignore[method-assign]
        for step in range(2 * EVERY + OVERLAP, 3 * EVERY + OVERLAP):
            learn(net, opt, step, rank)
        return anchor(opt), [info.steps for info in told if info.error is None]

    results = run_members(2, member)
    assert torch.equal(results[0][0], results[1][0])
    assert all(steps == [EVERY, 2 * EVERY] for _, steps in results)


@pytest.mark.parametrize("overlap", [0, OVERLAP])
@pytest.mark.parametrize("codec", CODECS)
def test_a_member_whose_payload_does_not_count_keeps_its_work(codec: str, overlap: int) -> None:
    """It follows the others' update and keeps all that it did since the anchor, also what it did meanwhile."""

    def member(rank: int, group: LocalGroup) -> tuple[list[Tensor], int]:
        net, told = model(), []
        opt = make(net, group, codec, overlap=overlap, on_round=told.append)
        for step in range(2 * EVERY - 1):
            learn(net, opt, step, rank)
        if rank == 1:
            damage(group, 1)
        twin = copy.deepcopy(net)
        plain = adamw(twin)
        plain.load_state_dict(copy.deepcopy(opt.inner.state_dict()))
        before = ours(opt)
        for step in range(2 * EVERY - 1, 2 * EVERY + overlap):
            learn(net, opt, step, rank)
            learn(twin, plain, step, rank)
        after = ours(opt)
        assert set(told[-1].rejected) == {1}
        if rank == 1:
            assert torch.equal(weights(net), after[0] - (before[0] - weights(twin)))
            assert same(before[2:], after[2:])
        for step in range(2 * EVERY + overlap, 3 * EVERY + overlap):
            learn(net, opt, step, rank)
        opt.close()
        return [after[0], weights(net)], told[2].steps

    results = run_members(3, member)
    assert all(same(seen, results[0][0]) for seen, _ in results)


@pytest.mark.parametrize("codec", CODECS)
def test_a_member_with_nan_abstains_and_learns_on_from_the_anchor_at_once(codec: str) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[Tensor, Tensor, list[list[int]]]:
        net, told = model(), []
        opt = make(net, group, codec, on_round=told.append)
        for step in range(5 * EVERY + 1):
            poisoned(net, opt, step, rank, rank == 1 and step == 2 * EVERY - 2)
            if step >= 2 * EVERY - 1:
                assert bool(weights(net).isfinite().all())
        flying = anchor(opt)
        opt.close()
        return flying, weights(net), [sorted(info.rejected) for info in told]

    results = run_members(3, member)
    for flying, result, rejected in results:
        assert torch.equal(flying, results[0][0])
        assert torch.equal(result, results[0][1])
        assert rejected[:5] == [[], [1], [], [], []]


@pytest.mark.parametrize("overlap", [0, OVERLAP])
def test_a_member_with_nan_starts_anew_from_the_anchor_also_when_the_round_fails(overlap: int) -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = make(net, group, overlap=overlap)
        for step in range(EVERY + overlap):
            learn(net, opt, step, rank)
        group.start = lambda *_, **__: Failed()  # type: ignore[method-assign,assignment,return-value]
        for step in range(EVERY + overlap, 2 * EVERY + overlap):
            poisoned(net, opt, step, rank, step == 2 * EVERY - 1)
        assert opt.stats().nothing_averaged == 1
        assert bool(weights(net).isfinite().all())

    run_members(2, member)


def test_nan_everywhere_averages_nothing_and_the_next_round_does() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[Tensor, list[bool]]:
        net, told = model(), []
        opt = make(net, group, on_round=told.append)
        for step in range(3 * EVERY + OVERLAP):
            poisoned(net, opt, step, rank, step == 2 * EVERY - 2)
        return anchor(opt), [info.error is None for info in told]

    results = run_members(2, member)
    assert torch.equal(results[0][0], results[1][0])
    assert all(fine == [True, False, True] for _, fine in results)


# -- the end -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "blockmax"])
@pytest.mark.parametrize("steps", range(EVERY, 2 * EVERY + 1))
def test_close_ends_the_round_under_way_then_flushes_the_rest(steps: int, codec: str) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[Tensor, list[int], Tensor]:
        net, told = model(), []
        opt = make(net, group, codec, on_round=told.append)
        for step in range(steps):
            learn(net, opt, step, rank)
        opt.close()
        assert opt._flight is None
        return weights(net), [info.steps for info in told if info.members], anchor(opt)

    whole, rest = divmod(steps, EVERY)
    results = run_members(2, member)
    for result, counted, held in results:
        assert torch.equal(result, results[0][0])
        assert torch.equal(result, held)
        assert counted == [EVERY] * whole + [rest] * (rest > 0)


def test_members_that_stop_at_different_steps_end_identical() -> None:
    def member(rank: int, group: LocalGroup) -> Tensor:
        net = model()
        with make(net, group) as opt:
            for step in range(2 * EVERY - 1 + 3 * rank):
                learn(net, opt, step, rank)
        return weights(net)

    results = run_members(3, member)
    assert same(results, [results[0]] * 3)


def test_an_error_in_the_training_loop_does_not_wait_for_the_round() -> None:
    def train(rank: int, group: LocalGroup) -> None:
        net = model()
        with make(net, group) as opt:
            for step in range(EVERY if rank == 0 else 1):
                learn(net, opt, step, rank)
            raise KeyError

    def member(rank: int, group: LocalGroup) -> None:
        with pytest.raises(KeyError):
            train(rank, group)

    run_members(2, member)
