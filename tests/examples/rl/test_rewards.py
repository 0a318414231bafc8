"""Rewards as the configuration wants them: claims are compared with an environment and never with judges; too few judges are no lie."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from examples.rl.checks import Checks
from examples.rl.config import ConfigError, load
from examples.rl.environment import Task
from examples.rl.generate import rescored, task_of
from examples.rl.judges import JudgementError, Panel, VerifierJudge
from examples.rl.reputation import Reputation
from examples.rl.rewards import BY_ENVIRONMENT, ByJudges, rewards_of, secret
from examples.rl.rollout import RolloutError
from examples.rl.sessions import Sessions
from examples.rl.tasks import Sort
from tests.examples.rl.groups import RUN, Bytes, Echo, honest, key

TRUE = VerifierJudge(Echo())


class Away:
    """A judge that cannot be reached."""

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        raise JudgementError("no answer")


def checks(rewards: ByJudges) -> Checks:
    return Checks(RUN, lambda version, name: Echo(), Bytes(), rewards=rewards)


def test_a_claim_is_not_compared_with_what_judges_say() -> None:
    checked = checks(ByJudges(Panel([TRUE]))).check(replace(honest(), rewards=(0.3, 0.9)), head=3)
    assert (checked.rewards, checked.false_rewards, checked.scores) == ((1.0, 0.0), 0, {0: 0.5})


def test_a_group_that_too_few_judges_have_seen_is_refused_and_its_worker_is_none_the_worse() -> None:
    panel = Panel([TRUE, Away(), Away()])
    with pytest.raises(RolloutError, match="more than half is needed") as refused:
        checks(ByJudges(panel)).check(honest(), head=3)
    assert refused.value.reason == "unjudged"
    assert panel.counts == {1: 1, 2: 1}
    reputation = Reputation()
    before = reputation.score(key(1))
    reputation.refused(key(1), "unjudged")
    assert reputation.score(key(1)) == before


def test_the_file_says_who_judges_and_by_which_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("examples/rl/judges.toml")
    sort = Sort()
    task = sort.task(0)
    texts = [task.answer, "junk\n", "more junk\n", task.answer]
    median = rewards_of(load(path, {"reward.rule": "median"}), sort).of(sort, task, texts).rewards
    mean = rewards_of(load(path, {"reward.rule": "mean"}), sort).of(sort, task, texts).rewards
    assert min(median[0], median[3]) > max(median[1], median[2])
    assert min(mean[0], mean[3]) < max(mean[1], mean[2])  # the loudest has it
    assert rewards_of(load(Path("examples/rl/tiny.toml")), sort) is BY_ENVIRONMENT


def test_a_token_is_read_from_the_variable_that_the_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "word")
    assert (secret("JUDGE_TOKEN"), secret("")) == ("word", "")
    monkeypatch.delenv("JUDGE_TOKEN")
    judge = {"kind": "http", "url": "http://127.0.0.1:1/v1", "model": "m", "token_env": "JUDGE_TOKEN"}
    config = load(Path("examples/rl/tiny.toml"), {"reward.by": "judges", "reward.judges": [judge]})
    with pytest.raises(ConfigError, match="JUDGE_TOKEN is not set"):
        rewards_of(config, Sort())


def test_a_group_is_scored_again_by_whoever_decides() -> None:
    lying = replace(honest(), rewards=(0.0, 1.0))
    task = task_of(lying, Echo())
    assert rescored(lying, Echo(), task).rewards == (1.0, 0.0)
    assert rescored(lying, Echo(), task, ByJudges(Panel([TRUE]))).rewards == (1.0, 0.0)
    with pytest.raises(RolloutError, match="unjudged"):
        rescored(lying, Echo(), task, ByJudges(Panel([Away()])))


def test_workers_are_rated_by_most_judges_whoever_shouts() -> None:
    sessions = Sessions(Panel([TRUE, TRUE, TRUE]))
    for _ in range(30):
        for _ in range(2):
            sessions.add(key(1), {0: 0.9, 1: 0.8, 2: -900.0})  # the third wants the opposite
            sessions.add(key(2), {0: 0.3, 1: 0.4, 2: -300.0})
        sessions.play()
    table = sessions.ratings
    assert table.rating(key(1)) > 1100 > 900 > table.rating(key(2))
    assert list(sessions.told()) == [key(1).hex()[:8], key(2).hex()[:8]]
    fresh = Sessions(Panel([TRUE]))
    fresh.load_state_dict(sessions.state_dict())
    assert fresh.ratings.table() == table.table()


def test_a_session_of_one_goes_on_and_one_that_most_judges_have_missed_is_none() -> None:
    sessions = Sessions(Panel([TRUE, TRUE, TRUE]))
    sessions.add(key(1), {0: 1.0, 1: 1.0})
    sessions.play()
    assert sessions.told() == {}
    sessions.add(key(2), {0: 0.0, 2: 1.0})  # only the first judge has seen both
    sessions.play()
    assert sessions.told() == {}
    sessions.add(key(1), {0: 1.0, 1: 1.0})
    sessions.add(key(2), {0: 0.0, 1: 0.5})
    sessions.play()
    assert sessions.ratings.rating(key(1)) == 1016.0
