"""A trainer that proposes: groups are known by the level of their version, hopeless levels are left out, and nothing is lost on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from examples.rl.config import Config, ConfigError, load
from examples.rl.curriculum import Curriculum
from examples.rl.proposals import Proposals
from examples.rl.tiny import Characters
from tests.examples.rl.groups import key

CHANGES = {"proposer.lowest": 2, "proposer.highest": 8, "task.max_new_tokens": 9}


def made(**changes: Any) -> Proposals:
    config: Config = load(Path("examples/rl/tiny.toml"), CHANGES | {name.replace("__", "."): value for name, value in changes.items()})
    return Proposals(config, Curriculum(config), Characters(), key(0))


def test_a_group_is_of_the_level_of_its_version_until_that_is_too_old() -> None:
    proposals = made(train__max_staleness=2)
    levels = {version: proposals.propose(version) for version in range(1, 6)}
    for version, level in levels.items():
        environment = proposals.environment(version, "sort" if level == 5 else f"sort-{level}")
        assert (environment is not None) == (version >= 3)
        assert proposals.environment(version, "sort-9") is None
    assert proposals.level(5) == levels[5]


def test_levels_follow_what_is_solved_and_the_mean_is_told() -> None:
    proposals = made()
    skill = {2: 1.0, 3: 0.8, 4: 0.5, 5: 0.1}
    rates = []
    for version in range(1, 60):
        rates.append(skill.get(proposals.propose(version), 0.0))
        for worker in range(4):
            proposals.heard(version, key(worker), rates[-1], 16)
    assert 0.3 <= sum(rates[29:]) / 30 <= 0.7
    proposals.propose(60)
    assert proposals.told(60) == {"level": proposals.level(60), "solve_rate": rates[-1], "left_out": proposals.told(60)["left_out"]}


def test_a_level_that_nobody_solves_is_left_out_until_the_one_below_it_is_half_solved() -> None:
    proposals = made(proposer__highest=3)
    version = 0

    def asked(level: int) -> int:
        nonlocal version
        while True:
            version += 1
            if proposals.propose(version) == level:
                return version

    for worker in (1, 2):
        for _ in range(4):
            proposals.heard(asked(3) if worker == 1 else version, key(worker), 0.0, 16)
    version += 1
    assert proposals.propose(version) == 2
    assert proposals.told(version)["left_out"] == {"3": "unsolvable"}
    proposals.heard(version, key(1), 0.6, 16)
    version += 1
    proposals.propose(version)
    assert proposals.told(version)["left_out"] == {}


def test_one_worker_that_solves_nothing_takes_no_level_away() -> None:
    proposals = made(proposer__highest=3)
    for version in range(1, 60):
        proposals.propose(version)
        proposals.heard(version, key(1), 0.0, 16)
    assert proposals.told(59)["left_out"] == {}


def test_levels_whose_answers_cannot_be_said_are_never_asked() -> None:
    proposals = made(task__max_new_tokens=5)
    assert {proposals.propose(version) for version in range(1, 30)} <= {2, 3, 4}
    assert proposals.told(29)["left_out"] == {str(level): "too long" for level in (5, 6, 7, 8)}
    with pytest.raises(ConfigError, match="none can be asked"):
        made(task__max_new_tokens=2)


def test_what_is_saved_goes_on_alike_and_later_versions_are_known_from_their_file(tmp_path: Path) -> None:
    one = made()
    for version in range(1, 10):
        one.heard(version, key(1), 0.3, 16) if version > 1 else None
        one.propose(version)
    torch.save(one.state_dict(), tmp_path / "state")
    other = made()
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert [other.level(version) for version in range(6, 10)] == [one.level(version) for version in range(6, 10)]
    assert other._bandit.state_dict() == one._bandit.state_dict()
    one.propose(10)
    one.save_levels(tmp_path / "levels")
    other.load_levels(tmp_path / "levels")
    assert other.level(10) == one.level(10)
