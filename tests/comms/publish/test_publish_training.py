"""What versions of a model in training take: a GPT that learns this library's sources with AdamW, published after every step."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from examples.multiregion.model import GPT
from thinwire.comms import patch
from thinwire.comms.publish import coding, delta
from thinwire.comms.publish.weights import Snapshot, snapshot


class Learner:
    """A GPT of about 400,000 parameters that has learnt for 40 steps."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        files = sorted((Path(patch.__file__).parent / "swarm").glob("*.py"))
        self.text = torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8).long()
        self.model = GPT(96, 3, 4)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.step(40)
        self._model, self._opt = copy.deepcopy(self.model.state_dict()), copy.deepcopy(self.opt.state_dict())

    def again(self, lr: float) -> None:
        """Back to the 40 steps, and three steps on at `lr`."""
        self.model.load_state_dict(self._model)
        self.opt.load_state_dict(copy.deepcopy(self._opt))
        for group in self.opt.param_groups:
            group["lr"] = lr
        self.step(3)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            starts = torch.randint(0, len(self.text) - 65, (8,)).tolist()
            self.opt.zero_grad()
            self.model.loss(torch.stack([self.text[at : at + 65] for at in starts])).backward()
            self.opt.step()


@dataclass
class Taken:
    """Bytes of all versions published after steps of one learning rate, and what they would be otherwise."""

    plain: int = 0  # bfloat16
    chosen: int = 0
    delta: int = 0


def published(learner: Learner, versions: int = 5) -> Taken:
    """Publish after every step, as the publisher does."""
    flat, taken = snapshot(learner.model.named_parameters()).flat, Taken()
    for _ in range(versions):
        learner.step()
        new = snapshot(learner.model.named_parameters(), exact=True)
        lossy = delta.encode(flat, new.exact) if new.exact is not None else None
        coded = coding.choose(flat, Snapshot(new.tensors, new.flat), patch_ratio=0.6)
        made = coding.apply(coded.codec, flat, coded.payload, len(flat))
        assert lossy is not None
        assert torch.equal(made.view(torch.int16), new.flat.view(torch.int16))
        assert len(coded.payload) <= 1.05 * 2 * len(flat)
        flat = made
        taken.plain, taken.chosen, taken.delta = (
            taken.plain + 2 * len(flat),
            taken.chosen + len(coded.payload),
            taken.delta + len(lossy[0]),
        )
    return taken


@pytest.mark.slow
def test_patches_of_training_are_as_small_as_its_learning_rate_allows() -> None:
    learner, gains = Learner(), {}
    for lr in (1e-6, 3e-6, 3e-5, 3e-4, 1e-3):
        learner.again(lr)
        taken = published(learner)
        gains[lr] = taken.plain / taken.chosen
        print(f"lr {lr:g}: {gains[lr]:.1f} times smaller than bfloat16; as an int8 delta {taken.plain / taken.delta:.1f}")
    flat = snapshot(learner.model.named_parameters()).flat
    print(f"full: {2 * len(flat) / len(patch.encode(None, flat)):.2f} times smaller")
    assert gains[1e-6] >= 20
    assert gains[3e-5] >= 3.3
    assert min(gains.values()) >= 1 / 1.05
