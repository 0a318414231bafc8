"""The settings that are swept: one question a block. The defaults of `DiLoCo` and `DeMo` are its winners."""

from typing import Any

from benchmarks.training.setting import Setting

PLAIN: dict[str, Any] = {"outer_lr": 1.0, "outer_momentum": 0.0, "nesterov": False}
NESTEROV: dict[str, Any] = {"outer_lr": 0.7, "outer_momentum": 0.9, "nesterov": True}


def _diloco(codec: str, every: int = 10, **options: Any) -> Setting:
    return Setting("diloco", {"codec": codec, "sync_every": every} | options)


def _demo(codec: str, lr: float = 1e-3, decay: float = 0.999, **options: Any) -> Setting:
    return Setting("demo", {"codec": codec, "lr": lr, "decay": decay} | options)


GRID: list[Setting] = [
    Setting("ddp"),
    # Dense: which outer rule, and how many bits?
    _diloco("none", **NESTEROV),
    _diloco("none", **PLAIN),
    _diloco("int4", **PLAIN),
    # Sparse: how much, how long remembered, how divided, how far apart?
    *(_diloco(f"blockmax{block}", decay=0.95) for block in (32, 64, 128)),
    *(_diloco("blockmax64", decay=decay) for decay in (0.9, 1.0)),
    _diloco("blockmax64", decay=0.95, aggregate="mean"),
    *(_diloco("blockmax64", every, decay=0.95) for every in (5, 20)),
    # Sparse: another selection, transform or value?
    _diloco("topk64", decay=0.95),
    _diloco("dct-topk32", decay=0.95),
    _diloco("dct-blockmax64", decay=0.95),
    # Every step: as published, and how much, how fast, how long remembered with one bit?
    *(_demo("dct-topk32-int8", lr) for lr in (1e-3, 1.5e-3)),
    _demo("dct-topk64-int8", 1.5e-3),
    *(_demo("dct-blockmax64-vote", lr) for lr in (1e-3, 1.5e-3)),
    _demo("dct-blockmax64-vote", decay=0.99),
    _demo("dct-blockmax128-vote"),
]
