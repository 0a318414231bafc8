"""Datasets of reasoning-gym are environments: made again from the seed, right answers worth 1, and no completion makes a scorer raise."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.environment import Task
from examples.rl.reasoning import MAX_ANSWER_CHARACTERS, ReasoningGym, answer_in

SOME = ["chain_sum", "basic_arithmetic", "number_sorting", "spell_backward", "countdown", "gcd", "simple_equations", "maze"]


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"pip install 'thinwire\[rl\]'"):
        ReasoningGym("chain_sum")


def test_the_last_tagged_answer_counts_or_else_all_of_it() -> None:
    assert answer_in(" 7 \n") == "7"
    assert answer_in("<answer>1</answer> no, <answer>2</answer>.") == "2"
    assert answer_in("an <answer> that never ends") == "an <answer> that never ends"


@pytest.fixture
def _package() -> None:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'thinwire[rl]'")


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize("dataset", SOME)
def test_a_seed_makes_the_same_task_again_and_its_answer_is_right(dataset: str) -> None:
    one, other = ReasoningGym(dataset), ReasoningGym(dataset)
    prompts = set()
    for seed in (0, 7, (1 << 64) - 1):
        task = one.task(seed)
        assert other.task(seed) == task
        assert task.seed == seed
        assert one.reward(task, task.answer) == 1
        assert one.reward(task, f"I think <answer>{task.answer}</answer>") == 1
        assert one.reward(task, "certainly not") < 0.5
        prompts.add(task.prompt)
    assert len(prompts) == 3


@pytest.mark.usefixtures("_package")
def test_settings_are_those_of_the_dataset_and_the_version_is_in_the_name() -> None:
    environment = ReasoningGym("chain_sum", min_terms=9, max_terms=9)
    assert environment.task(1).prompt.count(" + ") + environment.task(1).prompt.count(" - ") == 8
    assert environment.name.startswith("chain_sum@0.")


@pytest.mark.usefixtures("_package")
def test_what_the_package_does_not_know_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no 'chess_by_mail'"):
        ReasoningGym("chess_by_mail")
    with pytest.raises(ValueError, match="min_terms"):
        ReasoningGym("chain_sum", min_terms=-1)


@pytest.mark.usefixtures("_package")
@settings(deadline=None, max_examples=30)
@given(st.text(max_size=50) | st.sampled_from(["", "nan", "inf", "1e999", "[" * 5000, "9" * 5000, "\0", "x" * (MAX_ANSWER_CHARACTERS + 1)]))
def test_no_completion_makes_a_scorer_raise(completion: str) -> None:
    for dataset in ("chain_sum", "countdown", "simple_equations", "number_sorting"):
        environment = ReasoningGym(dataset)
        assert 0 <= environment.reward(environment.task(1), completion) <= 1


@pytest.mark.usefixtures("_package")
def test_a_task_that_came_without_its_entry_is_worth_next_to_nothing_and_raises_nothing() -> None:
    assert ReasoningGym("countdown").reward(Task(0, "?"), "1") <= 0.01
