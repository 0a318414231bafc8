"""An elastic group inside one process, whose decisions a test makes, withholds and hands out as it likes."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from thinwire.comms.door import Door, RefusedError, Snapshot
from thinwire.comms.group import Exchange, Group, Note, Pending
from thinwire.comms.rounds import Outcome
from thinwire.comms.wire import ABSTAIN, RoundKey


@dataclass
class Brought:
    """What a member has brought to the next round."""

    note: Note
    payload: Tensor
    plan: int


class Hub:
    """What the members share. A round is decided when all of the view but the `slow` have brought theirs, or by `decide`."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.view: dict[int, ElasticGroup] = {}
        self.slow: set[int] = set()  # not waited for
        self.deaf: set[int] = set()  # hear of no decision
        self.brought: dict[int, Brought] = {}
        self.decided: dict[int, Exchange] = {}
        self.next: int | None = None  # the round to decide
        self.lines: list[str] = []
        self.offers: list[Snapshot] = []  # of the members, the last is the newest
        self.manual = False  # only `decide` decides

    def member(self, rank: int, **options: Any) -> "ElasticGroup":
        return ElasticGroup(self, rank, **options)

    def decide(self, *, without: Iterable[int] = ()) -> Exchange:
        """Decide the next round with what has been brought, but for some members."""
        with self.changed:
            assert self.next is not None
            counted = {m: b for m, b in sorted(self.brought.items()) if m not in set(without)}
            skipped = dict.fromkeys(self.view.keys() - counted.keys(), "missed the deadline")
            skipped |= {m: "abstained" for m, b in counted.items() if b.note.flags & ABSTAIN}
            members = tuple(m for m in counted if m not in skipped)
            payloads = [counted[m].payload for m in members]
            assert len({b.plan for b in counted.values()}) <= 1, "members with another plan must be refused at the door"
            stacked = torch.stack(payloads) if payloads else torch.empty(0, 0, dtype=torch.uint8)
            notes = {m: b.note for m, b in counted.items()}
            exchange = Exchange(RoundKey(0, self.next, 0), members, stacked, skipped, notes, 0, 0, 0.0)
            self.decided[self.next] = exchange
            self.next, self.brought = self.next + 1, {}
            for group in list(self.view.values()):
                group.hear()
            self.changed.notify_all()
            return exchange

    def decide_if_complete(self) -> None:
        waited = self.view.keys() - self.slow
        if not self.manual and waited and self.brought and not waited - self.brought.keys():
            self.decide()

    def let_hear(self, rank: int) -> None:
        with self.changed:
            self.deaf.discard(rank)
            if rank in self.view:
                self.view[rank].hear()


class ElasticGroup(Group):
    """One member of a `Hub`."""

    elastic = True

    def __init__(self, hub: Hub, rank: int, *, patience_s: float = inf) -> None:
        super().__init__(rank, (rank,))
        self.hub, self.patience = hub, patience_s
        self.aloft: dict[int, Pending] = {}
        self.delivered: set[int] = set()  # rounds that counted this member's payload and that it was told no more of
        self.rejoined = 0

    @property
    def patience_s(self) -> float:
        return self.patience

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted(self.hub.view)) or (self.rank,)

    def enter(self, door: Door) -> None:
        hub = self.hub
        with hub.changed:
            if hub.next is None:
                hub.next, hub.lines = door.snapshot().round, list(door.lines)
            else:
                theirs = list(door.lines)
                for ours, other in zip(hub.lines + [""] * len(theirs), theirs + [""] * len(hub.lines), strict=False):
                    if ours != other:
                        raise RefusedError(f"the run has `{ours}`, this member `{other}`")
                self._take(door)
            hub.view[self.rank] = self

    def rejoin(self, door: Door) -> None:
        self.rejoined += 1
        self._take(door)
        with self.hub.changed:
            self.astray = None
            self.hub.view[self.rank] = self

    def _take(self, door: Door) -> None:
        with self.hub.changed:
            while True:
                copies = [copy for offer in reversed(self.hub.offers) if (copy := offer.copy()) is not None]
                if copies:
                    break
                assert self.hub.changed.wait(20), "nobody offers a state"
            door.adopt(max(copies, key=lambda copy: copy.round))

    def is_ahead(self, round: int) -> bool:
        with self.hub.changed:
            return self.rank not in self.hub.deaf and self.astray is None and round in self.hub.decided

    def offer(self, snapshot: Snapshot) -> None:
        with self.hub.changed:
            self.hub.offers = [*self.hub.offers[-7:], snapshot]
            self.hub.changed.notify_all()

    def start(self, key: RoundKey, payload: Tensor, *, plan: int, note: Note = Note(), reduce: bool = False) -> Pending:
        assert not reduce
        with self.hub.changed:
            pending = Pending(self)
            if self.error or self.astray:
                pending._resolve(Outcome(None, self.error or self.astray))
                return pending
            assert not self.aloft, "one round at a time"
            self.aloft[key.round] = pending
            if key.round == self.hub.next:
                self.hub.brought[self.rank] = Brought(note, payload.clone(), plan)
                self.hub.decide_if_complete()
            else:
                assert key.round in self.hub.decided, f"round {key.round} is not the group's {self.hub.next}"
                self.hear()
            return pending

    def hear(self) -> None:
        """Land what is decided."""
        if self.rank in self.hub.deaf:
            return
        for round_, pending in list(self.aloft.items()):
            if round_ in self.hub.decided:
                del self.aloft[round_]
                pending._resolve(Outcome(self.hub.decided[round_]))

    def exclude(self) -> None:
        """The group goes on without this member, which has to come back as a newcomer."""
        with self.hub.changed:
            self.hub.view.pop(self.rank, None)
            self.hub.deaf.discard(self.rank)
            self.astray = "excluded"
            for round_, pending in list(self.aloft.items()):
                exchange = self.hub.decided.get(round_)
                pending.delivered = exchange is not None and self.rank in exchange.members
                if pending.delivered:
                    self.delivered.add(round_)
                if exchange is None:
                    self.hub.brought.pop(self.rank, None)
                del self.aloft[round_]
                pending._resolve(Outcome(None, self.astray))
            self.hub.decide_if_complete()

    def _settle(self, job: Any, deadline: float) -> Outcome[Any]:
        raise AssertionError("no courier")

    def _close(self) -> None:
        with self.hub.changed:
            self.hub.view.pop(self.rank, None)
            self.hub.decide_if_complete()
