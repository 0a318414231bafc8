"""Optimizers in a group whose members come and go: who enters, what it gets, who is refused, who comes back, who leaves."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.elastic import ElasticGroup, Hub
from tests.optim.overlapped import CODECS, anchor, same
from tests.optim.problem import adamw, backward, learn, model, weights
from thinwire import ConfigError, DeMo, DiLoCo, LocalGroup, RoundInfo
from thinwire.comms import door
from thinwire.comms.door import Snapshot, SnapshotError

EVERY = 2


def make(hub: Hub, rank: int, *, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[nn.Module, DiLoCo]:
    net = model(rank, dtype)
    inner = adamw(net) if dtype != torch.float16 else torch.optim.SGD(net.parameters(), lr=1e-2)  # Adam divides by zero in float16
    options = {"sync_every": EVERY, "group": hub.member(rank, patience_s=0.0)} | options
    return net, DiLoCo(inner, **options)


def demo(hub: Hub, rank: int, **options: Any) -> tuple[nn.Module, DeMo]:
    net = model(rank)
    return net, DeMo(net.parameters(), **{"lr": 1e-2, "group": hub.member(rank), "verify_every": 1} | options)


def momentum(opt: DiLoCo) -> list[Tensor]:
    return [replica.momentum.clone() for replica in opt._replicas if replica.momentum is not None]


def together(*works: Callable[[], Any]) -> None:
    """Do all at the same time, as members that wait for each other must."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


def group_of(opt: Any) -> ElasticGroup:
    assert isinstance(opt.group, ElasticGroup)
    return opt.group


# -- entering ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codec", CODECS)
def test_a_newcomer_holds_the_same_bits_and_its_first_round_proves_it(codec: str, dtype: torch.dtype) -> None:
    hub = Hub()
    net, opt = make(hub, 0, codec=codec, dtype=dtype)
    for step in range(3 * EVERY):
        learn(net, opt, step)
    told: list[RoundInfo] = []
    net1, opt1 = make(hub, 1, codec=codec, dtype=dtype, on_round=told.append)
    learn(net1, opt1, 0, 1)
    assert (opt1.round, opt1.global_step, opt1._clock.window) == (3, 3 * EVERY, 0)
    assert torch.equal(anchor(opt), anchor(opt1))
    assert same(momentum(opt), momentum(opt1))
    assert torch.equal(weights(net), weights(net1))
    for step in range(2 * EVERY):
        learn(net, opt, 3 * EVERY + step)
        learn(net1, opt1, step, 1)
    learn(net, opt, 0)
    assert opt.round == opt1.round == 5
    assert torch.equal(anchor(opt), anchor(opt1))
    assert [info.members for info in told] == [(0, 1)] * 2
    assert hub.decided[3].notes[0].state == hub.decided[3].notes[1].state != 0


def test_a_newcomer_follows_the_rounds_that_were_decided_while_the_state_travelled() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    for step in range(EVERY):
        learn(net, opt, step)
    old = hub.offers[-1].copy()
    for step in range(3 * EVERY):
        learn(net, opt, step)
    hub.offers = [old]
    told: list[RoundInfo] = []
    net1, opt1 = make(hub, 1, on_round=told.append)
    learn(net1, opt1, 0, 1)
    assert [info.round for info in told] == [1, 2, 3]
    assert torch.equal(anchor(opt), anchor(opt1))
    assert torch.equal(weights(net1), anchor(opt1))


def test_a_run_is_founded_with_one_member_and_goes_on_with_none_other() -> None:
    hub = Hub()
    net, opt = make(hub, 0, initial="member0")
    before = weights(net)
    learn(net, opt, 0)
    assert not torch.equal(before, weights(net))
    for step in range(1, 3 * EVERY):
        learn(net, opt, step)
    assert (opt.round, opt.stats().rounds) == (3, 3)
    assert hub.decided[2].members == (0,)


