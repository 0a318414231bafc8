"""What goes wrong on one member: the others keep their work, their weights and their bits, and are told who and why."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.optim.problem import adamw, backward, learn, model, run_members, weights
from thinwire import ConfigError, DeMo, DiLoCo, DivergenceError, LocalGroup, RoundInfo


@pytest.mark.parametrize("method", ["diloco", "demo", "none"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38])
def test_nan_gradients_on_one_member_never_reach_the_others(method: str, poison: float) -> None:
    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, dict[int, str]]:
        net = model()
        if method == "demo":
            opt: Any = DeMo(net.parameters(), lr=1e-2, group=group)
        else:
            inner = torch.optim.SGD(net.parameters(), lr=0.1)
            opt = DiLoCo(inner, sync_every=2, codec="none" if method == "none" else "blockmax", group=group)
        rejected: dict[int, str] = {}
        for step in range(6):
            backward(net, step, rank)
            if rank == 1 and step == 3:
                net[0].weight.grad.fill_(poison)
            opt.step()
            opt.zero_grad()
            rejected |= opt.stats().last.rejected if opt.stats().last else {}
        return weights(net), rejected

    results = run_members(3, member)
    for result, rejected in results:
        assert bool(result.isfinite().all())
        assert torch.equal(result, results[0][0])
        assert set(rejected) == {1}


def test_when_everybody_abstains_nothing_was_averaged_and_the_ledger_says_so() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[int, int, RoundInfo]:
        net = model()
        opt = DiLoCo(torch.optim.SGD(net.parameters(), lr=0.1), sync_every=1, group=group)
        backward(net, 0, rank)
        net[0].weight.grad.fill_(float("nan"))
        opt.step()
        return opt.round, opt.stats().nothing_averaged, opt.stats().last

    for round_, failed, info in run_members(2, member):
        assert (round_, failed) == (0, 1)
        assert info.error is not None
        assert "no payload counts" in info.error


def test_a_member_whose_weights_were_changed_is_named_with_the_tensor() -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model()
        opt = DeMo(net.parameters(), lr=1e-2, group=group, verify_every=2)
        for step in range(2):
            learn(net, opt, step, rank)
        if rank == 1:
            with torch.no_grad():
                net[2].bias[3] += 1e-6
        with pytest.raises(DivergenceError) as caught:
            learn(net, opt, 2, rank)
        return str(caught.value)

    for words in run_members(3, member):
        assert "member 1" in words
        assert "4 of group 0" in words  # the parameters in order: gain, then weights and biases of three layers


def test_names_of_parameters_are_used_where_the_optimizer_knows_them() -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model(seed=0)
        if rank == 2:
            with torch.no_grad():
                net[2].weight[0, 0] = 5.0
        opt = DiLoCo(torch.optim.AdamW(net.named_parameters()), group=group)
        with pytest.raises(ConfigError) as caught:
            learn(net, opt, 0, rank)
        return str(caught.value)

    for words in run_members(3, member):
        assert "2.weight" in words
        assert "members 0 and 2" in words
        assert "initial='member0'" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sync_every": 7}, "sync_every = 7"),
        ({"codec": "topk"}, "TopK"),
        ({"codec": "topk", "decay": 0.5}, "TopK"),
        ({"decay": 0.5}, "decay = 0.5"),
        ({"outer_lr": 0.5}, "SGD(lr=0.5"),
        ({"aggregate": "mean"}, "mean"),
    ],
)
def test_settings_that_differ_are_named_on_every_member(options: dict[str, Any], words: str) -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = model()
        with pytest.raises(ConfigError) as caught:
            learn(net, DiLoCo(adamw(net), group=group, **(options if rank else {})), 0, rank)
        return str(caught.value)

    assert all(words in told for told in run_members(2, member))


def test_another_model_is_named_by_its_first_differing_tensor() -> None:
    def member(rank: int, group: LocalGroup) -> str:
        net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 2 + rank))
        opt = DiLoCo(torch.optim.AdamW(net.named_parameters()), group=group)
        net(torch.ones(1, 6)).sum().backward()
        with pytest.raises(ConfigError) as caught:
            opt.step()
        return str(caught.value)

    assert all("1.weight (2, 4)" in told and "1.weight (3, 4)" in told for told in run_members(2, member))


@pytest.mark.parametrize("method", ["diloco", "demo"])
def test_member0_can_give_its_weights_to_all(method: str) -> None:
    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net = model(seed=rank)
        options: dict[str, Any] = {"group": group, "initial": "member0"}
        opt: Any = DeMo(net.parameters(), **options) if method == "demo" else DiLoCo(adamw(net), sync_every=2, **options)
        for step in range(2):
            learn(net, opt, step, rank)
        return weights(net)

    first, second = run_members(2, member)
    assert torch.equal(first, second)


def test_a_member_that_leaves_does_not_stop_the_others() -> None:
    def member(rank: int, group: LocalGroup) -> tuple[torch.Tensor, int]:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=2, group=group)
        for step in range(8):
            if rank == 2 and step == 5:
                group.leave()
                return weights(net), 0
            learn(net, opt, step, rank)
        return weights(net), opt.stats().rounds

    a, b, _ = run_members(3, member)
    assert torch.equal(a[0], b[0])
    assert a[1] == b[1] == 4


def test_a_failed_round_keeps_the_work_and_touches_no_state() -> None:
    """Both members lose the network for one round; afterwards they are where two windows in one would have brought them."""

    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=2, codec="int8", group=group)
        for step in range(4):
            learn(net, opt, step, rank)
        real, before = group.start, opt.state_dict()
        kept = {i: {k: v.clone() for k, v in s.items() if k.startswith("thinwire")} for i, s in before["state"].items()}

        class Failed:
            error, missing = "the link is down", {1: "no answer"}
            sent_nbytes = received_nbytes = 7

            def wait(self) -> None:
                return None

        group.start = lambda *_, **__: Failed()  # type: ignore[method-assign,assignment,return-value]
        for step in range(4, 6):
            learn(net, opt, step, rank)
        after = opt.state_dict()
        for i, tensors in kept.items():
            assert all(torch.equal(after["state"][i][name], value) for name, value in tensors.items())
        info = opt.stats().last
        assert info is not None
        assert (info.error, info.missing, opt.round) == ("the link is down", {1: "no answer"}, 2)
        group.start = real  # type: ignore[method-assign]
        local = weights(net)
        for step in range(6, 8):
            learn(net, opt, step, rank)
        assert opt.round == 3
        assert opt.stats().last.steps == 4
        assert not torch.equal(weights(net), local)

    run_members(2, member)


def test_demo_keeps_an_undelivered_gradient_in_its_residual() -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        opt = DeMo(net.parameters(), lr=1e-2, codec="topk", decay=1.0, group=group)
        learn(net, opt, 0, rank)
        replica = opt._replicas[0]
        held, before, real = replica.residual.clone(), weights(net), group.start

        class Failed:
            error, missing = "down", {}
            sent_nbytes = received_nbytes = 0

            def wait(self) -> None:
                return None

        group.start = lambda *_, **__: Failed()  # type: ignore[method-assign,assignment,return-value]
        opt.zero_grad()
        backward(net, 1, rank)
        gradient = replica.fragment.matrix(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))
        opt.step()
        group.start = real  # type: ignore[method-assign]
        assert torch.equal(replica.residual, held + gradient)
        assert torch.equal(weights(net), before)

    run_members(2, member)


def test_no_pickle_runs_on_any_receive_path() -> None:
    seen: list[str] = []
    watching = True

    def hook(event: str, _: Any) -> None:
        if watching and event == "pickle.find_class":
            seen.append(event)

    sys.addaudithook(hook)

    def member(rank: int, group: LocalGroup) -> None:
        net = model(seed=rank)
        with DiLoCo(adamw(net), sync_every=2, group=group, initial="member0") as opt:
            for step in range(5):
                learn(net, opt, step, rank)

    run_members(2, member)
    watching = False
    assert not seen


def test_the_log_is_json_lines_and_a_full_disk_does_not_end_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def member(rank: int, group: LocalGroup) -> None:
        net = model()
        path = tmp_path / "rounds.jsonl" if rank == 0 else Path("/dev/full")
        opt = DiLoCo(adamw(net), sync_every=2, group=group, log=path)
        for step in range(4):
            learn(net, opt, step, rank)

    run_members(2, member)
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert "cannot write /dev/full" in caplog.text


def test_parameters_added_later_are_exchanged_too() -> None:
    def member(rank: int, group: LocalGroup) -> torch.Tensor:
        net, more = model(), torch.nn.Parameter(torch.zeros(5))
        opt = DiLoCo(adamw(net), sync_every=2, codec="none", outer_lr=1.0, outer_momentum=0.0, group=group)
        for step in range(6):
            if step == 3:
                opt.add_param_group({"params": [more], "lr": 0.1})
            opt.zero_grad()
            backward(net, step, rank)
            more.grad = torch.full((5,), 1.0 + rank)
            opt.step()
        return torch.cat([weights(net), more.detach()])

    a, b = run_members(2, member)
    assert torch.equal(a, b)
    assert bool((a[-5:] != 0).all())
