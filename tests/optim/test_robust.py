"""Aggregation among hostile members: what each aggregator is, that its bits depend on nothing but its input, and what an attack costs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.optim.elastic import Hub
from tests.optim.problem import adamw, model
from thinwire import DeMo, DiLoCo
from thinwire.comms import codec
from thinwire.comms.codec import Plan, Values
from thinwire.optim import robust
from thinwire.optim.aggregate import contributors, mean
from thinwire.optim.fragment import Fragment
from thinwire.optim.message import encode
from thinwire.optim.update import combine


def dense(*rows: list[float]) -> list[Values]:
    return [Values(torch.tensor([row], dtype=torch.float32), None) for row in rows]


PLAN: Plan = codec("none").plan(1, 4)


# -- the rules -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), max_size=50), st.integers(0, 3))
def test_a_norm_is_right_and_does_not_depend_on_the_order(values: list[float], seed: int) -> None:
    x = torch.tensor(values)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    assert robust.norm(x) == robust.norm(shuffled)
    expected = float(x.double().square().sum().sqrt())
    assert abs(robust.norm(x) - expected) <= 1e-4 * expected


def test_a_norm_of_many_blocks_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = robust.norm(x)
    monkeypatch.setattr(robust, "BLOCK", 7)
    assert robust.norm(x) == whole


def test_no_payload_counts_for_more_than_the_median_norm() -> None:
    sent = dense([1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 2.0**100])
    assert torch.equal(robust.clipped(PLAN, sent), mean(PLAN, dense([1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 2])))


def test_of_two_or_an_even_number_the_larger_middle_norm_counts() -> None:
    sent = dense([1, 0, 0, 0], [0, 4, 0, 0])
    assert torch.equal(robust.clipped(PLAN, sent), mean(PLAN, sent))


def test_among_four_or_more_what_only_one_has_sent_counts_half() -> None:
    value = torch.ones(1, 1)
    lone = [Values(value * (i + 1), torch.tensor([[i]])) for i in range(4)]
    assert robust.clipped(PLAN, lone[:3]).tolist() == [[1, 2, 2, 0]]
    assert robust.clipped(PLAN, lone).tolist() == [[0.5, 1, 1.5, 1.5]]
    both = [*lone[:3], Values(value, torch.tensor([[2]]))]
    assert robust.clipped(PLAN, both).tolist() == [[0.5, 1, 1.5, 0]]


def test_who_brings_nothing_does_not_lower_the_median() -> None:
    sent = dense([0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0])
    assert torch.equal(robust.clipped(PLAN, sent), mean(PLAN, dense([0, 0, 0, 0], [3, 0, 0, 0])))


def test_a_payload_that_several_members_send_counts_once() -> None:
    sent = dense([1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0])
    assert torch.equal(robust.clipped(PLAN, sent), mean(PLAN, sent[:2]))
    index = torch.tensor([[0]]), torch.tensor([[1]])
    value = torch.tensor([[1.0]])
    apart = [Values(value, index[0]), Values(value, index[1])]
    assert torch.equal(robust.clipped(PLAN, apart), contributors(PLAN, apart)), "the same values in other places are no copy"


@pytest.mark.parametrize("name", ["int8", "blockmax", "topk", "dct-topk", "none"])
def test_of_one_member_clipped_is_the_usual_aggregate(name: str) -> None:
    plan = codec(name).plan(2, codec(name).chunk or 4096)
    x = torch.randn(2, plan.chunk, generator=torch.Generator().manual_seed(0))
    sent = [plan.values(plan.encode(plan.forward(x)))]
    assert torch.equal(robust.clipped(plan, sent), contributors(plan, sent))


@pytest.mark.parametrize("name", ["none", "int8", "int4", "fp16"])
def test_dense_payloads_decoded_by_the_fused_kernels_are_those_of_the_stages(name: str) -> None:
    fragment = Fragment([torch.Size(shape) for shape in ((70, 67), (5,), (), (0, 3))], name)
    sources = [torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in fragment.shapes]
    payloads = [encode(fragment, [source * (i + 1) for source in sources], decay=1.0).payload for i in range(3)]
    plan = fragment.plan
    expected = fragment.flat(plan.inverse(robust.clipped(plan, [plan.values(payload) for payload in payloads])))
    assert torch.equal(combine(fragment, payloads, robust.clipped).flat(sources), expected)


def test_trimmed_and_median_leave_the_extremes_out() -> None:
    sent = dense([1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3], [1e30, -1e30, 5, 4])
    assert robust.trimmed(PLAN, sent).tolist() == [[2.5, 1.5, 2.5, 2.5]]
    assert robust.median(PLAN, sent).tolist() == [[2.5, 1.5, 2.5, 2.5]]
    assert robust.median(PLAN, sent[:3]).tolist() == [[2, 2, 2, 2]]
    assert torch.equal(robust.trimmed(PLAN, sent[:2]), mean(PLAN, sent[:2]))


@pytest.mark.parametrize("name", ["trimmed", "median"])
def test_what_breaks_on_sparse_payloads_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(ValueError, match=r"is sparse.*Choose 'clipped', or a dense codec"):
        DiLoCo(adamw(model()), codec="blockmax", aggregate=name)
    DiLoCo(adamw(model()), codec="int8", aggregate=name)


def test_clipped_is_what_elastic_groups_do_unless_told_otherwise() -> None:
    group = Hub().member(0)
    assert DiLoCo(adamw(model()), group=group)._aggregate is robust.clipped
    assert DeMo(model().parameters(), group=group)._aggregate is robust.clipped
    assert DiLoCo(adamw(model()), group=group, aggregate="mean")._aggregate is mean
    assert DiLoCo(adamw(model()))._aggregate is contributors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["int8", "blockmax", "topk", "none"])
def test_the_same_bits_on_a_gpu(name: str) -> None:
    plan = codec(name).plan(40, codec(name).chunk or 4096)
    x = torch.randn(5, 40, plan.chunk, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 3, 1e9, 0.1]).view(5, 1, 1)
    payloads = [plan.encode(plan.forward(part)) for part in x]
    for aggregate in (robust.clipped, robust.trimmed, robust.median):
        if codec(name).sparse and aggregate is not robust.clipped:
            continue
        ours = aggregate(plan, [plan.values(payload) for payload in payloads])
        theirs = aggregate(plan, [plan.values(payload.cuda()) for payload in payloads])
        assert torch.equal(ours, theirs.cpu())


# -- attacks -------------------------------------------------------------------------------------------------------------------

EVERY, CONTEXT, HOSTILE = 10, 12, {2, 5}


class Attack:
    """What a hostile member sends in place of its payload."""

    def __init__(self, kind: str, opt: DiLoCo, rank: int) -> None:
        self.kind, self.opt = kind, opt
        self.random = torch.Generator().manual_seed(rank)
        self.first: Tensor | None = None

    def __call__(self, payload: Tensor) -> Tensor:
        plan = self.opt._replicas[0].fragment.plan
        if self.first is None:
            self.first = payload.clone()
        if self.kind == "flip x10":
            return plan.encode(plan.decode(payload) * -10.0)
        if self.kind == "huge":
            return plan.encode(torch.randn(plan.rows, plan.chunk, generator=self.random) * 1e6)
        if self.kind == "nan":
            return torch.full_like(payload, 0xFF)
        if self.kind == "replay":
            return self.first
        return payload


def spoil(group: Any, attack: Attack) -> None:
    start = group.start
    group.start = lambda key, payload, **options: start(key, attack(payload), **options)


def text() -> tuple[Tensor, Tensor]:
    """Real text to learn from, and other files to be judged by."""
    files = sorted(Path(json.__file__).parent.parent.glob("*.py"))[:80]
    parts = [b"".join(f.read_bytes() for i, f in enumerate(files) if (i % 8 == 0) == held_out) for held_out in (False, True)]
    learnt, judged = (torch.frombuffer(bytearray(part), dtype=torch.uint8).long().clamp(max=127) for part in parts)
    return learnt, judged


def loss(net: nn.Module, source: Tensor, size: int, random: torch.Generator) -> Tensor:
    starts = torch.randint(len(source) - CONTEXT, (size, 1), generator=random)
    window = source[starts + torch.arange(CONTEXT + 1)]
    return nn.functional.cross_entropy(net(window[:, :-1]), window[:, -1])


def train(kind: str, seed: int, name: str, *, rounds: int = 30, aggregate: str | None = None) -> float:
    """The loss (nats a byte) of the replica of 8 members, 2 of them hostile, on text that none has seen."""
    learnt, judged = text()
    hub, members = Hub(), []
    for rank in range(8):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Embedding(128, 16), nn.Flatten(), nn.Linear(16 * CONTEXT, 96), nn.Tanh(), nn.Linear(96, 128))
        group = hub.member(rank, patience_s=0.0)
        inner = torch.optim.AdamW(net.parameters(), lr=4e-3)
        opt = DiLoCo(inner, sync_every=EVERY, codec=name, group=group, aggregate=aggregate)
        if kind != "clean" and rank in HOSTILE:
            spoil(group, Attack(kind, opt, rank))
        members.append((net, opt, torch.Generator().manual_seed(100 * seed + rank)))
    for _ in range(EVERY * rounds + 1):  # the first step of newcomers only enters
        for net, opt, random in members:
            opt.zero_grad()
            loss(net, learnt, 64, random).backward()
            opt.step()
    assert len({tuple(opt._replicas[0].anchor[:99].tolist()) for _, opt, _ in members if opt.round == rounds}) == 1
    if kind == "nan":
        assert set(members[0][1].stats().last.rejected) == HOSTILE
    net, opt, _ = members[0]
    opt._replicas[0].put_anchor(opt.param_groups[0]["params"])
    with torch.no_grad():
        return float(loss(net, judged, 8192, torch.Generator().manual_seed(7)))


def test_two_hostile_members_of_eight_ruin_a_plain_mean_and_not_this() -> None:
    clean = train("clean", 0, "blockmax", rounds=10)
    assert train("flip x10", 0, "blockmax", rounds=10) <= 1.25 * clean
    assert train("flip x10", 0, "blockmax", rounds=10, aggregate="contributors") > 5 * clean


@cache
def clean_loss(seed: int, name: str) -> float:
    return train("clean", seed, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flip x10", "huge", "nan", "replay"])
@pytest.mark.parametrize("name", ["blockmax", "topk", "int8"])
def test_two_hostile_members_of_eight_cost_at_most_a_quarter_of_the_loss(name: str, kind: str) -> None:
    clean = [clean_loss(seed, name) for seed in range(3)]
    ratios = [train(kind, seed, name) / clean[seed] for seed in range(3)]
    print(f"{name} {kind}: {', '.join(f'{ratio:.3f}' for ratio in ratios)} of {', '.join(f'{loss:.3f}' for loss in clean)} nats")
    assert max(ratios) <= 1.25
