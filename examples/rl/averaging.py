"""Several learners of one policy: the outer settings with which reinforcement learning works."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

import thinwire
from thinwire.comms import Codec


def averaging(inner: Optimizer, *, group: Any, sync_every: int = 10, codec: str | Codec = "int4", **options: Any) -> thinwire.DiLoCo:
    """`thinwire.DiLoCo` that averages what learners have changed, with error feedback and no outer momentum.

    Nesterov (.7, .9), the default of dense codecs, overshoots in as few rounds as reinforcement learning has: 0.865 instead of 0.971
    accuracy after 8 rounds of int4 (benchmarks.rl, median of 3 seeds).
    """
    return thinwire.DiLoCo(
        inner,
        group=group,
        sync_every=sync_every,
        codec=codec,
        outer_lr=1.0,
        outer_momentum=0.0,
        nesterov=False,
        decay=1.0,
        **options,
    )
