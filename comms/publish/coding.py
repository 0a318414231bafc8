"""Which form a version travels in: whatever is measured to be smallest, and full when a chain of steps gains too little."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from thinwire.comms import patch
from thinwire.comms.publish import delta
from thinwire.comms.publish.weights import Snapshot

CodecName = Literal["full", "patch", "delta"]


@dataclass(frozen=True, eq=False)
class Coded:
    """A payload, and the `(numel,)` bfloat16 weights that everybody holds who has applied it."""

    codec: CodecName
    payload: bytes
    flat: Tensor


def limit_nbytes(numel: int) -> int:
    """The most bytes that any payload takes."""
    return max(patch.limit_nbytes(numel), delta.limit_nbytes(numel))


def choose(old: Tensor | None, new: Snapshot, *, patch_ratio: float) -> Coded:
    """The smallest of full, patch and (with `new.exact`) delta from `old`; full also for a step above `patch_ratio` of plain bfloat16."""
    full = Coded("full", patch.encode(None, new.flat), new.flat)
    if old is None:
        return full
    step = Coded("patch", patch.encode(old, new.flat), new.flat)
    if new.exact is not None:
        lossy = delta.encode(old, new.exact)
        if lossy is not None and len(lossy[0]) < len(step.payload):
            step = Coded("delta", *lossy)
    worth_a_link = len(step.payload) <= patch_ratio * 2 * new.flat.numel()
    return step if worth_a_link and len(step.payload) < len(full.payload) else full


def apply(codec: CodecName, old: Tensor | None, payload: bytes, numel: int) -> Tensor:
    """The `(numel,)` bfloat16 weights of a version; raises `WireError` for a payload that is none."""
    if codec == "full":
        return patch.decode(None, payload, numel)
    assert old is not None  # the chain has been checked
    return delta.decode(old, payload, numel) if codec == "delta" else patch.decode(old, payload, numel)
