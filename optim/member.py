"""An optimizer as a member of its group: how it meets the others, and how a round begins, waits and ends."""

import logging
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from math import hypot
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from thinwire.comms import wire
from thinwire.comms.codec import Codec
from thinwire.comms.door import RefusedError, SnapshotError
from thinwire.comms.group import Group, Pending
from thinwire.comms.wire import RoundKey
from thinwire.optim import agree, checks
from thinwire.optim.aggregate import Aggregator
from thinwire.optim.clock import Clock
from thinwire.optim.elastic import Entrance
from thinwire.optim.engine import IDLE, Engine, Job, Outcome
from thinwire.optim.ledger import Ledger
from thinwire.optim.members import refuse_ddp, resolve
from thinwire.optim.message import Message, norm, silent
from thinwire.optim.replica import Replica
from thinwire.optim.shards import refuse_mixture

log = logging.getLogger("thinwire")

_FOREVER_S = 1e6  # threads cannot wait for infinity


class Member(Optimizer):
    """What `Synchronised` builds on: one group, one round at a time."""

    _codec: Codec
    _aggregate: Aggregator
    _given_group: Any
    _initial: str
    _verify_every: int
    _ledger: Ledger
    _clock: Clock
    _replicas: list[Replica]
    _engine: Engine | None
    _group: Group | None
    _entrance: Entrance  # where members come and go
    _flight: Generator[Pending, None, Outcome | None] | None  # the round under way
    _pending: Pending | None  # what it waits for
    _launched: int  # the steps of this member when it began
    _late: bool  # a step has stopped waiting for it
    _saving: bool  # a checkpoint ends it: the weights may be saved already
    _begun: bool
    _closed: bool
    _refused: bool
    _warned_alone: bool

    # -- the beginning ---------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Have one replica a parameter group; groups may be added at any time, but where members come and go before the first step."""
        for i, group in enumerate(self.param_groups):
            if i < len(self._replicas):
                if not self._replicas[i].fits(group["params"]):
                    raise agree.ConfigError(
                        f"the shapes of parameter group {i} changed after training began; add parameters with add_param_group"
                    )
                continue
            if self._entrance.entered:
                raise agree.ConfigError(
                    f"parameter group {i} was added after this member entered {self._group}: the members there hold the groups that the "
                    "run began with. Add it before the first step, or start a run of another name from this one's weights"
                )
            checks.dtypes(self._named_parameters())
            checks.warn_of_frozen(i, group["params"])
            refuse_mixture(i, group["params"])
            self._replicas.append(self._new_replica(group["params"]))
            self._begun = False

    def _claim_state(self) -> None:
        """torch.distributed.checkpoint takes a step with an optimizer whose state is empty: after the first step ours is not."""
        if not self.state and self._clock.steps:
            for group in self.param_groups:
                self.state.update({p: {} for p in group["params"]})

    def _begin(self) -> bool:
        """Agree with the members before the first round; False while alone or when the network failed (it is tried again)."""
        self._lay_out()
        if self._begun and self._group is not None and self._group.astray is not None and self._flight is None:
            self._begun = False
        if self._begun or self._closed:
            return self._begun and self._group is not None and not self._closed
        if self._group is None:
            self._group = resolve(self._given_group)
        if self._group is None or (len(self._group.members) < 2 and not self._group.elastic):
            return False
        if self._refused or self._group.error is not None:
            return False
        refuse_ddp(self._group, [p for group in self.param_groups for p in group["params"]])
        lines = self._door_lines()
        self._engine = Engine(self._group, self._aggregate, self._ledger, agree.plan_id(lines))
        sent, received = self._group.sent_nbytes, self._group.received_nbytes
        try:
            met = self._enter() if self._group.elastic else self._meet(lines)
        except agree.ConfigError:
            self._refused = True
            raise
        finally:
            self._ledger.carry(self._group.sent_nbytes - sent, self._group.received_nbytes - received)
        if not met:
            return False
        self._begun = self._clock.met = True
        self._engine.watch.lap(None)
        if self._group.elastic:
            self._entrance.offer(self._group)
            self._catch_up()
        return True

    def _meet(self, lines: list[str]) -> bool:
        """Compare settings and initial values with members that all begin together."""
        assert self._group is not None
        fresh = self._initial == "member0" and not self._clock.met
        values = [] if fresh else [f"initial value of {n}: {agree.tensor_hash(t):016x}" for n, t in self._shared_tensors()]
        return agree.agree(self._group, lines + values) and (not fresh or self._take_member0())

    def _enter(self) -> bool:
        """Found the run, or take the state of those that have begun."""
        assert self._group is not None
        try:
            (self._group.rejoin if self._entrance.entered else self._group.enter)(self._entrance)
        except RefusedError as error:
            raise agree.ConfigError(str(error)) from None
        except SnapshotError as error:  # a peer's fault must not end the training
            log.warning("the state that this member was given is not of its plan: %s; it tries again", error)
            return False
        if self._group.error is not None or self._group.astray is not None:
            return False
        self._entrance.entered, self._entrance.restored = True, False
        return True

    def _catch_up(self) -> None:
        """Follow the rounds that the others have decided without this member; its own work waits."""
        assert self._group is not None
        while self._flight is None and self._group.is_ahead(self._clock.round):
            behind = self._clock.round
            self._start(idle=True)
            self._land()
            if self._clock.round == behind:
                return

    def _door_lines(self) -> list[str]:
        """What all members must have in common: settings and layout."""
        settings: dict[str, object] = {
            "method": type(self).__name__,
            "wire version": wire.VERSION,
            "codec": self._codec,
            "aggregate": getattr(self._aggregate, "__name__", repr(self._aggregate)),
            "verify_every": self._verify_every,
        }
        if self._elastic():
            settings["carried"] = sorted(self._entrance.carried)
        else:
            settings |= {"initial": self._initial, "round": self._clock.round}
        settings |= self._settings()
        return [f"{name} = {value!r}" for name, value in settings.items()] + list(self._tensor_lines())

    def _elastic(self) -> bool:
        """Whether members come and go: learning rates and rounds are then what the run has come to, not what all begin with."""
        return bool(getattr(self._given_group, "elastic", False))

    def _tensor_lines(self) -> Iterator[str]:
        for name, p in self._named_parameters():
            yield f"tensor {name} {tuple(p.shape)} {p.dtype}"

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for i, group in enumerate(self.param_groups):
            names = group.get("param_names") or [f"parameter {j} of group {i}" for j in range(len(group["params"]))]
            yield from zip(names, group["params"], strict=True)

    def _take_member0(self) -> bool:
        """Give every member the first one's weights."""
        assert self._engine is not None and self._group is not None
        leader = self._group.rank == min(self._group.members)
        for i, replica in enumerate(self._replicas):
            source = replica.gather(self.param_groups[i]["params"]).cpu()
            mine = source if leader else torch.zeros_like(source)
            key = RoundKey(0, 0, 0xFFFF0000 + i)
            exchange = self._group.start(key, mine.view(torch.uint8), plan=self._engine.plan_id, reduce=True).wait()
            if exchange is None:
                return False
            replica.put(self.param_groups[i]["params"], exchange.payloads[0].clone().view(torch.float32))
        return True

    # -- a round ---------------------------------------------------------------------------------------------------------------

    def _sync(self, *, leaving: bool = False) -> Outcome | None:
        """Run one round to its end; None when it failed for everybody."""
        self._start(leaving=leaving)
        return self._finish()

    @_disable_dynamo(recursive=True)
    @torch.no_grad()
    def _start(self, *, leaving: bool = False, idle: bool = False) -> None:
        """Begin a round, up to where it waits for the others; never blocks."""
        assert self._engine is not None and self._group is not None
        if self._clock.round == 0:  # frameworks may have wrapped the model after the first step
            refuse_ddp(self._group, [p for group in self.param_groups for p in group["params"]])
        self._engine.watch.lap("compute")
        self._flight, self._late = self._round(leaving=leaving, idle=idle), False
        self._launched = self._clock.steps
        self._pending = next(self._flight)

    @_disable_dynamo(recursive=True)
    @torch.no_grad()
    def _finish(self, *, saving: bool = False) -> Outcome | None:
        """End the round under way; None when it failed for everybody, or there is none. While `saving` no weight moves."""
        flight, outcome, self._flight = self._flight, None, None
        self._saving = saving
        try:
            while flight is not None:
                next(flight)
        except StopIteration as end:
            outcome = end.value
        finally:
            self._drop_flight()
        if outcome is not None and self._group is not None and self._group.elastic:
            self._entrance.offer(self._group)
        return outcome

    def _drop_flight(self) -> None:
        """Have no round under way, however it ended."""
        self._flight, self._pending, self._late = None, None, False
        for replica in self._replicas:
            replica.touch_down()

    def _land(self) -> None:
        """Have no round under way, and weights that have followed the last one."""
        self._finish()

    def _is_decided(self, patience_s: float | None = None) -> bool:
        """Whether the round under way is decided; waits as long as a step should, but once."""
        if self._pending is None or self._group is None or not self._group.elastic:
            return True  # the round ends at its deadline
        if patience_s is None:
            patience_s = 0.0 if self._late else self._group.patience_s
        decided = self._pending.ready(min(patience_s, _FOREVER_S))
        self._late = not decided
        return decided

    def _is_delivered(self) -> bool:
        """Whether the others have counted this member's payload in a round that ended without an outcome here."""
        return self._group is not None and self._group.elastic and self._pending is not None and self._pending.delivered

    def _clock_aloft(self) -> Clock:
        """The clock if the round under way counts: what a checkpoint says that cannot wait for it."""
        if not any(replica.aloft for replica in self._replicas):
            return self._clock  # the round carries nothing of this member
        since = self._clock.steps - self._launched
        return replace(self._clock, window=since, open=since > 0, behind=True)

    def _job(self, messages: list[Message] | None, source: str, *, steps: int, leaving: bool, **said: Any) -> Job:
        """What this member brings to a round; without messages it only waits, and where its `source` is not finite it abstains."""
        abstain: str | None = IDLE
        if messages is not None:
            finite = all(message.finite for message in messages)
            abstain = None if finite else f"NaN, Inf or numbers above 2^100 in the {source}"
        return Job(
            fragments=[replica.fragment for replica in self._replicas],
            messages=[silent(r.fragment, r.device) for r in self._replicas] if abstain or messages is None else messages,
            round=self._clock.round,
            steps=steps,
            abstain=abstain,
            leaving=leaving,
            state=self._state_hash(),
            delta_norm=hypot(*(message.norm for message in messages or ())),
            **said,
        )

    def _settle(self, job: Job, outcome: Outcome) -> None:
        """Tell the ledger of a round that is applied, with the norm of what this member still holds."""
        assert self._engine is not None and self._group is not None
        if outcome.counted:
            norms = [message.kept_norm for message in job.messages]
        else:
            norms = [norm([replica.residual]) for replica in self._replicas if replica.residual is not None]
        self._engine.settle(job, outcome, hypot(*norms))

    def _exchange(self, job: Job) -> Generator[Pending, None, Outcome | None]:
        """A round of the engine, with the state hashes of the members compared."""
        assert self._engine is not None and self._group is not None
        outcome = yield from self._engine.round(job)
        if outcome is None:
            return None
        states = {member: note.state for member, note in outcome.exchange.notes.items() if note.state}
        if len(set(states.values())) > 1 and not self._group.elastic:
            names, tensors = zip(*self._shared_tensors(), strict=True)
            raise agree.explain(self._group, states, names, tensors)
        if self._group.rank in outcome.odd:
            self._begun = False  # the others go on; this member takes their state before its next step
            self._engine.fail(job.round, job.steps, "this replica differs from those of the majority: it takes their state again")
            return None
        return outcome

    def _state_hash(self) -> int:
        """A hash of what members share, in the rounds that verify; else 0."""
        if self._clock.round % self._verify_every:
            return 0
        return agree.plan_id([f"{agree.tensor_hash(tensor):016x}" for _, tensor in self._shared_tensors()])

    def _record_no_meeting(self) -> None:
        """A round was due, but members have not yet compared what they start from."""
        if self._engine is not None:
            self._engine.fail(self._clock.round, self._clock.window, "the members could not compare their settings: the network failed")

    def _is_alone(self) -> bool:
        """Whether there is nobody to exchange with, now and later; that a group has ended is said once."""
        if self._group is None:
            return True
        ended = "this optimizer was closed" if self._closed else self._group.error if self._begun else None
        if ended and not self._warned_alone:
            self._warned_alone = True
            log.warning("training goes on alone: %s", ended)
        return ended is not None or (len(self._group.members) < 2 and not self._group.elastic)

    def _leave(self) -> None:
        self._closed = True
        group = self._given_group if self._elastic() else self._group
        if group is not None and (group is not self._given_group or group.elastic):
            group.leave()

    # -- what a method defines -------------------------------------------------------------------------------------------------

    def _round(self, *, leaving: bool, idle: bool) -> Generator[Pending, None, Outcome | None]:
        """One round; a member that is `idle` brings nothing and only follows."""
        raise TypeError(f"{type(self).__name__} defines no _round")

    def _settings(self) -> dict[str, object]:
        raise TypeError(f"{type(self).__name__} defines no _settings")

    def _new_replica(self, params: list[Tensor]) -> Replica:
        raise TypeError(f"{type(self).__name__} defines no _new_replica")

    def _shared_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What is identical on all members after every round, by name."""
        raise TypeError(f"{type(self).__name__} defines no _shared_tensors")

    def _agreed_tensors(self) -> dict[str, Tensor]:
        """What is identical on all members after every round, all that a newcomer needs; live, and the same names everywhere."""
        raise TypeError(f"{type(self).__name__} defines no _agreed_tensors")

    def _adopt(self, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        """Set the agreed tensors; with `keep` what this member has not delivered stays on top, else it is forgotten."""
        raise TypeError(f"{type(self).__name__} defines no _adopt")
