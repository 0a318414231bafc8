"""lightning, with automatic optimization."""

import tempfile
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

import thinwire
from examples.integrations.data import digest, model, samples
from thinwire.integrations.lightning import ThinwireCallback


class Module(LightningModule):
    """Squares of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        opt = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return thinwire.DiLoCo(opt, sync_every=5)  # thinwire


def main() -> None:
    module = Module()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=2,
            accelerator="auto",
            devices=1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=folder,
            callbacks=[ThinwireCallback()],  # thinwire
        )
        trainer.fit(module, DataLoader(samples(), batch_size=16))
    print(f"weights {digest(module.parameters())}", flush=True)


if __name__ == "__main__":
    main()
