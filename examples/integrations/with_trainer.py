"""The Trainer of transformers."""

import tempfile

import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import thinwire
from examples.integrations.data import digest, sentences
from examples.integrations.language import language_model, tokenizer
from thinwire.integrations.hf import ThinwireCallback


def main() -> None:
    words, net = tokenizer(), language_model()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    opt = thinwire.DiLoCo(opt, sync_every=5)  # thinwire
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            net,
            TrainingArguments(
                folder, num_train_epochs=2, per_device_train_batch_size=8, report_to=[], use_cpu=not torch.cuda.is_available()
            ),
            train_dataset=[words(each) for each in sentences()],
            data_collator=DataCollatorForLanguageModeling(words, mlm=False),
            optimizers=(opt, None),
            callbacks=[ThinwireCallback()],  # thinwire
        )
        trainer.train()
    print(f"weights {digest(net.parameters())}", flush=True)


if __name__ == "__main__":
    main()
