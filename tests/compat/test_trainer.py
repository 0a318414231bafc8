"""The Trainers of transformers and trl: clipping, scheduler, checkpoints, in two regions that they do not know of."""

from pathlib import Path
from typing import Any

import pytest
import torch

from examples.integrations.data import sentences
from tests.compat.regions import alone, check, member, run_regions, weights
from thinwire.integrations.scalars import ours

pytest.importorskip("transformers")
STEPS, STOP = 11, 7
SENTENCES = 4 * STEPS


def arguments(folder: Path) -> dict[str, Any]:
    """Of a run that saves in the middle of the third window."""
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.5,
        "save_steps": STOP,
        "logging_steps": 5,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }


def keeps(kept: list[dict[str, Any]]) -> Any:
    """A callback that keeps what the Trainer logs."""
    from transformers import TrainerCallback

    class Keeps(TrainerCallback):  # type: ignore[misc]  # its types are not read
        def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **_: Any) -> None:
            kept.append(dict(logs))

    return Keeps()


def trained(kind: str, wrap: Any, folder: Path, *, resume: bool = False, close: bool = False) -> str:
    """The weights after `STEPS` steps of a Trainer."""
    from examples.integrations.language import language_model
    from thinwire.integrations.hf import ThinwireCallback

    net, logs = language_model(), list[dict[str, Any]]()
    optimizer = wrap(torch.optim.AdamW(net.parameters(), lr=1e-3))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    trainer = TRAINERS[kind](net, folder, optimizers=(optimizer, schedule), callbacks=[keeps(logs)])
    if close:
        trainer.callback_handler.callbacks.insert(0, ThinwireCallback())
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{STOP}") if resume else None)
    assert trainer.args.world_size == 1
    assert trainer.model_wrapped is net  # and no DistributedDataParallel
    if close:
        assert ours(trainer.optimizer).round == 4
        assert logs[-1]["thinwire/members"] == 2
    return weights(net)


def plain_trainer(net: Any, folder: Path, **options: Any) -> Any:
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    from examples.integrations.language import tokenizer

    words = tokenizer()
    data, collator = [words(each) for each in sentences(SENTENCES)], DataCollatorForLanguageModeling(words, mlm=False)
    return Trainer(net, TrainingArguments(**arguments(folder)), train_dataset=data, data_collator=collator, **options)


def sft(net: Any, folder: Path, **options: Any) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from examples.integrations.language import tokenizer

    config, data = SFTConfig(**arguments(folder), max_length=32), Dataset.from_dict({"text": sentences(SENTENCES)})
    return SFTTrainer(net, config, train_dataset=data, processing_class=tokenizer(), **options)


def even(completions: list[str], **_: Any) -> list[float]:
    """The share of even digits."""
    return [sum(c in "02468" for c in text) / max(1, len(text)) for text in completions]


def grpo(net: Any, folder: Path, **options: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from examples.integrations.language import tokenizer

    config = GRPOConfig(**arguments(folder), num_generations=4, max_completion_length=6)
    data = Dataset.from_dict({"prompt": [each[:7] for each in sentences(SENTENCES)]})
    return GRPOTrainer(net, even, config, train_dataset=data, processing_class=tokenizer(), **options)


TRAINERS = {"Trainer": plain_trainer, "SFTTrainer": sft, "GRPOTrainer": grpo}


def everything(rank: int, kind: str, folder: Path) -> dict[str, str]:
    mine = folder / str(rank)
    return {
        "plain": trained(kind, lambda inner: inner, mine / "plain"),
        "alone": trained(kind, alone, mine / "alone"),
        "members": trained(kind, member, mine / "members", close=True),
        "whole": trained(kind, member, mine / "whole"),
        "resumed": trained(kind, member, mine / "whole", resume=True),
    }


@pytest.mark.parametrize("kind", list(TRAINERS))
def test_trainer(kind: str, tmp_path: Path) -> None:
    if kind != "Trainer":
        pytest.importorskip("trl")
    check(*run_regions(everything, kind, tmp_path))
