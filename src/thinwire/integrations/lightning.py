"""For the Trainer of lightning: a callback that closes the optimizers and logs what they send.

    def configure_optimizers(self):
        return thinwire.DiLoCo(torch.optim.AdamW(self.parameters(), lr=1e-3))

    Trainer(callbacks=[ThinwireCallback()]).fit(module, loader)

Start it with `thinwire run -- torchrun ... train.py`: a Trainer that finds WORLD_SIZE wraps the model in DDP over the WAN.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from thinwire.integrations.scalars import ours, scalars


class ThinwireCallback(Callback):  # type: ignore[misc]  # its types are not read
    """Ends with replicas that hold the same bits, and logs `thinwire/...` every `log_every_n_steps` of the Trainer.

    `close_timeout_s`: how long the end waits for members that are alive but behind.
    """

    def __init__(self, *, close_timeout_s: float = 600.0) -> None:
        self._close_timeout_s = close_timeout_s

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Raises `TypeError` when `configure_optimizers` gave none of ours."""
        for optimizer in trainer.optimizers:
            ours(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.loggers and (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            for optimizer in trainer.optimizers:
                for logger in trainer.loggers:
                    logger.log_metrics(scalars(ours(optimizer).stats()), step=trainer.global_step)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            ours(optimizer).close(self._close_timeout_s)
