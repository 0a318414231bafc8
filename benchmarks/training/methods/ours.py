"""thinwire's own."""

from typing import Any

import thinwire
from benchmarks.training.methods.method import Method
from benchmarks.training.task import WEIGHT_DECAY, adamw
from examples.multiregion.model import GPT


class Thinwire(Method):
    """`thinwire.DiLoCo` around AdamW, or `thinwire.DeMo`."""

    opt: thinwire.DiLoCo | thinwire.DeMo

    def __init__(self, gpt: GPT, method: str, options: dict[str, Any], group: Any = None) -> None:
        super().__init__(gpt)
        if method == "diloco":
            self.opt = thinwire.DiLoCo(adamw(gpt), group=group, **options)
        else:
            self.opt = thinwire.DeMo(gpt.parameters(), group=group, **({"weight_decay": WEIGHT_DECAY} | options))

    def close(self) -> None:
        self.opt.close()

    def ledger(self) -> dict[str, float]:
        stats = self.opt.stats()
        return {
            "rounds": stats.rounds,
            "nothing_averaged": stats.nothing_averaged,
            "payload_sent": stats.payload_sent,
            "wire_sent": stats.wire_sent,
        } | {f"{phase}_s": round(seconds, 3) for phase, seconds in stats.seconds.items()}
