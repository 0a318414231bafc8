"""What an optimizer gives a group whose members come and go: what a newcomer must have in common, and the state that it gets.

    group.enter(door)        founds the run from `door.snapshot()`, or has `door.adopt` take the state of the others
    group.offer(snapshot)    after every round: the state, by reference; copied (`Snapshot.copy`) only while somebody joins

The tensors of a snapshot are the live ones and change in place. Two rules make a copy whole without stalling a step: the optimizer
calls `retire` before it changes anything, and a copy goes by pieces under a lock that is held for one piece at a time. When a copy is
under way, `retire` leaves it clones of what it has not read yet.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

import torch
import xxhash
from torch import Tensor

from thinwire.comms.wire import bytes_of

PIECE = 1 << 20  # elements copied between two looks at the lock: well under a millisecond


def plan_id(lines: Sequence[str]) -> int:
    """The hash of a plan that every frame carries; `lines` are settings and layout, one fact a line."""
    return xxhash.xxh3_64_intdigest("\n".join(lines).encode())


def first_difference(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str | None, str | None] | None:
    """The first two lines that differ, None where one side has no more; None when all are the same.

    >>> first_difference(["codec = int8", "steps = 5"], ["codec = int8"])
    ('steps = 5', None)
    """
    return next((pair for pair in zip_longest(mine, theirs) if pair[0] != pair[1]), None)


class RefusedError(ValueError):
    """The group has refused this member at its door: the first difference is named."""


class SnapshotError(ValueError):
    """What a peer sent as the state of the group is not what the plan of this member says."""


@dataclass
class _Copying:
    """Where a snapshot is in its life: offered, perhaps being copied, retired."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    readers: int = 0
    retired: bool = False
    written: torch.cuda.Event | None = None  # on a GPU: when the tensors hold what they should


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a newcomer needs to be one of the members: it is the state before round `round` is decided.

    - `tensors`: by name; identical on all members bit for bit, so they may come from several holders at once.
    - `meta`: JSON of what is this member's own (learning rates, counters, schedulers): members' differ, it comes from one of them.
    """

    round: int
    tensors: Mapping[str, Tensor]
    meta: bytes
    _state: _Copying = field(default_factory=_Copying, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", dict(self.tensors))
        if any(tensor.is_cuda for tensor in self.tensors.values()):
            self._state.written = torch.cuda.current_stream().record_event()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def copy(self) -> "Snapshot | None":
        """The same in CPU memory of its own, or None when the state has moved on; may be called in any thread."""
        state = self._state
        with state.lock:
            if state.retired:
                return None
            state.readers += 1
        try:
            if state.written is not None:
                state.written.synchronize()
            copies = {name: self._copy_of(name) for name in self.tensors}
        finally:
            with state.lock:
                state.readers -= 1
        return Snapshot(self.round, copies, self.meta)

    def retire(self) -> None:
        """The tensors are about to change: no copy begins from now on, and one under way gets clones to go on with."""
        state = self._state
        with state.lock:
            if state.readers and not state.retired:
                object.__setattr__(self, "tensors", {name: tensor.detach().clone() for name, tensor in self.tensors.items()})
                state.written = state.written and torch.cuda.current_stream().record_event()
            state.retired = True

    def digest(self) -> bytes:
        """SHA-256 of round and tensors, with their names, shapes and types; of a copy, as live tensors change."""
        told = hashlib.sha256(b"%d" % self.round)
        for name, tensor in sorted(self.tensors.items()):
            told.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            told.update(bytes_of(tensor.detach().cpu().reshape(-1)) if tensor.numel() else b"")
        return told.digest()

    def _copy_of(self, name: str) -> Tensor:
        like = self.tensors[name]
        out = torch.empty(like.shape, dtype=like.dtype)
        piece = PIECE if like.is_contiguous() else max(like.numel(), 1)
        for start in range(0, like.numel(), piece):
            with self._state.lock:  # whoever retires this meanwhile waits for one piece, and leaves clones
                if self._state.written is not None:
                    self._state.written.synchronize()
                out.view(-1)[start : start + piece] = self.tensors[name].detach().reshape(-1)[start : start + piece]
        return out


class Door(Protocol):
    """What the optimizer gives to `Group.enter`; `adopt` is called in the thread that called `enter` or `rejoin`."""

    @property
    def lines(self) -> Sequence[str]:
        """Settings and layout, one fact a line; who has another first line that differs is refused, and told."""
        ...

    def snapshot(self) -> Snapshot:
        """The state after the last applied round; who founds a run begins with its round."""
        ...

    def adopt(self, snapshot: Snapshot) -> None:
        """Take the state of the others. Raises `SnapshotError`, and has changed nothing, when it is not of this plan."""
        ...
