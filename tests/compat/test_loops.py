"""A loop of one's own: alone it is the plain one, members end identical, and resuming is the same as never having stopped."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.compat.loops import Loop, rows
from tests.optim.problem import run_members
from thinwire import DiLoCo, LocalGroup

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch.compile's own
ROWS = rows()
STEPS, STOP = 11, 7  # in the middle of the third window of 3


def same(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("row", list(ROWS))
def test_alone_it_is_the_plain_loop_bit_for_bit(row: str) -> None:
    plain = Loop(lambda inner: inner, **ROWS[row])
    ours = Loop(lambda inner: DiLoCo(inner, sync_every=1, codec="none", group=LocalGroup.world(1)[0]), **ROWS[row])
    start = ours.weights()
    ours.train(STEPS)
    plain.train(ours.steps)
    assert same(ours.weights(), plain.weights())
    assert not same(ours.weights(), start)
    rates = [[group["lr"] for group in loop.optimizer.param_groups] for loop in (plain, ours)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("row", list(ROWS))
def test_members_end_with_the_same_bits(row: str) -> None:
    def member(rank: int, group: LocalGroup) -> list[Tensor]:
        loop = Loop(lambda inner: DiLoCo(inner, sync_every=3, group=group), rank, **ROWS[row])
        loop.train(STEPS)
        loop.optimizer.close()
        assert loop.optimizer.round == 4
        return loop.weights()

    first, second = run_members(2, member)
    assert same(first, second)


@pytest.mark.parametrize("row", list(ROWS))
def test_resuming_in_a_window_is_the_same_as_never_having_stopped(row: str, tmp_path: Path) -> None:
    def whole(rank: int, group: LocalGroup) -> list[Tensor]:
        loop = Loop(lambda inner: DiLoCo(inner, sync_every=3, group=group), rank, **ROWS[row])
        loop.train(STOP)
        folder = tmp_path / str(rank)
        folder.mkdir()
        loop.save(folder)
        loop.train(STEPS)
        return loop.weights()

    def resumed(rank: int, group: LocalGroup) -> list[Tensor]:
        loop = Loop(lambda inner: DiLoCo(inner, sync_every=3, group=group), rank, **ROWS[row])
        loop.load(tmp_path / str(rank))
        loop.train(STEPS)
        return loop.weights()

    for mine, theirs in zip(run_members(2, whole), run_members(2, resumed), strict=True):
        assert same(mine, theirs)
