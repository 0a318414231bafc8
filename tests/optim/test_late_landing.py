"""Rounds whose decision comes late: whatever the order, members hold the same bits after each round, and no work is lost or repeated."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optim.elastic import ElasticGroup, Hub
from tests.optim.overlapped import CODECS, anchor
from tests.optim.problem import learn, model, weights
from thinwire import DiLoCo, RoundInfo
from thinwire.comms.group import Exchange
from thinwire.optim.agree import tensor_hash

EVERY = 2


class Watched(torch.optim.SGD):
    """Adds up what its steps change."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__(net.parameters(), lr=0.05, momentum=0.5)
        self.net, self.learnt = net, torch.zeros_like(weights(net), dtype=torch.float64)

    def step(self, closure: Any = None) -> Any:
        before = weights(self.net)
        loss = super().step(closure)
        self.learnt += before.double() - weights(self.net)
        return loss


class One:
    """A member, what it learnt, and what the others have of it."""

    def __init__(self, hub: Hub, rank: int, codec: str, **options: Any) -> None:
        self.rank, self.steps, self.seen = rank, 0, {}
        self.delivered: set[int] = set()  # rounds that it has no outcome of, but knows that they have counted its payload
        self.net = model()
        self.inner = Watched(self.net)
        self.group: ElasticGroup = hub.member(rank, patience_s=0.0)
        self.hub = hub
        self.opt = DiLoCo(self.inner, **{"sync_every": EVERY, "decay": 1.0, **options}, codec=codec, group=self.group, on_round=self._told)

    def _told(self, info: RoundInfo) -> None:
        replica = self.opt._replicas[0]
        if info.error is None or "no payload counts" in info.error:
            assert info.round not in self.seen
            momentum = 0 if replica.momentum is None else tensor_hash(replica.momentum)
            self.seen[info.round] = tensor_hash(replica.anchor), momentum
        elif info.round in self.group.delivered:
            self.delivered.add(info.round)

    def step(self) -> None:
        learn(self.net, self.opt, self.steps, self.rank)
        self.steps += 1

    def value(self, payload: Tensor) -> Tensor:
        fragment = self.opt._replicas[0].fragment
        return fragment.flat(fragment.plan.inverse(fragment.plan.decode(payload))).double()

    def held(self, residual: Tensor | None) -> Tensor:
        fragment = self.opt._replicas[0].fragment
        return torch.zeros(()).double() if residual is None else fragment.flat(fragment.plan.inverse(residual)).double()

    def sent(self) -> Tensor:
        """What the rounds that this member has heard of have counted."""
        heard = self.seen.keys() | self.delivered
        counted = [e for r, e in self.hub.decided.items() if r in heard and self.rank in e.members]
        return sum((self.value(e.payloads[e.members.index(self.rank)]) for e in counted), torch.zeros(()).double())

    def owed(self) -> Tensor:
        """Residual and window."""
        replica = self.opt._replicas[0]
        base = replica.anchor if replica.base is None else replica.base
        return self.held(replica.residual) + (base - weights(self.net)).double()

    def check(self) -> None:
        if not self.opt._replicas:
            return
        torch.testing.assert_close(self.sent() + self.owed(), self.inner.learnt, atol=2e-5, rtol=1e-4)
        replica = self.opt._replicas[0]
        if self.opt._flight is not None and not self.opt._pending.done() and replica.aloft is not None:
            self.check_a_checkpoint(replica.aloft.payload)

    def check_a_checkpoint(self, payload: Tensor) -> None:
        """What is aloft is nowhere in it: it may count."""
        state = self.opt.state_dict()
        assert self.opt._flight is not None
        numbers, replica = state["param_groups"][0], self.opt._replicas[0]
        assert (numbers["thinwire.behind"], numbers["thinwire.window"]) == (1, self.opt._clock.steps - self.opt._launched)
        base = torch.cat([saved["thinwire.base"].reshape(-1) for saved in state["state"].values()])
        assert replica.aloft is not None
        left = self.held(replica.aloft.kept) + (base - weights(self.net)).double()
        torch.testing.assert_close(self.sent() + self.value(payload) + left, self.inner.learnt, atol=2e-5, rtol=1e-4)


