"""The settings that are swept: one question a block."""

from typing import Any

from benchmarks.training.setting import Setting

PLAIN: dict[str, Any] = {"outer_lr": 1.0, "outer_momentum": 0.0, "nesterov": False}
NESTEROV: dict[str, Any] = {"outer_lr": 0.7, "outer_momentum": 0.9, "nesterov": True}


def _diloco(codec: str, every: int = 10, **options: Any) -> Setting:
    return Setting("diloco", {"codec": codec, "sync_every": every} | options)


def _demo(codec: str, lr: float, decay: float, **options: Any) -> Setting:
    return Setting("demo", {"codec": codec, "lr": lr, "decay": decay} | options)


GRID: list[Setting] = [
    Setting("ddp"),
    # Dense: which outer rule, and how many bits?
    _diloco("none", 10, **NESTEROV),
    _diloco("none", 10, **PLAIN),
    *(_diloco(codec, 10, **PLAIN, decay=1.0) for codec in ("int8", "int4", "int2", "sign")),
    # Sparse: how far apart, how long remembered, how divided?
    *(_diloco(f"blockmax{block}", decay=0.9) for block in (32, 64, 128, 256)),
    *(_diloco("blockmax64", decay=decay) for decay in (0.8, 0.95, 1.0)),
    *(_diloco("blockmax64", every, decay=0.9) for every in (5, 20)),
    _diloco("blockmax64", decay=0.9, aggregate="mean"),
    _diloco("blockmax64", decay=0.9, outer_lr=0.7, outer_momentum=0.0, nesterov=False),
    _diloco("blockmax64-int8", decay=0.9),
    _diloco("dct-blockmax64", decay=0.9),
    # The field's selection: top-k, with and without the DCT.
    *(_diloco(codec, decay=0.9) for codec in ("topk32", "topk64", "dct-topk32", "dct-topk64", "dct-topk64-int2")),
    _diloco("dct-topk32", decay=0.95),
    # Every step: how much, how fast, how long remembered?
    *(_demo("dct-topk32-int8", lr, 0.999, aggregate="mean") for lr in (5e-4, 1e-3, 2e-3)),
    *(_demo("dct-blockmax64-sign", lr, 0.99) for lr in (5e-4, 1e-3, 2e-3)),
    *(_demo("dct-blockmax64-sign", 1e-3, decay) for decay in (0.9, 0.95, 0.999)),
    *(_demo(f"dct-blockmax{block}-sign", 1e-3, 0.99) for block in (16, 32, 128)),
    _demo("dct-blockmax128-sign", 2e-3, 0.99),
    *(_demo(f"dct-blockmax{block}-vote", 1e-3, 0.99) for block in (64, 128)),
]
