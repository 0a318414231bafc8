"""What is posted becomes a group with these tokens, scores and log-probs, or is refused before anything of it is kept."""

from typing import Any

import numpy as np
import pytest

from examples.rl.buffer import Capacity, ReplayBuffer
from examples.rl.generate import adopted, likely
from examples.rl.posted import POSTED, Posted
from examples.rl.scored import ScoredData, ScoredError, ScoredGroup, convert
from examples.rl.tiny import Characters, Tiny

PROMPT = Characters().encode("21=")


def scored(answers: tuple[str, ...] = ("12\n", "21\n"), **changed: Any) -> ScoredGroup:
    ids = [Characters().encode(answer) for answer in answers]
    data: dict[str, Any] = {
        "tokens": [PROMPT + each for each in ids],
        "masks": [[-100] * len(PROMPT) + each for each in ids],
        "scores": [1.5, -2.0],
    }
    return convert(ScoredData(**(data | changed)))


def held(buffer: ReplayBuffer) -> Any:
    [group] = buffer.held_of(POSTED)
    return group


def test_tokens_scores_and_log_probs_are_those_that_were_posted() -> None:
    buffer = ReplayBuffer()
    buffer.advance(7)
    sink = Posted(buffer, Characters(), "run")
    posted = scored(inference_logprobs=[[0.5, 0, 0, -0.25, -0.5, -1.0], [0, 0, 0, -2.0, -3.0, -4.0]], env_id=3)
    sink.check(posted)
    sink.put(posted)
    group = held(buffer)
    assert (group.version, group.environment, group.prompt, group.rewards) == (7, "atropos-3", "21=", (1.5, -2.0))
    assert group.prompt_tokens.tolist() == PROMPT
    assert [one.text for one in group.completions] == ["12\n", "21\n"]
    assert all(one.finished for one in group.completions)
    assert [one.behaviour.tolist() for one in group.completions] == [[-0.25, -0.5, -1.0], [-2.0, -3.0, -4.0]]
    assert sink.sizes() == [(3, 2)]
    tiny = Tiny()
    assert adopted(group, tiny) is group


def test_without_log_probs_the_policy_says_its_own_when_it_is_trained_on() -> None:
    buffer, tiny = ReplayBuffer(), Tiny()
    sink = Posted(buffer, tiny.tokenizer, "run")
    sink.put(scored())
    group = adopted(held(buffer), tiny)
    assert group == likely(held(buffer), tiny)
    own = tiny.logprobs([PROMPT] * 2, [one.tokens.tolist() for one in group.completions]).logprobs
    np.testing.assert_allclose([one.behaviour for one in group.completions], own.detach().numpy(), atol=2e-3)
    assert sink.sizes() == [(None, 2)]


def test_what_follows_the_answer_is_left_out() -> None:
    buffer = ReplayBuffer()
    tokens = [[*PROMPT, 20, 21, 5, 6], [*PROMPT, 22, 23, 5, 6]]
    masks = [[-100] * 3 + row[3:5] + [-100, -100] for row in tokens]
    Posted(buffer, Characters(), "run").put(scored(tokens=tokens, masks=masks))
    assert [one.tokens.tolist() for one in held(buffer).completions] == [[20, 21], [22, 23]]
    assert not any(one.finished for one in held(buffer).completions)


LIES = {
    "advantages of its own": ({"advantages": [[0.0] * 6] * 2}, "leave them out"),
    "nothing to train on": ({"masks": [[-100] * 6] * 2}, "nothing to train on"),
    "no prompt": ({"masks": [[1] * 6] * 2}, "no prompt"),
    "two answers in one": ({"masks": [[-100, 1, -100, 1, 1, 1]] * 2}, "both sides"),
    "other prompts": ({"tokens": [[1, 2, 3, 4, 5, 6], [1, 2, 4, 4, 5, 6]]}, "same prompt"),
    "prompts of two lengths": ({"masks": [[-100] * 3 + [1] * 3, [-100] * 2 + [1] * 4]}, "same prompt"),
    "a token that is none": ({"tokens": [[1, 2, 3, 4, 5, 500]] * 2}, "not below 96"),
    "a log-prob of nothing": ({"inference_logprobs": [[0.0, 0, 0, -50, -1, -1]] * 2}, "surprise"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_trained_on_is_refused(lie: str) -> None:
    changed, said = LIES[lie]
    with pytest.raises(ScoredError, match=said):
        Posted(ReplayBuffer(), Characters(), "run").check(scored(**changed))


def test_room_is_what_the_buffer_has_and_the_same_twice_is_counted_once() -> None:
    buffer = ReplayBuffer(Capacity(groups=8, of_worker=3))
    sink = Posted(buffer, Characters(), "run")
    assert sink.room() == 3
    sink.put(scored())
    sink.put(scored())
    assert sink.room() == 2
    assert buffer.stats().dropped == {"duplicate": 1}
