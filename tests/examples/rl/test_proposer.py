"""Solvers of any skill are soon asked what they solve half of the time; who asks the impossible is not asked again."""

import math
import random
from collections.abc import Callable
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.environment import Task
from examples.rl.proposer import DifficultyBandit, Evaluator, Proposal, ProposalError, usefulness
from tests.examples.rl.groups import Echo, key

LEVELS = range(1, 21)
ANSWERS = 16


def solve_rate(skill: float, level: int, rng: random.Random, slope: float = 1.0) -> float:
    """Of 16 answers; half of them are right where the level is the skill."""
    chance = 1 / (1 + math.exp(slope * (level - skill)))
    return sum(rng.random() < chance for _ in range(ANSWERS)) / ANSWERS


def fixed(skill: float) -> Callable[[int], float]:
    return lambda round: skill


SOLVERS: dict[str, Callable[[int], float]] = {
    "a beginner": fixed(2.5),
    "one in the middle": fixed(10.2),
    "a master": fixed(18.7),
    "one that learns": lambda round: 3 + 0.25 * round,
    "one that learns fast, then no more": lambda round: min(15.0, 4 + round),
    "one that forgets": lambda round: 15 - 0.25 * round,
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_within_thirty_rounds_about_half_of_the_answers_are_right(solver: str, slope: float) -> None:
    for seed in range(10):
        bandit, rng = DifficultyBandit(LEVELS, seed=seed), random.Random(seed)
        rates = []
        for round in range(40):
            level = bandit.propose()
            rates.append(solve_rate(SOLVERS[solver](round), level, rng, slope))
            bandit.learn(level, rates[-1])
        assert 0.3 <= mean(rates[20:30]) <= 0.7
        assert 0.3 <= mean(rates[30:]) <= 0.7


def test_levels_taken_at_random_do_not_do_that() -> None:
    rng = random.Random(0)
    assert mean(solve_rate(2.5, rng.choice(LEVELS), rng) for _ in range(1000)) < 0.2


def test_a_mixed_swarm_is_brought_to_one_half_together() -> None:
    bandit, rng = DifficultyBandit(LEVELS), random.Random(1)
    rates = []
    for round in range(30):
        level = bandit.propose()
        rates.append(mean(solve_rate(solver(round), level, rng) for solver in SOLVERS.values()))
        bandit.learn(level, rates[-1])
    assert 0.3 <= mean(rates[10:]) <= 0.7


def test_the_same_seed_proposes_the_same() -> None:
    one, other = DifficultyBandit(LEVELS, seed=3), DifficultyBandit(LEVELS, seed=3)
    assert [one.propose() for _ in range(20)] == [other.propose() for _ in range(20)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LEVELS), st.floats(0, 1)), max_size=100))
def test_what_is_kept_stays_bounded_and_what_is_proposed_is_on_offer(rounds: list[tuple[int, float]]) -> None:
    bandit = DifficultyBandit(LEVELS)
    for level, rate in rounds:
        bandit.learn(level, rate)
    assert bandit.propose() in LEVELS
    assert max(bandit._right.values()) <= 16 / (1 - 0.7) + 1e-9


def test_half_is_most_useful() -> None:
    assert [usefulness(rate) for rate in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]


class Riddle(Echo):
    """Takes the answer and nothing else, and the prompt says nothing of it."""

    name = "riddle"

    def task(self, seed: int) -> Task:
        return Task(seed, "what have I in my pocket?", answer=str(seed))


def proposal(proposer: bytes, environment: Echo, **changed: str) -> Proposal:
    tasks = tuple(environment.task(seed) for seed in range(4))
    if changed:
        tasks = tuple(Task(task.seed, task.prompt, **changed) for task in tasks)  # type: ignore[arg-type]
    return Proposal(proposer, environment.name, 1, tasks)


def refusal(evaluator: Evaluator, made: Proposal) -> str:
    with pytest.raises(ProposalError) as caught:
        evaluator.admit(made)
    return caught.value.reason


@pytest.fixture
def evaluator() -> Evaluator:
    return Evaluator({"echo": Echo(), "riddle": Riddle()})


def test_an_answer_that_its_environment_does_not_take_is_refused_before_anybody_works(evaluator: Evaluator) -> None:
    class Odd(Echo):
        def reward(self, task: Task, completion: str) -> float:
            return 0.0

    assert refusal(Evaluator({"echo": Odd()}), proposal(key(0), Echo())) == "unverifiable"
    assert evaluator.admit(proposal(key(0), Echo()))


def test_a_proposer_whose_tasks_nobody_solves_is_refused_and_an_honest_one_is_not(evaluator: Evaluator) -> None:
    liar, honest = proposal(key(0), Riddle()), proposal(key(1), Echo())
    for solver in range(4):
        evaluator.admit(liar)
        evaluator.learn(liar, key(solver), 0.0, 16)
        evaluator.learn(honest, key(solver), 0.4, 16)
    assert evaluator.refused(key(0))
    assert refusal(evaluator, liar) == "unsolvable"
    assert refusal(evaluator, proposal(key(0), Echo())) == "unsolvable"
    assert evaluator.admit(honest) == honest.tasks
    assert evaluator.counts == {"unsolvable": 2}
    evaluator.forgive(key(0))
    evaluator.admit(liar)


def test_one_solver_that_solves_nothing_convicts_nobody(evaluator: Evaluator) -> None:
    honest = proposal(key(1), Echo())
    for _ in range(100):
        evaluator.learn(honest, key(9), 0.0, 16)
    evaluator.learn(honest, key(2), 1.0, 100)
    evaluator.learn(honest, key(3), 0.5, 16)
    assert not evaluator.refused(key(1))


def test_a_flood_of_proposers_frees_no_liar() -> None:
    evaluator = Evaluator({"riddle": Riddle()}, proposers=10)
    for solver in range(4):
        evaluator.learn(proposal(key(0), Riddle()), key(solver), 0.0, 16)
    for i in range(1, 100):
        evaluator.learn(proposal(key(i), Riddle()), key(0), 0.5, 16)
    assert evaluator.refused(key(0))
    assert len(evaluator._records) == 10


def test_proposals_of_the_wrong_size_or_of_an_unknown_environment_are_refused(evaluator: Evaluator) -> None:
    made = proposal(key(0), Echo())
    assert refusal(evaluator, Proposal(key(0), "echo", 1, ())) == "size"
    assert refusal(evaluator, Proposal(key(0), "echo", 1, made.tasks * 17)) == "size"
    assert refusal(evaluator, Proposal(key(0), "chess", 1, made.tasks)) == "environment"


def test_numbers_that_cannot_be_are_refused(evaluator: Evaluator) -> None:
    with pytest.raises(ValueError, match="discount"):
        DifficultyBandit(LEVELS, discount=1)
    with pytest.raises(ValueError, match="0 levels"):
        DifficultyBandit([])
    with pytest.raises(ValueError, match="level 99"):
        DifficultyBandit(LEVELS).learn(99, 0.5)
    with pytest.raises(ValueError, match="solve rate nan"):
        evaluator.learn(proposal(key(0), Echo()), key(1), float("nan"), 4)
