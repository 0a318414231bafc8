"""lightning: automatic and manual optimization, clipping, schedulers, and resuming at the end of an epoch, in two regions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.compat.loops import network
from tests.compat.regions import alone, check, member, run_regions, weights

pytest.importorskip("lightning")
EPOCHS, STOP, BATCHES = 3, 1, 5  # windows of 3 steps: an epoch ends in the middle of one


def module_of(wrap: Any, automatic: bool) -> Any:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = network(), automatic

        def training_step(self, batch: Any, index: int) -> Any:
            x = batch[0]
            loss = (self.net(x) - x[:, :2]).square().mean()
            if automatic:
                return loss
            opt, schedule = self.optimizers(), self.lr_schedulers()
            opt.zero_grad()
            self.manual_backward(loss)
            nn.utils.clip_grad_norm_(self.parameters(), 0.5)
            opt.step()
            schedule.step()
            return None

        def configure_optimizers(self) -> Any:
            opt = wrap(torch.optim.AdamW(self.parameters(), lr=1e-2))
            schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step))
            return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Module()


def trained(wrap: Any, automatic: bool, rank: int, folder: Path, *, resume: bool = False, close: bool = False) -> str:
    """The weights after `EPOCHS`; the state after `STOP` of them is kept in `folder`."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    from thinwire.integrations.lightning import ThinwireCallback

    module = module_of(wrap, automatic)
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=0.5 if automatic else None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[saver, *([ThinwireCallback()] if close else [])],
    )
    assert trainer.world_size == 1
    x = torch.randn(8 * BATCHES, 6, generator=torch.Generator().manual_seed(rank))
    data = DataLoader(TensorDataset(x), batch_size=8)
    trainer.fit(module, data, ckpt_path=str(folder / f"epoch={STOP - 1}.ckpt") if resume else None, weights_only=True)
    return weights(module)


def everything(rank: int, automatic: bool, folder: Path) -> dict[str, str]:
    mine = folder / str(rank)
    return {
        "plain": trained(lambda inner: inner, automatic, rank, mine / "plain"),
        "alone": trained(alone, automatic, rank, mine / "alone"),
        "members": trained(member, automatic, rank, mine / "members", close=True),
        "whole": trained(member, automatic, rank, mine / "whole"),
        "resumed": trained(member, automatic, rank, mine / "whole", resume=True),
    }


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_lightning(automatic: bool, tmp_path: Path) -> None:
    check(*run_regions(everything, automatic, tmp_path))
