"""What a run's tasks are: one environment, or one a level; what cannot be is said in one sentence before anything is trained."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.rl.config import Config, ConfigError, load
from examples.rl.curriculum import LEVEL, Curriculum
from examples.rl.tiny import Characters

HERE = Path("examples/rl")
LEVELS = {"proposer.lowest": 2, "proposer.highest": 4}


def config(**changes: Any) -> Config:
    return load(HERE / "tiny.toml", {name.replace("__", "."): value for name, value in changes.items()})


def test_without_a_proposer_there_is_one_environment_whatever_a_trainer_says() -> None:
    one = Curriculum(config())
    assert one.told({LEVEL: 3}) is None
    assert one.at(None).name == one.measured.name == "sort"
    assert (one.named("sort"), one.named("sort-3")) == (one.measured, None)


def test_a_level_is_the_environment_of_that_size_and_other_levels_are_refused() -> None:
    many = Curriculum(load(HERE / "tiny.toml", LEVELS))
    assert [many.at(many.told({LEVEL: level})).name for level in many.levels] == ["sort-2", "sort-3", "sort-4"]
    assert many.named("sort-3") == many.at(3)
    assert many.named("sort") is None  # five digits are measured, and never asked
    for extra in ({}, {LEVEL: 5}, {LEVEL: 1}, {LEVEL: True}, {LEVEL: "3"}, {LEVEL: 3.0}, {LEVEL: None}):
        with pytest.raises(ValueError, match="this run has 2 to 4"):
            many.told(extra)


def test_demonstrations_are_of_all_levels_in_turn_and_those_of_one_are_as_they_were() -> None:
    many = Curriculum(load(HERE / "tiny.toml", LEVELS)).demonstrations
    sizes = []
    for seed in range(6):
        task = many.task(seed)
        assert many.demonstrate(task, random.Random(0), right=1.0) == task.answer
        assert many.reward(task, task.answer) == 1
        sizes.append(len(task.prompt) - 1)
    assert sizes == [2, 3, 4, 2, 3, 4]
    one = Curriculum(config())
    assert [one.demonstrations.task(seed) for seed in range(5)] == [one.measured.task(seed) for seed in range(5)]


class Silent:
    """Tasks of which nobody can show how they are done."""

    name = "silent"

    def task(self, seed: int) -> Any:
        raise AssertionError("nobody is asked")

    def reward(self, task: Any, completion: str) -> float:
        return 0.0


def test_an_environment_without_demonstrations_is_no_start_for_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["examples.rl.tasks"].ENVIRONMENTS, "silent", lambda size: Silent())
    with pytest.raises(ConfigError, match=r"silent has no demonstrations to warm up on; set warmup.steps = 0"):
        Curriculum(config(task__environment="silent"))
    assert Curriculum(config(task__environment="silent", warmup__steps=0)).measured.name == "silent"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task__environment": "chess"}, "known are addition, code, sort, with a size"),
        ({"task__environment": "sort", "task__settings": {"colour": 1}}, "does not take the settings"),
        ({"task__environment": "sort-99"}, "2 to 18"),
        ({"task__environment": "sort", "proposer__lowest": 2, "proposer__highest": 30}, "2 to 18"),
        ({"task__environment": "code-9", "task__settings": {"allow_plain": True}}, "a level from 1 to 6|no sandbox"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        Curriculum(config(**changes))
    assert "\n" not in str(error.value)


def test_without_the_package_a_task_of_reasoning_gym_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install 'thinwire\[rl\]'"):
        Curriculum(config(task__environment="reasoning:chain_sum", warmup__steps=0))


def test_a_task_of_reasoning_gym_has_a_name_and_settings_of_its_own() -> None:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'thinwire[rl]'")
    settings = {"min_terms": 2, "max_terms": 2}
    one = Curriculum(config(task__environment="reasoning:chain_sum", task__settings=settings, warmup__steps=0))
    task = one.measured.task(7)
    assert one.measured.reward(task, task.answer) == 1
    with pytest.raises(ConfigError, match="makes no 'chess_by_mail'"):
        Curriculum(config(task__environment="reasoning:chess_by_mail", warmup__steps=0))
    with pytest.raises(ConfigError, match="no levels to propose"):
        Curriculum(config(task__environment="reasoning:chain_sum", warmup__steps=0, proposer__lowest=1, proposer__highest=2))


def test_a_policy_that_has_no_tokens_for_the_tasks_is_told_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    Curriculum(config()).check_sayable(Characters(), "tiny")

    class Greek(Silent):
        def task(self, seed: int) -> Any:
            from examples.rl.environment import Task

            return Task(seed, "πόσα;")

    monkeypatch.setitem(sys.modules["examples.rl.tasks"].ENVIRONMENTS, "greek", lambda size: Greek())
    with pytest.raises(ConfigError, match="the policy tiny cannot read the tasks of silent"):
        Curriculum(config(task__environment="greek", warmup__steps=0)).check_sayable(Characters(), "tiny")