MEMBERS = st.integers(0, 2)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), MEMBERS),
        st.tuples(st.just("step"), MEMBERS),
        st.tuples(st.just("step"), MEMBERS),
        st.tuples(st.just("decide"), st.sets(MEMBERS, max_size=1)),
        st.tuples(st.just("deaf"), MEMBERS),
        st.tuples(st.just("hear"), MEMBERS),
        st.tuples(st.just("exclude"), MEMBERS),
    ),
    max_size=40,
)


# It comes back to a state from before the round that counted what it had brought, and follows that round with new work at hand.
COUNTED_THEN_EXCLUDED: list[tuple[str, Any]] = [
    ("deaf", 1),
    *[("step", 1)] * 3,
    ("decide", set()),
    ("exclude", 1),
    *[("step", 1)] * 2,
]


def play(codec: str, actions: Sequence[tuple[str, Any]], **options: Any) -> list[One]:
    hub = Hub()
    hub.manual = True
    members = [One(hub, rank, codec, **options) for rank in range(3)]
    members[0].step()  # founds the run
    for name, what in actions:
        if name == "step":
            members[what].step()
        elif name == "decide":
            if hub.brought.keys() - what:
                hub.decide(without=what)
        elif name == "deaf":
            hub.deaf.add(what)
        elif name == "hear":
            hub.let_hear(what)
        elif name == "exclude" and what and what in hub.view:  # member 0 keeps the state for those that come back
            members[what].group.exclude()
        for member in members:
            member.check()
    for member in members:
        hub.let_hear(member.rank)
    for _ in range(3 * EVERY):
        for member in members:
            member.step()
            member.check()
        if len(hub.brought) == 3:
            hub.decide()
    for member in members:
        member.step()
    return members


def assert_same_bits(members: Sequence[One]) -> None:
    for round_ in set.union(*(set(member.seen) for member in members)):
        assert len({member.seen[round_] for member in members if round_ in member.seen}) == 1


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
@example(actions=COUNTED_THEN_EXCLUDED)
def test_bits_and_mass_whatever_the_order(codec: str, actions: list[tuple[str, Any]]) -> None:
    members = play(codec, actions)
    assert_same_bits(members)
    assert len({tuple(anchor(m.opt).tolist()) for m in members if m.opt.round == members[0].opt.round}) == 1


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
@example(actions=COUNTED_THEN_EXCLUDED)
def test_bits_and_mass_where_exchanges_overlap(actions: list[tuple[str, Any]]) -> None:
    assert_same_bits(play("blockmax", actions, overlap=1))


def join(hub: Hub, rank: int, codec: str = "blockmax") -> One:
    """A member that takes the state of the others: its first step is no more than that."""
    one = One(hub, rank, codec)
    one.step()
    assert one.opt._clock.window == 0
    return one


def lone(codec: str = "blockmax") -> tuple[Hub, One]:
    hub = Hub()
    hub.manual = True
    return hub, One(hub, 0, codec)


def two_before_their_round() -> tuple[Hub, One, One]:
    """A founder and a newcomer at the end of a window; whose next step brings a round."""
    hub, one = lone()
    one.step()
    other = join(hub, 1)
    other.step()
    for _ in range(EVERY - 1):
        one.step()
        other.step()
    return hub, one, other


@pytest.mark.parametrize("codec", CODECS)
def test_training_goes_on_from_its_own_weights_and_a_late_round_lands_below_what_was_learnt(codec: str) -> None:
    hub, one = lone(codec)
    for _ in range(EVERY):
        one.step()
    base, old = weights(one.net), anchor(one.opt)
    for _ in range(3):
        one.step()
        assert one.opt.round == 0
    assert torch.equal(anchor(one.opt), old)
    assert len(hub.brought) == 1, "nothing else is begun while a round is in the air"
    local = weights(one.net)
    hub.decide()
    one.opt._land()
    assert one.opt.round == 1
    assert torch.equal(weights(one.net), anchor(one.opt) - (base - local))
    assert one.opt._clock.window == 3


