"""How an optimizer meets a group whose members come and go: the lines at its door, the state it gives and takes.

A newcomer takes the agreed state (anchors, outer momenta, or the weights themselves) and the numbers beside it, then follows the rounds
that were decided meanwhile. Whoever comes back keeps what it has not delivered:

    local <- new anchor + (local - old anchor)          and its residual

A checkpoint may be older than what its member delivered before it stopped. So that no work counts twice, what it holds of
undelivered work counts only if the group has decided nothing since.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from thinwire.comms.door import Snapshot, SnapshotError
from thinwire.comms.group import Group
from thinwire.kernels.vector import all_finite
from thinwire.optim import carried
from thinwire.optim.clock import Clock

log = logging.getLogger("thinwire")


class Resident(Protocol):
    """What an optimizer defines to live in an elastic group."""

    _clock: Clock

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    def _door_lines(self) -> list[str]:
        """What all members must have in common, one fact a line."""
        ...

    def _agreed_tensors(self) -> dict[str, Tensor]:
        """The live tensors that are identical on all members after every round, all that a newcomer needs."""
        ...

    def _adopt(self, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        """Set them in place; with `keep` what this member has not delivered stays on top, else it is forgotten."""
        ...


class Entrance:
    """The door of one optimizer, and the state that it offers there."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._offered: Snapshot | None = None
        self._meta_is_fresh = False
        self.carried: dict[str, Any] = {}
        self.entered = False  # the group knows this member: from now on it re-joins
        self.restored = False  # what this member has comes from a checkpoint
        self.arrived = False  # it took weights that it did not train: gradients at hand are of others

    @property
    def lines(self) -> Sequence[str]:
        return self._resident._door_lines()

    def carry(self, things: Mapping[str, Any]) -> None:
        """Have these travel too."""
        for name, thing in things.items():
            carried.check(name, thing)
        self.carried |= things

    def snapshot(self) -> Snapshot:
        """The state as it is; one is on offer at a time, so that all are retired before the next change."""
        self.retire()
        own = self._resident
        meta = carried.pack(own.param_groups, own._clock.steps, self.carried)
        self._offered, self._meta_is_fresh = Snapshot(own._clock.round, own._agreed_tensors(), meta), False
        return self._offered

    def adopt(self, snapshot: Snapshot) -> None:
        own, clock = self._resident, self._resident._clock
        _compare(own._agreed_tensors(), snapshot.tensors)
        steps, take = carried.unpack(snapshot.meta, own.param_groups, self.carried)
        stale = self.restored and snapshot.round != clock.round
        if clock.met and stale and (clock.open or clock.behind):
            log.warning("the group has gone on since this checkpoint: %d steps of it may count already, and are dropped", clock.window)
        keep = clock.met and not stale  # what was learnt from weights that are not the group's is worth nothing to it
        self.arrived = not (keep and (clock.open or clock.behind))
        self.retire()
        take()
        own._adopt(snapshot.tensors, keep=keep)
        if self.arrived:
            clock.forget_window()
        clock.round, clock.steps, clock.behind = snapshot.round, max(clock.steps, steps), False
        self.restored = False

    # -- the state on offer ----------------------------------------------------------------------------------------------------

    def offer(self, group: Group) -> None:
        """Give the group the state after a round; it costs a few references and the numbers."""
        group.offer(self.snapshot())

    def refresh(self, group: Group) -> None:
        """At the first step after a round: schedulers have moved, and newcomers are to begin like the members."""
        if self._offered is None or self._meta_is_fresh:
            return
        if self._offered.meta != carried.pack(self._resident.param_groups, self._resident._clock.steps, self.carried):
            self.offer(group)
        self._meta_is_fresh = True

    def retire(self) -> None:
        """The agreed tensors are about to change."""
        if self._offered is not None:
            self._offered.retire()
            self._offered = None


def _compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raise `SnapshotError` unless all names, shapes and types are ours and all numbers finite."""
    if ours.keys() != theirs.keys():
        raise SnapshotError(f"the state has tensors {sorted(theirs)[:8]}, ours {sorted(ours)[:8]}")
    for name, mine in ours.items():
        other = theirs[name]
        if other.shape != mine.shape or other.dtype != mine.dtype:
            raise SnapshotError(f"{name} is {tuple(other.shape)} {other.dtype}, ours {tuple(mine.shape)} {mine.dtype}")
        if not all_finite(other):
            raise SnapshotError(f"{name} holds NaN, Inf or numbers above 2^100")