def test_many_groups_of_parameters_frozen_ones_and_empty_ones(caplog: pytest.LogCaptureFixture) -> None:
    def member(hub: Hub, rank: int) -> tuple[nn.Module, DiLoCo]:
        net = model(rank)
        net[0].weight.requires_grad_(False)
        groups = [{"params": list(net[0].parameters())}, {"params": list(net[2].parameters()), "lr": 0.5}]
        inner = torch.optim.AdamW([*groups, {"params": list(net[4].parameters())}], lr=1e-2)
        inner.param_groups.append({**{k: v for k, v in inner.param_groups[0].items() if k != "params"}, "params": []})
        return net, DiLoCo(inner, sync_every=EVERY, group=hub.member(rank), codec="int8")

    def train(net: nn.Module, opt: DiLoCo, step: int, rank: int) -> None:
        opt.zero_grad()
        backward(net, step, rank)
        opt.step()

    hub = Hub()
    net, opt = member(hub, 0)
    for step in range(EVERY):
        train(net, opt, step, 0)
    net1, opt1 = member(hub, 1)
    train(net1, opt1, 0, 1)
    assert torch.equal(anchor(opt), anchor(opt1))
    assert torch.equal(net[0].weight, net1[0].weight)
    assert same(momentum(opt), momentum(opt1))


def test_the_gradient_of_the_weights_that_a_newcomer_came_with_is_not_used() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1)
    learn(net1, opt1, 0, 1)
    assert not opt1.inner.state
    assert torch.equal(weights(net1), anchor(opt1))

    net2, opt2 = make(hub, 2)
    opt2.step(lambda: backward(net2, 0, 2))  # a closure computes it anew
    assert opt2.inner.state


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sync_every": 3}, "sync_every = 2.*sync_every = 3"),
        ({"codec": "int8"}, "codec = chain.BlockMax"),
        ({"decay": 0.5}, "decay"),
        ({"aggregate": "mean"}, "aggregate = 'clipped'.*aggregate = 'mean'"),
    ],
)
def test_other_settings_are_refused_at_the_door_with_the_first_difference(options: dict[str, Any], words: str) -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1, **options)
    with pytest.raises(ConfigError, match=words):
        learn(net1, opt1, 0, 1)
    assert list(hub.view) == [0]
    for step in range(EVERY):
        learn(net, opt, step)
    assert opt.round == 1


def test_another_model_is_refused_and_no_initial_weights_or_learning_rates_are_compared() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    other = nn.Linear(3, 3)
    with pytest.raises(ConfigError, match="tensor parameter 0 of group 0"):
        DiLoCo(adamw(other), sync_every=EVERY, group=hub.member(1)).step()
    same_ = model(5)
    learn(same_, DiLoCo(adamw(same_, lr=0.7), sync_every=EVERY, group=hub.member(2)), 0, 1)
    assert list(hub.view) == [0, 2]


def test_parameters_cannot_be_added_once_the_run_has_begun() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    learn(net, opt, 0)
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    with pytest.raises(ConfigError, match="parameter group 2 was added after"):
        learn(net, opt, 1)


