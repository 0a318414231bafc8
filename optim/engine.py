"""One round of any method: send one payload, check what came back, aggregate, tell the ledger.

A round is a generator that yields while its exchange is under way, so that overlap is only a matter of who resumes it when.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thinwire.comms.group import Exchange, Group, Note, Pending
from thinwire.comms.wire import ABSTAIN, LEAVING, RoundKey
from thinwire.optim.aggregate import Aggregator, contributors, mean
from thinwire.optim.fragment import Fragment
from thinwire.optim.ledger import PHASES, Ledger, RoundInfo
from thinwire.optim.message import Message
from thinwire.optim.update import Plain, Update, combine, sound

IDLE = "idle"  # why a member abstains that only waits for the others


@dataclass(frozen=True)
class Job:
    """What one member brings to a round: for each fragment a message, and what it says of itself."""

    fragments: Sequence[Fragment]
    messages: Sequence[Message]
    round: int
    steps: int
    abstain: str | None = None  # why the payload must not be counted
    leaving: bool = False
    state: int = 0  # hash of what replicas share, 0 when this round does not verify
    delta_norm: float = 0.0
    said: bytes = b""  # what every member says beside its payload, the same length for all
    sound: Callable[[bytes], bool] = bool  # whether a member can have said that


@dataclass(frozen=True)
class Outcome:
    """What the group agreed: an update a fragment, or None when no payload counts."""

    exchange: Exchange
    updates: list[Update] | None
    members: tuple[int, ...]  # whose payloads are in the updates
    rejected: dict[int, str]
    all_leaving: bool
    counted: bool = False  # whether what this member brought is in the updates
    said: bytes = b""  # of the lowest member whose payload counts
    odd: tuple[int, ...] = ()  # members of an elastic group whose replica is not that of the majority
    hidden_s: float = 0.0  # of the exchange, while this member did something else


class Stopwatch:
    """Seconds by phase since the last round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._mark = time.perf_counter()

    def lap(self, phase: str | None) -> float:
        """Give the time since the last lap to `phase`, or to nobody; returns it."""
        now = time.perf_counter()
        took, self._mark = now - self._mark, now
        if phase is not None:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + took
        return took

    def take(self) -> dict[str, float]:
        """The laps so far, and start again."""
        taken, self.seconds = dict.fromkeys(PHASES, 0.0) | self.seconds, {}
        return taken


