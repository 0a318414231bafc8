"""What is done with an update once it is decoded: the last stage of a fused decode, element by element, in unfused float32."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Out:
    """`out = u`: `(numel,)` float32."""

    out: Tensor


@dataclass(frozen=True)
class Step:
    """`w = w * keep; w = w - (sign(u) if sign else u) * lr`: weights in place, each statement rounded to their dtype."""

    lr: float
    keep: float = 1.0  # 1 - lr * weight_decay
    sign: bool = False


@dataclass(frozen=True, eq=False)
class Sgd:
    """`m = m * mu + u; g = u + m * mu if nesterov else m; anchor -= g * lr; w = anchor`: `anchor` and `buffer` are `(numel,)` float32.

    Without momentum g is u, and there is no buffer.
    """

    anchor: Tensor
    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False
    buffer: Tensor | None = None


Finish = Out | Step | Sgd