@pytest.mark.parametrize("spoil", ["shape", "dtype", "name", "nan", "huge", "meta"])
def test_a_state_that_is_not_of_this_plan_is_refused_and_changes_nothing(spoil: str) -> None:
    hub = Hub()
    net, opt = make(hub, 0, codec="none")
    for step in range(EVERY):
        learn(net, opt, step)
    copy_ = hub.offers[-1].copy()
    assert copy_ is not None
    tensors, meta = dict(copy_.tensors), copy_.meta
    if spoil == "shape":
        tensors["anchor.0"] = tensors["anchor.0"][1:]
    elif spoil == "dtype":
        tensors["anchor.0"] = tensors["anchor.0"].double()
    elif spoil == "name":
        tensors["more"] = torch.zeros(1)
    elif spoil in ("nan", "huge"):
        tensors["momentum.0"] = tensors["momentum.0"].clone().fill_(float("nan") if spoil == "nan" else 1e38)
    else:
        meta = b"{}"
    hub.offers = [Snapshot(1, tensors, meta)]
    net1, opt1 = make(hub, 1, codec="none")
    opt1._lay_out()
    before = weights(net1)
    with pytest.raises(SnapshotError):
        opt1._entrance.adopt(hub.offers[0])
    assert not opt1._begin()
    assert torch.equal(before, weights(net1))
    assert torch.equal(before, anchor(opt1))
    assert opt1.round == 0
    for step in range(EVERY + 1):  # it trains on by itself and tries again; what it learns is not of the group's weights
        learn(net1, opt1, step, 1)
    hub.offers = [copy_]
    assert opt1._begin()
    assert torch.equal(weights(net1), anchor(opt1))
    assert torch.equal(anchor(opt), anchor(opt1))


# -- the state on offer --------------------------------------------------------------------------------------------------------


