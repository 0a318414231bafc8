"""What an honest worker sends passes; each lie is refused with its own word, and nothing that is remembered grows without end."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from examples.rl.checks import REASONS, CheckLimits, Checks, check_drift, drift
from examples.rl.rollout import Completion, RolloutError, RolloutGroup
from tests.examples.rl.groups import END, RUN, Bytes, Echo, completion, honest, key

LONG = "a long answer that nobody else would say"


def fresh(**limits: int) -> Checks:
    return Checks(RUN, {"echo": Echo()}, Bytes(), CheckLimits(**limits))


def refusal(checks: Checks, group: RolloutGroup, head: int = 3) -> str:
    with pytest.raises(RolloutError) as caught:
        checks.check(group, head=head)
    return caught.value.reason


def one(made: Completion) -> RolloutGroup:
    return replace(honest(), completions=(made,), rewards=(0.0,))


def test_an_honest_group_passes_with_its_own_rewards() -> None:
    checks = fresh()
    checked = checks.check(honest(), head=5)
    assert (checked.rewards, checked.false_rewards, checked.same_tokens, checked.age) == ((1.0, 0.0), 0, True, 2)
    assert not +checks.counts


LIES: dict[str, tuple[Callable[[], RolloutGroup], str]] = {
    "weights that are not published": (lambda: honest(version=4), "future"),
    "an environment nobody knows": (lambda: replace(honest(), environment="chess"), "environment"),
    "a prompt of its own": (lambda: replace(honest(), prompt="say 1:"), "prompt"),
    "the prompt of another number": (lambda: replace(honest(n=1), n=0), "prompt"),
    "the prompt of another worker": (lambda: replace(honest(key(1)), worker=key(2)), "prompt"),
    "prompt tokens of another prompt": (lambda: replace(honest(), prompt_ids=b"\1\0\0\0"), "prompt"),
    "a text that its tokens do not say": (lambda: one(completion("a", text="b")), "text"),
    "a token that is none": (lambda: one(Completion.of(np.array([300, END]), np.zeros(2), finished=True, text="x")), "text"),
    "finished with no end": (lambda: one(Completion.of(np.array([65]), np.zeros(1), finished=True, text="A")), "termination"),
    "an end in the middle": (lambda: one(Completion.of(np.array([END, 65, END]), np.zeros(3), finished=True, text="A")), "termination"),
    "stopped early": (lambda: one(Completion.of(np.array([65]), np.zeros(1), finished=False, text="A")), "termination"),
    "not finished, but ended": (lambda: one(completion("A", finished=False)), "termination"),
    "a token no sampler draws": (lambda: one(completion("A", logprob=-60000.0)), "surprise"),
    "a number far ahead": (lambda: honest(n=5), "skipping"),
    "a number beyond all": (lambda: honest(n=1 << 61), "skipping"),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_refused_by_name_and_counted(lie: str) -> None:
    checks = fresh()
    make, reason = LIES[lie]
    assert refusal(checks, make()) == reason
    assert checks.counts == {reason: 1}
    assert reason in REASONS


def test_old_groups_are_dropped_and_those_of_the_last_version_in_the_window_are_not() -> None:
    checks = fresh(max_staleness=2)
    assert refusal(checks, honest(version=0)) == "stale"
    assert checks.check(honest(version=1), head=3).age == 2


def test_false_rewards_change_nothing_and_are_counted() -> None:
    checks = fresh()
    checked = checks.check(replace(honest(), rewards=(1.0, 1.0)), head=3)
    assert checked.rewards == (1.0, 0.0)
    assert checked.false_rewards == checks.counts["false reward"] == 1


def test_of_another_tokenizer_only_the_texts_count() -> None:
    group = replace(one(completion("x", text="something else")), tokenizer=bytes(32), prompt_ids=b"")
    checked = fresh().check(group, head=3)
    assert not checked.same_tokens


def test_a_completion_that_filled_its_length_has_no_end_token() -> None:
    ids = np.array([65, 66, 67])
    assert fresh(completion_tokens=3).check(one(Completion.of(ids, np.zeros(3), finished=False, text="ABC")), head=3)


def test_the_same_group_again_is_a_replay_also_with_other_completions() -> None:
    checks = fresh()
    checks.check(honest(), head=3)
    assert refusal(checks, honest()) == "replay"
    assert refusal(checks, honest(texts=("other",))) == "replay"


def test_a_number_is_used_up_by_a_group_that_a_later_check_refuses() -> None:
    checks = fresh()
    refusal(checks, replace(honest(), prompt="other"))
    assert refusal(checks, honest()) == "replay"


def test_a_copy_is_refused_and_its_owner_is_not() -> None:
    checks = fresh()
    checks.check(honest(key(1), texts=(LONG, "b")), head=3)
    assert refusal(checks, honest(key(2), texts=("c", LONG))) == "copy"
    checks.check(honest(key(1), n=1, texts=(LONG, "b")), head=3)


def test_short_answers_that_chance_explains_are_no_copies() -> None:
    checks = fresh()
    for worker in range(20):
        checks.check(honest(key(worker), texts=("1", "2"), logprob=-0.5), head=3)


def test_short_answers_are_a_copy_when_all_of_a_group_agree() -> None:
    checks = fresh()
    texts = tuple(f"{i * 7919 % 100:02}" for i in range(16))
    checks.check(honest(key(1), texts=texts), head=3)
    assert refusal(checks, honest(key(2), texts=texts)) == "copy"
    checks.check(honest(key(3), texts=texts[::-1]), head=3)


def test_groups_out_of_order_and_a_few_lost_ones_are_honest() -> None:
    checks = fresh()
    for n in (2, 0, 1, 5, 4, 3, 8, 12, 11):
        checks.check(honest(n=n), head=3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(0, 6))
def test_whoever_picks_among_its_groups_leaves_out_no_more_than_the_bound(kept: list[bool], spare: int) -> None:
    checks = fresh(spare=spare)
    used: list[int] = []
    for n, keep in enumerate(kept):
        if keep:
            with contextlib.suppress(RolloutError):
                checks.check(honest(n=n, texts=("x",)), head=3)
                used.append(n)
    assert set(+checks.counts) <= {"skipping"}
    if used:
        assert used[-1] + 1 - len(used) <= spare + len(used) // 4


def test_numbers_left_out_add_up_over_versions() -> None:
    checks = fresh(spare=4)
    for version in range(4):
        checks.check(honest(version=version, n=1), head=3)
    checks.check(honest(version=3, n=0), head=3)
    for version in range(4):
        checks.check(honest(version=version, n=3 if version < 2 else 2), head=3)
    assert refusal(checks, honest(version=3, n=6)) == "skipping"


def test_a_flood_of_fresh_keys_pushes_no_worker_out_and_is_forgotten_with_its_versions() -> None:
    checks = fresh(workers=8, copies=32, max_staleness=1)
    checks.check(honest(key(0)), head=3)
    for i in range(1, 8):
        checks.check(honest(key(i), texts=(f"{LONG} {i}", f"{i} {LONG}", f"{i} {i} {LONG}")), head=3)
    assert {refusal(checks, honest(key(i))) for i in range(8, 100)} == {"crowded"}
    assert refusal(checks, honest(key(0))) == "replay"
    assert len(checks._copies) <= 32
    checks.check(honest(key(200), version=5), head=5)
    assert len(checks._numbers._workers) == 1


def test_drift_is_the_mean_distance_and_never_passes_what_is_not_finite() -> None:
    assert drift([-1.0, -2.0], [-1.1, -1.9]) == pytest.approx(0.1)
    assert check_drift([-1.0], [-1.05]) == pytest.approx(0.05)
    for claimed in ([-1.3, -1.0], [float("nan"), -1.0], [float("-inf"), -1.0]):
        with pytest.raises(RolloutError) as caught:
            check_drift(claimed, [-1.0, -1.0])
        assert caught.value.reason == "drift"
    with pytest.raises(ValueError, match="same tokens"):
        drift([-1.0], [-1.0, -1.0])


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        CheckLimits(workers=0)
    with pytest.raises(ValueError, match="negative"):
        CheckLimits(spare=-1)