@dataclass
class Engine:
    """Runs rounds over a group and records them."""

    group: Group
    aggregate: Aggregator
    ledger: Ledger
    plan_id: int
    watch: Stopwatch = field(default_factory=Stopwatch)

    def round(self, job: Job) -> Generator[Pending, None, Outcome | None]:
        """Send, yield while the exchange is under way, then check and aggregate; None when the round failed for everybody.

        A failed round is already in the ledger; `settle` records the others once their update is applied.
        """
        # Sums on the way are means: an aggregator of the user's own has to see every payload.
        usual = self.aggregate in (mean, contributors) and not self.group.elastic
        reduce = not job.said and usual and all(f.plan.codec.summable for f in job.fragments)
        said = torch.frombuffer(bytearray(job.said), dtype=torch.uint8) if job.said else torch.empty(0, dtype=torch.uint8)
        payload = torch.cat([*(message.payload.cpu() for message in job.messages), said])
        flags = (ABSTAIN if job.abstain else 0) | (LEAVING if job.leaving else 0)
        self.watch.lap("encode")
        note = Note(flags, job.steps, job.state)
        pending = self.group.start(RoundKey(0, job.round, 0), payload, plan=self.plan_id, note=note, reduce=reduce)
        self.watch.lap("exchange")
        yield pending
        away = self.watch.lap("compute")  # whoever resumes at once was not away
        exchange = pending.wait()
        self.watch.lap("exchange")
        self.ledger.carry(pending.sent_nbytes, pending.received_nbytes)
        if exchange is None:
            self._record(job, None, pending.error or "the exchange failed", missing=dict(pending.missing))
            return None
        outcome = self._sum(job, exchange) if reduce else self._decode(job, exchange)
        counted = self.group.rank in outcome.members and not job.abstain
        if counted and self.group.elastic:  # who has come back follows rounds that counted what it had brought before
            counted = torch.equal(exchange.payloads[exchange.members.index(self.group.rank)], payload)
        self.watch.lap("decode")
        return replace(outcome, counted=counted, hidden_s=min(away, exchange.seconds))

    def settle(self, job: Job, outcome: Outcome, residual_norm: float = 0.0) -> None:
        """Record a round whose update has been applied (or that had none)."""
        self.watch.lap("apply")
        idle = job.leaving and outcome.all_leaving and not outcome.rejected
        error = None if outcome.members or idle else f"no payload counts: {outcome.rejected}"
        self._record(job, outcome, error, residual_norm=residual_norm)

    def fail(self, round: int, steps: int, error: str) -> None:
        """Record a round that could not even begin."""
        self._record(Job((), (), round, steps), None, error)

    def _decode(self, job: Job, exchange: Exchange) -> Outcome:
        sizes = [*(fragment.plan.nbytes for fragment in job.fragments), len(job.said)]
        sent: dict[int, list[Tensor]] = {}
        said = b""
        rejected = _rejected(exchange)
        odd = _odd(exchange, self.group.rank, job.state) if self.group.elastic else ()
        for member, payload in zip(exchange.members, exchange.payloads, strict=True):
            *parts, last = payload.split(sizes)
            parts = [part.to(message.payload.device) for part, message in zip(parts, job.messages, strict=True)]
            told = last.numpy().tobytes()
            if member in odd:
                rejected[member] = "its replica differs from those of the majority"
            elif all(sound(f.plan, part) for f, part in zip(job.fragments, parts, strict=True)) and (not told or job.sound(told)):
                said = said or told
                sent[member] = parts
            else:
                rejected[member] = "payload: a row that no encoder of this plan can have made"
        updates = None
        if sent:
            each = zip(job.fragments, zip(*sent.values(), strict=True), strict=True)
            updates = [combine(fragment, payloads, self.aggregate) for fragment, payloads in each]
        return Outcome(exchange, updates, tuple(sent), rejected, self._all_leaving(exchange), said=said, odd=odd)

    def _sum(self, job: Job, exchange: Exchange) -> Outcome:
        """The group has added the payloads in member order: only the division is left."""
        if not exchange.members:
            return Outcome(exchange, None, (), _rejected(exchange), self._all_leaving(exchange))
        average = exchange.payloads[0].clone().view(torch.float32) / float(len(exchange.members))
        parts = average.split([fragment.numel for fragment in job.fragments])
        updates: list[Update] = [Plain(part.to(message.payload.device)) for part, message in zip(parts, job.messages, strict=True)]
        return Outcome(exchange, updates, exchange.members, _rejected(exchange), self._all_leaving(exchange))

    def _all_leaving(self, exchange: Exchange) -> bool:
        """Whether every member has said that it is done."""
        # Members that come and go take theirs from what was decided: by now the group may be another.
        members = {*exchange.members, *exchange.skipped} if self.group.elastic else self.group.members
        return bool(members) and all(member in exchange.notes and exchange.notes[member].flags & LEAVING for member in members)

    def _record(
        self,
        job: Job,
        outcome: Outcome | None,
        error: str | None,
        *,
        missing: dict[int, str] | None = None,
        residual_norm: float = 0.0,
    ) -> None:
        exchange = outcome.exchange if outcome else None
        peers = len(exchange.notes) if exchange else len(self.group.members)
        ring = 2 * (peers - 1) / max(peers, 1)
        dense = int(ring * sum(fragment.dense_nbytes for fragment in job.fragments)) if outcome and outcome.members else 0
        payload = 0
        if exchange and (exchange.members or not exchange.reduced):  # a sum of nobody's moves headers only
            nbytes = sum(fragment.plan.nbytes for fragment in job.fragments)
            payload = int((ring if exchange.reduced else peers - 1) * nbytes)
        sent, received = self.ledger.take_carried()
        self.ledger.record(
            RoundInfo(
                member=self.group.rank,
                round=job.round,
                epoch=exchange.key.epoch if exchange else 0,
                members=outcome.members if outcome else (),
                missing=missing or {},
                error=error,
                payload_sent=payload,
                payload_received=payload,
                wire_sent=sent,
                wire_received=received,
                dense_nbytes=dense,
                ratio=dense / sent if sent else 0.0,
                seconds=self.watch.take(),
                residual_norm=residual_norm,
                delta_norm=job.delta_norm,
                rejected=outcome.rejected if outcome else {},
                steps=job.steps,
                state_hash=job.state or None,
                hidden_s=outcome.hidden_s if outcome else 0.0,
            )
        )


def _odd(exchange: Exchange, me: int, mine: int) -> tuple[int, ...]:
    """Whose hash is not that of most members; of two halves the one with the lowest member is right.

    A member that the round went on without is in no note; it compares itself.
    """
    states = {member: note.state for member, note in sorted(exchange.notes.items()) if note.state}
    counts = list(states.values())
    agreed = max(dict.fromkeys(counts), key=counts.count, default=mine)
    if mine:
        states.setdefault(me, mine)
    return tuple(member for member, state in states.items() if state != agreed)


def _rejected(exchange: Exchange) -> dict[int, str]:
    """Whose payload does not count, and why; members that only wait for the others to finish had none to count."""
    why = dict(exchange.skipped)
    for member, note in exchange.notes.items():
        if note.flags & ABSTAIN and note.flags & LEAVING and not note.steps:
            why.pop(member, None)
        elif note.flags & ABSTAIN:
            why[member] = "its numbers were not finite (NaN, Inf or above 2^100): it abstained"
    return why