def test_a_copy_under_way_never_holds_a_half_applied_round_and_stalls_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copier stops in the middle; rounds are applied meanwhile; then it goes on with what it began."""
    monkeypatch.setattr(door, "PIECE", 1000)
    hub = Hub()
    net, opt = make(hub, 0, codec="none")
    for step in range(EVERY):
        learn(net, opt, step)
    offered = hub.offers[-1]
    whole = {name: tensor.clone() for name, tensor in offered.tensors.items()}
    half, go_on, real = threading.Event(), threading.Event(), offered._state.lock
    entered = 0

    class Lock:
        """Lets the copier take two pieces, then makes it wait outside of the lock."""

        def __enter__(self) -> None:
            nonlocal entered
            if threading.current_thread() is copier:
                entered += 1
                if entered == 4:
                    half.set()
                    assert go_on.wait(20)
            real.acquire()

        def __exit__(self, *_: object) -> None:
            real.release()

    copies: list[Snapshot | None] = []
    copier = threading.Thread(target=lambda: copies.append(offered.copy()))
    offered._state.lock = Lock()  # type: ignore[assignment]
    copier.start()
    assert half.wait(20)
    for step in range(2 * EVERY):
        learn(net, opt, EVERY + step)
    assert opt.round == 3
    go_on.set()
    copier.join(20)
    assert copies[0] is not None
    assert same(list(copies[0].tensors.values()), list(whole.values()))
    assert not torch.equal(whole["anchor.0"], anchor(opt))
    assert offered.copy() is None, "the state has moved on"


def test_an_offer_is_references_and_is_made_after_every_round() -> None:
    hub = Hub()
    net, opt = make(hub, 0, codec="none")
    for step in range(3 * EVERY):
        learn(net, opt, step)
        offer = hub.offers[-1]
        assert offer.round == opt.round
        assert offer.tensors["anchor.0"] is opt._replicas[0].anchor
        assert offer.copy() is not None
    assert all(old.copy() is None for old in hub.offers[:-1])


def test_what_the_group_takes_by_itself_is_retired_too() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    taken = opt._entrance.snapshot()
    for step in range(EVERY):
        learn(net, opt, step)
    assert taken.copy() is None


def test_a_snapshot_knows_its_bytes_and_what_they_hash_to() -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "none": torch.zeros(0), "one": torch.ones((), dtype=torch.bfloat16)}
    snapshot = Snapshot(3, tensors, b"mine")
    assert snapshot.nbytes == 26
    copied = snapshot.copy()
    assert copied is not None
    assert copied.digest() == snapshot.digest() == Snapshot(3, tensors, b"yours").digest()
    assert copied.tensors["a"].is_contiguous()
    assert (
        len({Snapshot(r, {n: torch.ones(2, dtype=d)}, b"").digest() for r in (1, 2) for n in "ab" for d in (torch.int32, torch.float32)})
        == 8
    )


# -- coming back ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_who_was_excluded_comes_back_with_its_undelivered_work(codec: str) -> None:
    hub = Hub()
    net, opt = make(hub, 0, codec=codec)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1, codec=codec)
    for step in range(EVERY + 1):
        learn(net1, opt1, step, 1)
        learn(net, opt, step)
    learn(net1, opt1, 7, 1)
    group_of(opt1).exclude()
    for step in range(5 * EVERY):
        learn(net, opt, step)
    local, old = weights(net1), anchor(opt1)
    residual = [None if r.residual is None else r.residual.clone() for r in opt1._replicas]
    window = opt1._clock.window
    assert opt1._begin()
    assert group_of(opt1).rejoined == 1
    assert opt1.round == opt.round > 4
    assert torch.equal(anchor(opt1), anchor(opt))
    assert torch.equal(weights(net1), anchor(opt1) - (old - local))
    assert opt1._clock.window == window > 0
    for replica, before in zip(opt1._replicas, residual, strict=True):
        assert before is None or torch.equal(replica.residual, before)
    for step in range(2 * EVERY):
        learn(net1, opt1, step, 1)
        learn(net, opt, step)
    learn(net1, opt1, 0, 1)
    assert torch.equal(anchor(opt1), anchor(opt))
    assert 1 in hub.decided[opt.round - 1].members


def test_a_replica_that_differs_takes_the_state_of_the_majority_and_nothing_raises() -> None:
    hub = Hub()
    members = [make(hub, 0)]
    learn(*members[0], 0)
    for rank in (1, 2):
        members.append(make(hub, rank))
        learn(*members[rank], 0, rank)
    members[1][1]._replicas[0].anchor[3] += 1e-3
    for step in range(4 * EVERY):
        for rank, (net, opt) in enumerate(members):
            learn(net, opt, step, rank)
    assert [group_of(opt).rejoined for _, opt in members] == [0, 1, 0]
    first = min(r for r, e in hub.decided.items() if len({n.state for n in e.notes.values()}) > 1)
    assert {m: n.state for m, n in hub.decided[first].notes.items()}[0] == hub.decided[first].notes[2].state
    for _, opt in members:
        opt._land()
        assert torch.equal(anchor(opt), anchor(members[0][1]))
    last = hub.decided[max(hub.decided)]
    assert len({note.state for note in last.notes.values()}) == 1
    assert 1 in last.members


def test_the_payload_of_a_replica_that_differs_counts_for_nobody() -> None:
    hub = Hub()
    told: list[RoundInfo] = []
    members = [make(hub, 0, on_round=told.append)]
    learn(*members[0], 0)
    for rank in (1, 2):
        members.append(make(hub, rank))
        learn(*members[rank], 0, rank)
    members[2][1]._replicas[0].anchor.mul_(1.5)
    while not told or 2 not in told[-1].rejected:
        for rank, (net, opt) in enumerate(members):
            learn(net, opt, len(told), rank)
    assert told[-1].rejected == {2: "its replica differs from those of the majority"}
    assert told[-1].members == (0, 1)


def test_of_two_halves_the_one_with_the_lowest_member_is_right() -> None:
    hub = Hub()
    members = [make(hub, 0)]
    learn(*members[0], 0)
    members.append(make(hub, 1))
    learn(*members[1], 0, 1)
    members[0][1]._replicas[0].anchor.mul_(1.5)
    for step in range(3 * EVERY):
        for rank, (net, opt) in enumerate(members):
            learn(net, opt, step, rank)
    assert [group_of(opt).rejoined for _, opt in members] == [0, 1]


def test_a_straggler_whose_replica_differs_finds_out_from_the_rounds_that_it_missed() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1)
    learn(net1, opt1, 0, 1)
    hub.slow = {1}
    for step in range(2 * EVERY):
        learn(net, opt, step)
    opt1._replicas[0].anchor[0] += 1.0
    for step in range(EVERY + 1):
        learn(net1, opt1, step, 1)
    assert group_of(opt1).rejoined == 1
    assert torch.equal(anchor(opt1), anchor(opt))


def test_work_that_is_not_finite_does_not_come_back() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1)
    for step in range(2):
        learn(net1, opt1, step, 1)
    opt1._replicas[0].anchor.fill_(float("nan"))
    group_of(opt1).exclude()
    learn(net, opt, 1)
    opt1._begin()
    assert torch.equal(weights(net1), anchor(opt))


# -- checkpoints ---------------------------------------------------------------------------------------------------------------


def restarted(net: nn.Module, opt: DiLoCo) -> tuple[dict[str, Any], dict[str, Any]]:
    return copy.deepcopy(net.state_dict()), copy.deepcopy(opt.state_dict())


def test_a_run_founded_from_a_checkpoint_begins_with_its_round() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    for step in range(3 * EVERY + 1):
        learn(net, opt, step)
    saved = restarted(net, opt)
    again = Hub()
    net1, opt1 = make(again, 0)
    net1.load_state_dict(saved[0])
    opt1.load_state_dict(saved[1])
    learn(net1, opt1, 3 * EVERY + 1)
    learn(net, opt, 3 * EVERY + 1)
    assert list(again.decided) == [3]
    assert torch.equal(anchor(opt), anchor(opt1))
    assert torch.equal(weights(net), weights(net1))


@pytest.mark.parametrize("moved", [False, True])
def test_a_checkpoint_is_worth_its_undelivered_work_only_if_the_group_has_not_moved(moved: bool, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1)
    learn(net1, opt1, 0, 1)
    learn(net1, opt1, 0, 1)
    for step in range(2 * EVERY - 1):
        learn(net1, opt1, step, 1)
        learn(net, opt, step)
    learn(net1, opt1, 0, 1)
    owed = anchor(opt1) - weights(net1)
    assert opt1.round == 2
    assert opt1._clock.open
    saved = restarted(net1, opt1)
    assert opt1._flight is None
    group_of(opt1).exclude()
    if moved:
        for step in range(2 * EVERY):
            learn(net, opt, step)
    net2, opt2 = make(hub, 2)
    net2.load_state_dict(saved[0])
    opt2.load_state_dict(saved[1])
    opt2._lay_out()
    opt2._begin()
    assert opt2.round == opt.round
    assert torch.equal(anchor(opt2), anchor(opt))
    residual = opt2._replicas[0].residual
    if moved:
        assert torch.equal(weights(net2), anchor(opt2))
        assert not bool(residual.any())
        assert "may count already, and are dropped" in caplog.text
    else:
        torch.testing.assert_close(anchor(opt2) - weights(net2), owed)
        assert bool(residual.any())


def test_loading_a_checkpoint_in_the_middle_of_a_run_brings_the_member_back_to_the_others() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1)
    learn(net1, opt1, 0, 1)
    saved = restarted(net1, opt1)
    for step in range(3 * EVERY):
        learn(net1, opt1, step, 1)
        learn(net, opt, step)
    net1.load_state_dict(saved[0])
    opt1.load_state_dict(saved[1])
    learn(net1, opt1, 0, 1)
    assert group_of(opt1).rejoined == 1
    assert torch.equal(anchor(opt1), anchor(opt))
    assert opt1.round == opt.round


def test_a_copy_trains_alone_and_carries_nothing() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    for step in range(EVERY + 1):
        learn(net, opt, step)
    twin = copy.deepcopy(opt)
    twin.step()
    assert twin.group is None
    assert not twin._entrance.entered


# -- the end -------------------------------------------------------------------------------------------------------------------


def test_who_leaves_delivers_its_last_window_and_the_others_go_on() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    learn(net, opt, 0)
    net1, opt1 = make(hub, 1)
    learn(net1, opt1, 0, 1)
    learn(net1, opt1, 1, 1)
    hub.slow = {0}
    opt1.close()
    assert hub.decided[0].members == (1,)
    assert hub.decided[0].notes[1].steps == 1
    assert list(hub.view) == [0]
    hub.slow = set()
    for step in range(2 * EVERY):
        learn(net, opt, step)
    assert opt.round > 1
    assert torch.equal(weights(net1), anchor(opt1))


def test_who_has_nothing_left_to_deliver_leaves_at_once() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    with opt:
        for step in range(EVERY):
            learn(net, opt, step)
    assert list(hub.decided) == [0]
    assert not hub.view


def test_members_that_end_together_end_identical() -> None:
    hub = Hub()
    members = [make(hub, 0)]
    learn(*members[0], 0)
    members.append(make(hub, 1))
    learn(*members[1], 0, 1)
    learn(*members[1], 1, 1)
    together(*(opt.close for _, opt in members))
    assert torch.equal(weights(members[0][0]), weights(members[1][0]))
    assert hub.decided[0].members == (0, 1)


def test_when_everybody_abstains_the_round_counts_and_the_next_one_is_another() -> None:
    hub = Hub()
    net, opt = make(hub, 0)
    for step in range(3 * EVERY + 1):
        opt.zero_grad()
        backward(net, step, 0)
        if step == EVERY:
            net[0].weight.grad.fill_(float("nan"))
        opt.step()
    assert [len(exchange.members) for exchange in hub.decided.values()] == [1, 0, 1]
    assert bool(weights(net).isfinite().all())
    assert opt.round == 3


# -- DeMo ----------------------------------------------------------------------------------------------------------------------


def test_demo_enters_follows_and_stays_identical() -> None:
    hub = Hub()
    net, opt = demo(hub, 0)
    for step in range(3):
        learn(net, opt, step)
    old = hub.offers[-1].copy()
    for step in range(2):
        learn(net, opt, step)
    hub.offers = [old]
    net1, opt1 = demo(hub, 1, lr=0.7)
    learn(net1, opt1, 0, 1)
    assert (opt1.round, opt1.param_groups[0]["lr"]) == (5, 1e-2)
    assert torch.equal(weights(net), weights(net1))

    def train(net: nn.Module, opt: DeMo, rank: int) -> None:
        for step in range(5):
            learn(net, opt, step, rank)

    together(lambda: train(net, opt, 0), lambda: train(net1, opt1, 1))
    assert opt.round == opt1.round == 10
    assert torch.equal(weights(net), weights(net1))
    assert all(hub.decided[r].members == (0, 1) for r in range(5, 10))


def test_demo_whose_weights_were_changed_takes_those_of_the_others() -> None:
    hub = Hub()
    net, opt = demo(hub, 0)
    for step in range(2):
        learn(net, opt, step)
    net1, opt1 = demo(hub, 1)
    learn(net1, opt1, 0, 1)
    with torch.no_grad():
        net1[0].weight[0, 0] += 1.0
    hub.slow = {1}
    learn(net, opt, 2)
    hub.slow = set()
    learn(net1, opt1, 1, 1)  # it follows, finds out and takes the state: its gradient was of other weights
    assert group_of(opt1).rejoined == 1
    assert torch.equal(weights(net), weights(net1))
    together(lambda: learn(net1, opt1, 2, 1), lambda: learn(net, opt, 3))
    assert opt.round == opt1.round == 4
    assert torch.equal(weights(net), weights(net1))


def test_a_group_of_fixed_members_has_no_door() -> None:
    (group,) = LocalGroup.world(1)
    door_ = DiLoCo(adamw(model()))._entrance
    for enter in (group.enter, group.rejoin):
        with pytest.raises(TypeError, match="there is no door"):
            enter(door_)
    assert not group.is_ahead(0)
    group.leave()
