"""For the Trainer of transformers, and those of trl: a callback that closes the optimizer and logs what it sends.

    opt = thinwire.DiLoCo(torch.optim.AdamW(model.parameters(), lr=1e-4))
    trainer = Trainer(model, args, train_dataset=data, optimizers=(opt, None), callbacks=[ThinwireCallback()])

Start it with `thinwire run -- torchrun ... train.py`: a Trainer that finds WORLD_SIZE wraps the model in DDP over the WAN.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from thinwire.integrations.scalars import ours, scalars


class ThinwireCallback(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Ends with replicas that hold the same bits, and adds `thinwire/...` to the logs.

    `close_timeout_s`: how long the end waits for members that are alive but behind.
    """

    def __init__(self, *, close_timeout_s: float = 600.0) -> None:
        self._close_timeout_s = close_timeout_s

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises `TypeError` when the Trainer has no optimizer of ours."""
        ours(kwargs.get("optimizer"))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if kwargs.get("optimizer") is not None:
            kwargs["logs"].update(scalars(ours(kwargs["optimizer"]).stats()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ours(kwargs.get("optimizer")).close(self._close_timeout_s)
