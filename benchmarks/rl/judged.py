"""Rows whose rewards come from three judges of equal stake: one knows, one sees badly, and the third says the opposite, a thousand times
as loud (issue 6, Fraction AI and Yuma). With "honest" the third only sees badly too."""

from collections.abc import Callable
from typing import Literal

import msgspec

from examples.rl.environment import Environment
from examples.rl.generate import task_of
from examples.rl.judges import AdversarialJudge, Judge, NoisyJudge, Panel, VerifierJudge
from examples.rl.rollout import RolloutGroup

Judged = Literal["nobody", "median", "mean", "honest"]
DEVIATION = 0.3  # of the noise on scores of 0 and 1


def judging(how: Judged, environment: Environment) -> Callable[[RolloutGroup], RolloutGroup]:
    """Gives a group the rewards of the panel; "nobody" leaves it those of the environment."""
    if how == "nobody":
        return lambda group: group
    knows = VerifierJudge(environment)
    third: Judge = NoisyJudge(knows, DEVIATION, seed=1) if how == "honest" else AdversarialJudge(knows)
    panel = Panel((knows, NoisyJudge(knows, DEVIATION), third))
    rewards = panel.mean_rewards if how == "mean" else panel.rewards

    def judged(group: RolloutGroup) -> RolloutGroup:
        texts = [one.text for one in group.completions]
        return msgspec.structs.replace(group, rewards=tuple(rewards(task_of(group, environment), texts)))

    return judged
