from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl import tasks
from examples.rl.tasks import Addition, Sort, environment

SEEDS = st.integers(0, 2**64 - 1)
ENVIRONMENTS = [Sort(), Sort(3), Sort(18), Addition(), Addition(1), Addition(9)]


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=lambda env: env.name)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, junk=st.text(max_size=12))
def test_the_answer_is_right_and_nothing_else_is(env: tasks.Demonstrator, seed: int, junk: str) -> None:
    task = env.task(seed)
    assert env.task(seed) == task
    assert env.reward(task, task.answer) == 1.0
    assert env.reward(task, junk) == float(junk == task.answer)
    assert env.reward(task, task.answer.rstrip("\n")) == 0.0  # it has not ended


def test_answers_are_those_of_the_examples() -> None:
    assert Sort().reward(tasks.Task(0, "52910=", "01259\n"), "01259\n") == 1.0
    for seed in range(200):
        task = Addition().task(seed)
        first, second = task.prompt[:-1].split("+")
        assert int(first) + int(second) == int(task.answer)
        assert len(task.prompt) == 6
        task = Sort().task(seed)
        assert sorted(task.prompt[:-1]) == list(task.answer[:-1])
        assert len(task.prompt) == 6


def test_tasks_are_the_same_on_every_machine_for_ever() -> None:
    assert [Sort().task(seed).prompt for seed in (0, 1, 2**64 - 1)] == PROMPTS
    assert Addition().task(0).prompt == ADDITION


@pytest.mark.parametrize("env", [Sort(), Addition()], ids=lambda env: env.name)
@pytest.mark.parametrize("right", [0.0, 0.3, 1.0])
def test_demonstrations_are_right_as_often_as_asked(env: tasks.Demonstrator, right: float) -> None:
    random = Random(1)
    rewards = []
    for seed in range(2000):
        task = env.task(seed)
        shown = env.demonstrate(task, random, right=right)
        assert shown.endswith("\n")
        assert set(shown[:-1]) <= set("0123456789")
        rewards.append(env.reward(task, shown))
    assert abs(sum(rewards) / 2000 - right) < 0.04 + 0.02 * (env.name == "sort")  # a shuffle is right by chance now and then


def test_wrong_sums_are_every_other_sum_alike_often() -> None:
    env, random = Addition(1), Random(0)
    task = env.task(0)
    shown = Counter(env.demonstrate(task, random, right=0.0) for _ in range(4000))
    assert set(shown) == {f"{i}\n" for i in range(19)} - {task.answer}
    assert min(shown.values()) > 150


def test_environments_are_found_by_name_and_unknown_names_say_what_there_is() -> None:
    assert [environment(env.name) for env in ENVIRONMENTS] == ENVIRONMENTS
    for name in ("chess", "sort-", "sort-x", "sort--1", "", "sort-1", "addition-10"):
        with pytest.raises(ValueError, match=r"known are addition, sort|digits; choose"):
            environment(name)
    with pytest.raises(ValueError, match="'sort' already"):
        tasks.register("sort", lambda size: Sort())


PROMPTS = ["18390=", "30089=", "17883="]
ADDITION = "37+84="
