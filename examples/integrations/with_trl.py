"""The SFTTrainer of trl."""

import tempfile

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import thinwire
from examples.integrations.data import digest, sentences
from examples.integrations.language import language_model, tokenizer
from thinwire.integrations.hf import ThinwireCallback


def main() -> None:
    net = language_model()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    opt = thinwire.DiLoCo(opt, sync_every=5)  # thinwire
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            net,
            SFTConfig(
                folder,
                num_train_epochs=2,
                per_device_train_batch_size=8,
                max_length=32,
                report_to=[],
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
            ),
            train_dataset=Dataset.from_dict({"text": sentences()}),
            processing_class=tokenizer(),
            optimizers=(opt, None),
            callbacks=[ThinwireCallback()],  # thinwire
        )
        trainer.train()
    print(f"weights {digest(net.parameters())}", flush=True)


if __name__ == "__main__":
    main()
