import pytest
import torch

from examples.rl.evaluate import evaluate
from examples.rl.tasks import Sort
from examples.rl.tiny import Tiny, weights_sha256
from examples.rl.warmup import Warmup, warm_up

SMALL = {"width": 32, "layers": 2, "heads": 2}
FEW = Warmup(steps=40, batch=16, lr=5e-3)


def test_a_policy_learns_the_form_of_answers_and_the_same_for_the_same_seed() -> None:
    one, same, other = Tiny(**SMALL), Tiny(**SMALL), Tiny(**SMALL)
    losses = warm_up(one, Sort(3), seed=1, options=FEW)
    warm_up(same, Sort(3), seed=1, options=FEW)
    warm_up(other, Sort(3), seed=2, options=FEW)
    assert weights_sha256(one.module) == weights_sha256(same.module) != weights_sha256(other.module)
    assert losses[0] > 4
    assert losses[-1] < 2.5
    [group] = one.sample([one.tokenizer.encode("312=")], count=50, max_new=6, generator=torch.Generator().manual_seed(0))
    assert sum(len(one.text) == 4 and one.text[:3].isdigit() for one in group) > 10  # of 50; an untrained one never does


def test_accuracy_is_the_same_every_time_and_that_of_the_policy() -> None:
    class Perfect(Tiny):
        def sample(self, prompts, **options):  # type: ignore[no-untyped-def]
            told = [self.tokenizer.encode("".join(sorted(self.tokenizer.decode(prompt)[:-1])) + "\n") for prompt in prompts]
            return [[type("S", (), {"text": self.tokenizer.decode(ids)})] for ids in told]

    assert evaluate(Perfect(**SMALL), Sort(3), max_new=6) == 1.0
    policy = Tiny(**SMALL)
    assert evaluate(policy, Sort(3), max_new=6, tasks=64) == evaluate(policy, Sort(3), max_new=6, tasks=64) == 0.0


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"batch": 0}, {"lr": 0.0}, {"right": 1.1}])
def test_warm_ups_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="steps >= 0"):
        Warmup(**wrong)  # type: ignore[arg-type]
