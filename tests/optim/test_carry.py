"""What travels beside the tensors: learning rates, counters, schedulers. A newcomer believes nothing that is not like its own."""

import json
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from tests.optim.elastic import Hub
from tests.optim.problem import adamw, learn, model
from thinwire import ConfigError, DiLoCo
from thinwire.comms.door import SnapshotError
from thinwire.optim import carried

EVERY = 2


def member(hub: Hub, rank: int, **inner: Any) -> tuple[torch.nn.Module, DiLoCo, Any]:
    net = model(rank)
    opt = DiLoCo(adamw(net, **inner), sync_every=EVERY, group=hub.member(rank))
    scheduler = lr_scheduler.CosineAnnealingLR(opt, T_max=50)
    opt.carry(scheduler=scheduler)
    return net, opt, scheduler


def test_a_newcomer_begins_with_the_numbers_with_which_the_members_began_the_window() -> None:
    hub = Hub()
    net, opt, scheduler = member(hub, 0, betas=(0.8, 0.99))
    seen = []
    for step in range(3 * EVERY + 1):
        seen.append((opt.param_groups[0]["lr"], scheduler.state_dict()))
        learn(net, opt, step)
        scheduler.step()
    net1, opt1, scheduler1 = member(hub, 1)
    learn(net1, opt1, 0, 1)
    lr, state = seen[3 * EVERY]
    assert opt1.param_groups[0]["lr"] == lr
    assert scheduler1.state_dict() == state
    assert opt1.param_groups[0]["betas"] == (0.8, 0.99)
    assert opt1.global_step == 3 * EVERY
    assert opt1.round == 3


def test_switches_of_the_machine_do_not_travel_and_tensors_stay_tensors() -> None:
    hub = Hub()
    net, opt, _ = member(hub, 0, foreach=True, lr=0.5)
    learn(net, opt, 0)
    other = model(1)
    lr = torch.tensor(0.25)
    inner = torch.optim.AdamW(other.parameters(), lr=lr, foreach=False)
    opt1 = DiLoCo(inner, sync_every=EVERY, group=hub.member(1))
    opt1._entrance.carried = {"scheduler": lr_scheduler.CosineAnnealingLR(torch.optim.SGD(other.parameters()), T_max=50)}
    learn(other, opt1, 0, 1)
    assert opt1.param_groups[0]["lr"] is lr
    assert float(lr) == 0.5
    assert opt1.param_groups[0]["foreach"] is False


def test_members_that_carry_other_things_are_refused_at_the_door() -> None:
    hub = Hub()
    net, opt, _ = member(hub, 0)
    learn(net, opt, 0)
    other = model()
    with pytest.raises(ConfigError, match="carried = "):
        learn(other, DiLoCo(adamw(other), sync_every=EVERY, group=hub.member(1)), 0, 1)


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (lambda opt: 3, "carry objects with state_dict"),
        (lambda opt: lr_scheduler.MultiStepLR(opt, [3, 5]), "milestones"),
        (lambda opt: torch.nn.Linear(1, 1), "weight"),
    ],
)
def test_what_is_no_plain_json_is_refused_when_it_is_named(thing: Any, words: str) -> None:
    opt = DiLoCo(adamw(model()))
    with pytest.raises(TypeError, match=words):
        opt.carry(thing=thing(opt))


@pytest.mark.parametrize(
    "make",
    [
        lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=9),
        lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1.0),
        lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9),
        lambda opt: lr_scheduler.LinearLR(opt),
        lambda opt: lr_scheduler.ExponentialLR(opt, 0.9),
        lambda opt: lr_scheduler.StepLR(opt, 3),
        lambda opt: lr_scheduler.ConstantLR(opt),
        lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3),
    ],
)
def test_the_schedulers_of_torch_travel(make: Any) -> None:
    first, second = (DiLoCo(torch.optim.SGD(model().parameters(), lr=0.1, momentum=0.9)) for _ in range(2))
    ours, theirs = make(first), make(second)
    for _ in range(4):
        ours.optimizer.step()
        ours.step()
    meta = carried.pack(first.param_groups, 4, {"scheduler": ours})
    steps, take = carried.unpack(meta, second.param_groups, {"scheduler": theirs})
    take()
    assert steps == 4
    assert theirs.state_dict() == ours.state_dict()
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]


def test_carry_comes_before_the_first_step() -> None:
    hub = Hub()
    net, opt, scheduler = member(hub, 0)
    learn(net, opt, 0)
    with pytest.raises(RuntimeError, match="before the first step"):
        opt.carry(again=scheduler)


def lies() -> list[Any]:
    """Accounts that no member of this plan can give."""
    group, state = {"lr": 0.1}, {"last_epoch": 3}
    fine = {"steps": 1, "groups": [group], "carried": {"s": state}}
    return [
        [],
        {"steps": 1},
        fine | {"more": 1},
        fine | {"steps": -1},
        fine | {"steps": 1.5},
        fine | {"steps": True},
        fine | {"steps": 1 << 60},
        fine | {"groups": []},
        fine | {"groups": [group, group]},
        fine | {"groups": [3]},
        fine | {"groups": [{"lr": "0.1"}]},
        fine | {"groups": [{"lr": float("nan")}]},
        fine | {"groups": [{"lr": True}]},
        fine | {"groups": [{"lr": [0.1]}]},
        fine | {"groups": [{"params": [1]}]},
        fine | {"groups": [{"foreach": 1}]},
        fine | {"groups": [{"betas": [0.9]}]},
        fine | {"groups": [{"betas": [0.9, None]}]},
        fine | {"carried": {}},
        fine | {"carried": {"s": 3}},
        fine | {"carried": {"s": {}}},
        fine | {"carried": {"s": {"last_epoch": "3"}}},
        fine | {"carried": {"s": {"last_epoch": [3]}}},
        fine | {"carried": {"s": {"last_epoch": float("inf")}}},
        fine | {"carried": {"s": {"last_epoch": 3, "more": 4}}},
    ]


class Counter:
    def __init__(self) -> None:
        self.epoch = 0

    def state_dict(self) -> dict[str, int]:
        return {"last_epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["last_epoch"]


@pytest.mark.parametrize("meta", [*(json.dumps(lie).encode() for lie in lies()), b"", b"\xff", b"[" * 100_000, b" " * (2 << 20)])
def test_an_account_that_is_not_like_ours_changes_nothing(meta: bytes) -> None:
    groups, counter = [{"params": [], "lr": 0.2, "betas": (0.9, 0.99), "foreach": None}], Counter()
    with pytest.raises(SnapshotError):
        carried.unpack(meta, groups, {"s": counter})
    assert groups == [{"params": [], "lr": 0.2, "betas": (0.9, 0.99), "foreach": None}]
    assert counter.epoch == 0
