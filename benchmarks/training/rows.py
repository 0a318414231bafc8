"""The rows of the table: what is known, what the issue promised, and the defaults."""

from dataclasses import dataclass

from benchmarks.training.setting import Setting


@dataclass(frozen=True)
class Row:
    """A setting and what it must reach: validation loss (or that of another row), and megabytes (10^6 bytes) sent per worker; None where
    nothing is promised."""

    setting: Setting
    loss: float | str | None = None
    megabytes: float | None = None
    known: str = ""  # what others measured on this task
    needs: str = ""  # a module that has to be importable


ROWS: dict[str, Row] = {
    "alone": Row(Setting("alone", label="one worker alone"), known="2.229"),
    "ddp": Row(Setting("ddp", label="DDP, gloo, fp32"), known="1.979, 1605 MB"),
    "textbook-nesterov": Row(
        Setting("textbook", {"sync_every": 10, "outer_lr": 0.7, "outer_momentum": 0.9}, "textbook DiLoCo, Nesterov .7/.9"),
        known="2.078, 160.4 MB",
    ),
    "textbook": Row(
        Setting("textbook", {"sync_every": 10, "outer_lr": 1.0, "outer_momentum": 0.0}, "textbook DiLoCo, plain averaging"),
        known="2.039, 160.4 MB",
    ),
    "demo-reference": Row(Setting("demo-reference", {"lr": 1e-3}, "DeMo, its authors' code"), known="1.984, 179.9 MB", needs="demo"),
    "none-nesterov": Row(Setting("diloco", {"codec": "none", "sync_every": 10}, "DiLoCo none, Nesterov .7/.9"), megabytes=161),
    "none": Row(
        Setting(
            "diloco",
            {"codec": "none", "sync_every": 10, "outer_lr": 1.0, "outer_momentum": 0.0, "nesterov": False},
            "DiLoCo none, plain averaging",
        ),
        megabytes=161,
    ),
    "dct-topk": Row(Setting("diloco", {"codec": "dct-topk", "sync_every": 10}, "DiLoCo dct-topk"), loss=2.06, megabytes=4),
    "diloco": Row(Setting("diloco", {}, "DiLoCo, defaults"), loss=2.05, megabytes=1.5),
    "demo-published": Row(
        Setting("demo", {"codec": "dct-topk32-int8", "lr": 1.5e-3, "decay": 0.999}, "DeMo, published settings"),
        loss=1.99,
        megabytes=30,
    ),
    "demo": Row(Setting("demo", {}, "DeMo, defaults"), loss="ddp", megabytes=12),
}
