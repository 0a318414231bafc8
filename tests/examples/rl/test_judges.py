"""A liar among three judges decides nothing by the clipped median and everything by the mean; a judge that fails abstains."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.rl.environment import Task
from examples.rl.judges import AdversarialJudge, HttpJudge, Judge, JudgementError, NoisyJudge, Panel, VerifierJudge, ranks
from tests.examples.rl.groups import Echo

TASK = Echo().task(7)
RIGHT, WRONG = TASK.answer, "nonsense"
TRUE = VerifierJudge(Echo())


@dataclass(frozen=True)
class Fixed:
    """Says what it is told to."""

    scores: tuple[float, ...]

    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        return list(self.scores)


class Broken:
    def score(self, task: Task, texts: Sequence[str]) -> list[float]:
        raise JudgementError("out of order")


def test_ranks_run_from_zero_to_one_and_equal_scores_share_theirs() -> None:
    assert ranks([5, 1, 3]).tolist() == [1, 0, 0.5]
    assert ranks([1, 1, 0, 1]).tolist() == pytest.approx([2 / 3, 2 / 3, 0, 2 / 3])
    assert ranks([2, 2]).tolist() == [0.5, 0.5]
    assert ranks([9]).tolist() == [0.5]


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=20))
def test_ranks_do_not_depend_on_the_scale_and_their_mean_is_one_half(scores: list[int]) -> None:
    got = ranks(scores)
    np.testing.assert_array_equal(got, ranks([3.5 * score + 1 for score in scores]))
    assert got.mean() == pytest.approx(0.5)
    assert got.min() >= 0
    assert got.max() <= 1


def test_one_of_three_judges_that_lies_changes_no_reward_by_the_median_and_all_by_the_mean() -> None:
    texts = [RIGHT, WRONG, WRONG, RIGHT]
    honest = Panel([TRUE, NoisyJudge(TRUE, 0.0), TRUE]).rewards(TASK, texts)
    panel = Panel([TRUE, NoisyJudge(TRUE, 0.0), AdversarialJudge(TRUE)])
    assert panel.rewards(TASK, texts) == honest
    assert np.argsort(panel.mean_rewards(TASK, texts), kind="stable").tolist() == [0, 3, 1, 2]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_rewards_are_what_the_honest_agree_on_whatever_two_fifths_of_the_stake_say(lies: list[float], true: list[float]) -> None:
    panel = Panel([Fixed(tuple(true)), Fixed(tuple(true)), Fixed(tuple(lies))], [0.3, 0.3, 0.4])
    np.testing.assert_array_equal(panel.rewards(TASK, ["x"] * 5), ranks(true))


def test_noise_is_the_same_for_the_same_text_and_differs_between_seeds() -> None:
    texts = [RIGHT, WRONG]
    assert NoisyJudge(TRUE, 1.0).score(TASK, texts) == NoisyJudge(TRUE, 1.0).score(TASK, texts)
    assert NoisyJudge(TRUE, 1.0).score(TASK, texts) != NoisyJudge(TRUE, 1.0, seed=1).score(TASK, texts)


@pytest.mark.parametrize("bad", [Broken(), Fixed((1.0,)), Fixed((float("nan"), 1.0)), Fixed((float("inf"), 0.0))])
def test_a_judge_that_fails_abstains_and_is_counted(bad: Judge) -> None:
    panel = Panel([bad, TRUE, TRUE])
    assert panel.rewards(TASK, [WRONG, RIGHT]) == [0, 1]
    assert panel.counts == {0: 1}


def test_a_minority_alone_does_not_judge() -> None:
    panel = Panel([TRUE, Broken(), Broken()])
    with pytest.raises(JudgementError, match="more than half"):
        panel.rewards(TASK, [RIGHT, WRONG])


def test_panels_that_cannot_be_are_refused() -> None:
    for judges, stakes in (([], None), ([TRUE], [0.0]), ([TRUE], [1.0, 1.0])):
        with pytest.raises(ValueError, match="above 0"):
            Panel(judges, stakes)
    with pytest.raises(ValueError, match="kappa"):
        Panel([TRUE], kappa=0)
    with pytest.raises(ValueError, match="no texts"):
        Panel([TRUE]).rewards(TASK, [])


@contextmanager
def model(replies: Sequence[bytes], status: int = 200) -> Iterator[tuple[str, list[tuple[str, str | None, dict[str, object]]]]]:
    """A server that answers in turn; gives its url and what it was asked."""
    asked: list[tuple[str, str | None, dict[str, object]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            reply = replies[(len(asked) - 1) % len(replies)]
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
        finally:
            server.shutdown()
            thread.join()


def says(content: object) -> bytes:
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": content}}], "usage": {}}).encode()


def test_a_model_is_asked_once_for_each_text_and_its_grades_are_the_scores() -> None:
    with model([says(" 7.5\n"), says("2")]) as (url, asked):
        assert HttpJudge(url, "grader", token="secret").score(TASK, [RIGHT, WRONG]) == [7.5, 2]
    path, authorization, body = asked[0]
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", "Bearer secret", "grader")
    assert RIGHT in json.dumps(body["messages"])


@pytest.mark.parametrize(
    "reply",
    [b"", b"[]", b"{}", says(None), says("good"), says("11"), says("-1"), says("1 or 2"), says({}), b"[" * 9999, b'{"choices": []}'],
)
def test_what_is_no_grade_is_a_judgement_error(reply: bytes) -> None:
    with model([reply]) as (url, _), pytest.raises(JudgementError):
        HttpJudge(url, "grader").score(TASK, [RIGHT])


def test_a_model_that_is_away_or_refuses_is_a_judgement_error() -> None:
    with model([says("5")], status=500) as (url, _), pytest.raises(JudgementError, match="500"):
        HttpJudge(url, "grader").score(TASK, [RIGHT])
    with pytest.raises(JudgementError):  # the server is gone
        HttpJudge(url, "grader", timeout_s=1).score(TASK, [RIGHT])
    with pytest.raises(ValueError, match="give one like"):
        HttpJudge("file:///etc/passwd", "grader")
