"""Small cases, searched to their ends; and machines with a rule broken, which the search must catch."""

from collections.abc import Callable
from typing import Any

import pytest

from thinwire.comms.swarm import ballots
from thinwire.comms.swarm.explore import Case, explore
from thinwire.comms.swarm.view import View

SMALL = {
    "two members": Case(members=2, fair=1),
    "three members": Case(members=3, fair=20),
    "two members, links that end on one side, two more ballots": Case(members=2, ballots=2, downs=1, fair=50),
    "two members, two slots, a crash, another ballot": Case(members=2, slots=2, ballots=1, crashes=1, fair=50),
    "two members, a crash, another ballot, bereavement": Case(members=2, ballots=1, crashes=1, epochs=True, fair=50),
    "a newcomer": Case(members=2, joins=1, fair=50),
}
LARGE = {
    "two members, two slots, one leaves": Case(members=2, slots=2, ballots=1, leaves=1, fair=100),
    "two members, two slots, a crash and a restart": Case(members=2, slots=2, ballots=1, crashes=1, restarts=1, fair=100),
    "two members, two slots, a newcomer": Case(members=2, slots=2, joins=1, fair=100),
    "three members, another ballot, votes arrive at once": Case(members=3, ballots=1, prompt=True, fair=200),
    "three members, a crash, another ballot, votes arrive at once": Case(members=3, ballots=1, crashes=1, prompt=True, fair=1000),
    "three members, a link ends on one side, votes arrive at once": Case(members=3, ballots=1, downs=1, prompt=True, fair=5000),
    "messages delivered twice": Case(members=2, ballots=1, downs=1, again=2, fair=100),
}


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_small_case(case: Case) -> None:
    found = explore(case)
    assert not found.broken, found
    assert found.whole
    assert found.decisions >= case.slots


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_large_case(case: Case) -> None:
    test_small_case(case)


def always(value: Any) -> Callable[..., Any]:
    return lambda *_: value


BROKEN: dict[str, tuple[Any, str, Callable[..., Any], Case]] = {
    "promises tell of no accepted value": (ballots.Ballots, "forced", always(None), Case(members=3, ballots=1, downs=1)),
    "any half is a quorum": (View, "quorum", lambda view, some: 2 * len(some) >= len(view.members), Case(members=2, downs=2)),
    "a leader asks for no promises": (
        ballots.Ballots, "may_propose", lambda self: self.leader() == self._me and not self.proposed, Case(members=3, ballots=1, downs=1),
    ),
    "an amnesiac votes in its old name": (
        View, "has", lambda view, key, nonce: view.index(key) is not None, Case(members=2, ballots=1, crashes=1, restarts=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "rule", "case"), BROKEN.values(), ids=BROKEN)
def test_broken_rule_is_caught(owner: Any, name: str, rule: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, rule)
    assert explore(case).broken
