"""What trl's own code makes of fixed tensors: `GRPOTrainer._compute_loss` with a trainer that is nothing but its settings.

    pip install trl transformers accelerate datasets
    python tests/examples/rl/trl_loss.py > tests/examples/rl/golden/trl_grpo.json

The file names the versions. Log-probs and rewards are of a seeded generator, in steps of 1/64: exact in float32 everywhere.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROWS, COLUMNS, GROUP, LONGEST = 12, 7, 4, 9


@dataclass(frozen=True)
class Batch:
    """Three groups of four completions; `(12, 7)` each, rewards `(12,)`."""

    logprobs: Tensor
    behaviour: Tensor
    reference: Tensor
    mask: Tensor
    rewards: Tensor


def batch() -> Batch:
    """The same one everywhere; ratios from 0.2 to 7, so that every clip has something to do."""
    generator = torch.Generator().manual_seed(11)

    def steps(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (ROWS, COLUMNS), generator=generator) / 64

    behaviour = -steps(16, 200)
    logprobs = (behaviour + steps(-100, 125)).clamp(max=-1 / 64)
    reference = (behaviour + steps(-60, 60)).clamp(max=-1 / 64)
    lengths = torch.randint(1, COLUMNS + 1, (ROWS, 1), generator=generator)
    rewards = torch.randint(0, 5, (ROWS,), generator=generator) / 4
    return Batch(logprobs, behaviour, reference, (torch.arange(COLUMNS) < lengths).float(), rewards)


CASES: dict[str, dict[str, Any]] = {
    f"{loss_type} delta={delta} beta={beta} scale={scale}": {"loss_type": loss_type, "delta": delta, "beta": beta, "scale": scale}
    for loss_type in ("grpo", "dapo", "dr_grpo")
    for delta, beta, scale in ((None, 0.0, "group"), (4.0, 0.0, "group"), (4.0, 0.04, "none"))
}


def by_trl(loss_type: str, delta: float | None, beta: float, scale: str) -> tuple[float, list[list[float]], list[float]]:
    """The loss, its gradient to the log-probs, and the advantages, by trl."""
    from trl import GRPOTrainer
    from trl.trainer.utils import nanstd

    data = batch()
    logprobs = data.logprobs.clone().requires_grad_()
    grouped = data.rewards.view(-1, GROUP)
    advantages = (grouped - grouped.mean(1, keepdim=True)).flatten()
    if scale != "none":
        advantages = advantages / (nanstd(grouped, dim=1).repeat_interleave(GROUP) + 1e-4)
    trainer = SimpleNamespace(
        loss_type=loss_type,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.28,
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        model=SimpleNamespace(training=True),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros(ROWS, COLUMNS), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(ROWS, COLUMNS, dtype=torch.int64),
        "completion_mask": data.mask,
        "advantages": advantages,
        "old_per_token_logps": data.behaviour,
        "ref_per_token_logps": data.reference,
        "num_items_in_batch": data.mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, SimpleNamespace(training=True), inputs)
    loss.backward()
    assert logprobs.grad is not None
    return float(loss.detach()), logprobs.grad.tolist(), advantages.tolist()


def main() -> None:
    import transformers
    import trl

    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": str(torch.__version__)}
    found = {name: dict(zip(("loss", "gradient", "advantages"), by_trl(**case), strict=True)) for name, case in CASES.items()}
    json.dump({"versions": versions, "cases": found}, sys.stdout, indent=None)
    print()


if __name__ == "__main__":
    main()
