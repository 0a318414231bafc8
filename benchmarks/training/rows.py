"""The rows of the table: what is known, what the issue promised, and every method of thinwire."""

from dataclasses import dataclass
from typing import Any

from benchmarks.training.setting import Setting

TUNED = (
    "Tuning: AdamW lr 1e-3 (.9, .95), weight decay .1 in every method that has it, not tuned. Two outer rules tried for dense DiLoCo "
    "(textbook, torchft, none: both shown; int8, int4, sign: the better), two learning rates for DeMo (textbook: both shown; thinwire's: "
    "the better), ranks 1 and 4 for PowerSGD (both shown); one try for PostLocalSGD and the authors' DeMo. thinwire's sparse codecs had "
    "more: DiLoCo's defaults are the best of 11 settings on this task, DeMo's of 7 (benchmarks.training.sweep)."
)


@dataclass(frozen=True)
class Row:
    """A setting and what it must reach: validation loss (or that of another row), and megabytes (10^6 bytes) sent per worker; None where
    nothing is promised."""

    setting: Setting
    loss: float | str | None = None
    megabytes: float | None = None
    known: str = ""  # what others measured on this task


NESTEROV: dict[str, Any] = {"outer_lr": 0.7, "outer_momentum": 0.9}
PLAIN: dict[str, Any] = {"outer_lr": 1.0, "outer_momentum": 0.0}


def _diloco(codec: str, label: str, **options: Any) -> Setting:
    return Setting("diloco", {"codec": codec, "sync_every": 10} | options, f"DiLoCo {label}")


def _averaging(codec: str) -> Setting:
    return _diloco(codec, f"{codec}, plain averaging", **PLAIN, nesterov=False)


ROWS: dict[str, Row] = {
    "alone": Row(Setting("alone", label="one worker alone"), known="2.229"),
    "ddp": Row(Setting("ddp", label="DDP, gloo, fp32"), known="1.979, 1605 MB"),
    "powersgd-1": Row(Setting("powersgd", {"rank": 1}, "DDP, PowerSGD rank 1")),
    "powersgd-4": Row(Setting("powersgd", {"rank": 4}, "DDP, PowerSGD rank 4")),
    "post-local-sgd": Row(Setting("post-local-sgd", {"period": 10}, "PostLocalSGD"), known="2.109, 160.4 MB (last steps unaveraged)"),
    "textbook-nesterov": Row(
        Setting("textbook", {"sync_every": 10} | NESTEROV, "textbook DiLoCo, Nesterov .7/.9"), known="2.078, 160.4 MB"
    ),
    "textbook": Row(Setting("textbook", {"sync_every": 10} | PLAIN, "textbook DiLoCo, plain averaging"), known="2.039, 160.4 MB"),
    "torchft-nesterov": Row(Setting("torchft", {"sync_every": 10} | NESTEROV, "torchft DiLoCo, Nesterov .7/.9"), known="2.078, 164.3 MB"),
    "torchft": Row(Setting("torchft", {"sync_every": 10} | PLAIN, "torchft DiLoCo, plain averaging")),
    "demo-reference": Row(Setting("demo-reference", {"lr": 1e-3}, "DeMo, its authors' code"), known="1.984, 179.9 MB"),
    "demo-textbook": Row(Setting("demo-textbook", {"lr": 1e-3}, "textbook DeMo, lr 1e-3")),
    "demo-textbook-1.5": Row(Setting("demo-textbook", {"lr": 1.5e-3}, "textbook DeMo, lr 1.5e-3")),
    "none-nesterov": Row(_diloco("none", "none, Nesterov .7/.9"), megabytes=161),
    "none": Row(_averaging("none"), megabytes=161),
    "int8": Row(_averaging("int8")),
    "int4": Row(_averaging("int4")),
    "sign": Row(_averaging("sign")),
    "topk": Row(_diloco("topk", "topk")),
    "dct-topk": Row(_diloco("dct-topk", "dct-topk"), loss=2.06, megabytes=4),
    "diloco": Row(Setting("diloco", {}, "DiLoCo blockmax64 (defaults)"), loss=2.05, megabytes=1.5),
    "diloco-overlap": Row(Setting("diloco", {"overlap": 2}, "DiLoCo blockmax64, overlap 2 of 10")),
    "blockmax128": Row(_diloco("blockmax128", "blockmax128")),
    "demo-published": Row(
        Setting("demo", {"codec": "dct-topk32-int8", "lr": 1.5e-3, "decay": 0.999}, "DeMo, published settings"),
        loss=1.99,
        megabytes=30,
    ),
    "demo": Row(Setting("demo", {}, "DeMo, defaults"), loss="ddp", megabytes=12),
}
QUICK = ("ddp", "powersgd-4", "textbook", "diloco", "demo")
# The methods that are compared, with three seeds in `bench all --full`; their other outer rules, learning rates and codecs have one.
COMPARED = (
    "ddp", "powersgd-1", "powersgd-4", "post-local-sgd", "textbook", "torchft", "demo-textbook",
    "none", "diloco", "diloco-overlap", "demo",
)  # fmt: skip