def test_a_step_waits_as_long_as_the_group_says_but_once() -> None:
    hub, one = lone()
    waited: list[float] = []

    def start(*args: Any, **options: Any) -> Any:
        pending = ElasticGroup.start(one.group, *args, **options)
        ready = pending.ready
        pending.ready = lambda timeout_s: waited.append(timeout_s) or ready(0.0)  # type: ignore[method-assign,func-returns-value]
        return pending

    one.group.start = start  # type: ignore[method-assign]
    one.group.patience = 7.0
    for _ in range(EVERY + 2):
        one.step()
    assert waited == [7.0, 0.0, 0.0, 0.0]
    hub.decide()
    one.step()
    assert one.opt.round == 1


def test_a_straggler_keeps_its_work_and_follows_every_round_that_it_missed() -> None:
    hub = Hub()
    fast = One(hub, 0, "blockmax")
    fast.step()
    slow = join(hub, 1)
    slow.step()
    hub.slow = {1}
    for _ in range(9):
        fast.step()
    assert (fast.opt.round, slow.opt.round) == (5, 0)
    slow.step()  # its window is full: it follows, then brings all of it to the next round
    assert slow.opt.round == 5
    assert torch.equal(anchor(fast.opt), anchor(slow.opt))
    slow.check()
    assert hub.brought[1].note.steps == 2
    exchange = hub.decide()
    assert exchange.members == (1,)
    slow.step()
    assert slow.seen == {r: fast.seen[r] for r in range(5)} | {5: slow.seen[5]}


def test_a_late_round_that_did_not_count_leaves_all_its_work_in_the_window() -> None:
    hub, one, _other = two_before_their_round()
    one.step()
    old, local = anchor(one.opt), weights(one.net)
    exchange: Exchange = hub.decide(without=[0])
    assert exchange.members == (1,)
    one.opt._land()
    assert torch.equal(weights(one.net), anchor(one.opt) - (old - local))
    one.check()


@pytest.mark.parametrize("counted", [False, True])
def test_who_is_excluded_while_its_round_is_in_the_air_sends_nothing_twice(counted: bool) -> None:
    hub, one, other = two_before_their_round()
    other.step()
    hub.deaf = {1}
    exchange = hub.decide(without=[] if counted else [1])
    assert (1 in exchange.members) == counted
    one.step()
    sent = other.value(exchange.payloads[-1]) if counted else 0.0
    other.group.exclude()
    other.opt._begin()
    other.opt._land()
    other.step()
    assert other.group.rejoined == 1
    assert other.opt.round == 1
    torch.testing.assert_close(sent + other.owed(), other.inner.learnt, atol=2e-5, rtol=1e-4)


def test_a_checkpoint_made_while_a_round_is_in_the_air_goes_on_without_what_it_carries() -> None:
    hub, one = lone()
    one.step()
    other = join(hub, 1)
    for _ in range(EVERY + 1):
        other.step()
    state = copy.deepcopy((other.net.state_dict(), other.opt.state_dict()))
    replica = other.opt._replicas[0]
    assert replica.aloft is not None
    kept, meanwhile = replica.aloft.kept.clone(), replica.mark - weights(other.net)
    hub.view.pop(1)  # it is gone, and its payload is not

    again = One(hub, 2, "blockmax")
    again.net.load_state_dict(state[0])
    again.opt.load_state_dict(state[1])
    assert again.opt._begin()
    assert torch.equal(weights(again.net), anchor(again.opt) - meanwhile)
    assert torch.equal(again.opt._replicas[0].residual, kept)
    assert again.opt._clock.window == 1
    one.step()
    assert hub.decide().members == (0, 1)


def test_close_waits_longer_than_a_step_and_gives_up() -> None:
    hub, one = lone()
    for _ in range(EVERY):
        one.step()
    one.opt.close(timeout_s=0.01)
    assert one.opt.round == 0
    assert one.group.error is not None

    hub, one = lone()
    for _ in range(EVERY):
        one.step()
    ready = one.group.aloft[0].ready

    def late(timeout_s: float) -> bool:
        if hub.next == 0:
            assert timeout_s > 5
            hub.decide()
        return ready(timeout_s)

    one.group.aloft[0].ready = late  # type: ignore[method-assign]
    one.opt.close(timeout_s=10)
    assert one.opt.round == 1
