"""What every optimizer of this package shares: its group, clock, ledger and checkpoint; a method adds only its own `_round`."""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from thinwire.comms import wire
from thinwire.comms.codec import Codec
from thinwire.comms.group import Group, Pending
from thinwire.comms.recipes import codec as named_codec
from thinwire.comms.rounds import LATE
from thinwire.comms.wire import RoundKey
from thinwire.optim import agree, checks
from thinwire.optim.aggregate import Aggregator, aggregator
from thinwire.optim.checkpoint import our_numbers, saved_names, split_ours
from thinwire.optim.clock import Clock
from thinwire.optim.engine import Engine, Job, Outcome
from thinwire.optim.ledger import Ledger, RoundInfo, Stats
from thinwire.optim.members import ALONE, refuse_ddp, resolve
from thinwire.optim.replica import PREFIX, Replica

log = logging.getLogger("thinwire")

OnRound = Callable[[RoundInfo], None]
S = TypeVar("S", bound="Synchronised")


class Synchronised(Optimizer):
    """An optimizer whose members exchange compressed updates; see `DiLoCo` and `DeMo`.

    Subclasses call `_set_up` once, then `_sync` when a round is due, and define `_round`, `_settings`, `_new_replica` and `_inner_*`.
    """

    def _set_up(
        self,
        *,
        codec: str | Codec,
        group: Any,
        aggregate: str | Aggregator | None,
        initial: str,
        on_round: OnRound | None,
        log: str | Path | None,
        verify_every: int,
    ) -> None:
        checks.on_round(on_round)
        checks.group(group)
        if initial not in ("equal", "member0"):
            raise ValueError(f"initial is {initial!r}; choose 'equal' (checked) or 'member0' (its weights are taken)")
        verify_every = checks.positive("verify_every", verify_every)
        self._codec = named_codec(codec)
        self._aggregate = aggregator(aggregate or ("contributors" if self._codec.sparse else "mean"))
        self._given_group, self._initial, self._verify_every = group, initial, verify_every
        self._ledger = Ledger(on_round, log)
        self._clock = Clock()
        self._replicas: list[Replica] = []
        self._engine: Engine | None = None
        self._group: Group | None = None
        self._flight: Generator[Pending, None, Outcome | None] | None = None  # the round under way
        self._begun = self._closed = self._refused = self._warned_alone = False
        checks.dtypes(self._named_parameters())

    # -- what a user sees ------------------------------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """Rounds the group has agreed on."""
        return self._clock.round

    @property
    def global_step(self) -> int:
        """Steps this member has taken."""
        return self._clock.steps

    @property
    def group(self) -> Group | None:
        """The members it exchanges with, or None while it trains alone."""
        return self._group

    def stats(self) -> Stats:
        """Totals of the ledger."""
        return self._ledger.stats()

    def close(self, timeout_s: float = 600.0) -> None:
        """Announce leaving, flush the last partial window, and answer the others until everybody leaves: replicas end identical.

        Members that are alive but behind are waited for, at most `timeout_s`. Never raises because of the network; a second call does
        nothing.
        """
        if self._closed:
            return
        self._land()
        failures, give_up = 0, time.monotonic() + timeout_s
        while not self._refused and failures < 2 and time.monotonic() < give_up:
            begun = self._begin()
            if self._group is None or self._is_alone():
                break
            outcome = self._sync(leaving=True) if begun else None
            if outcome is not None and outcome.all_leaving:
                break
            # Every round ends at its deadline, and a group that lost a member forms anew once. Who is only late is waited for.
            if outcome is not None:
                failures += len(outcome.exchange.notes) < len(self._group.members)
            else:
                last = self._ledger.stats().last
                failures += not (begun and last and LATE in last.missing.values())
        self._leave()

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        # After an error in the training loop there is nothing worth flushing, and the others must not wait for us.
        self._leave()
        if self._group is not None:
            self._group.leave()

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state with ours merged in: `thinwire.*` tensors a parameter, `thinwire.*` numbers a group.

        Complete: anchor, outer momentum, residual and counters resume bit for bit, also in the middle of a window. Every member saves its
        own. Tensors are views of the live state, as torch's are. A round under way is waited for: its outcome is part of the state.
        """
        self._lay_out()
        self._finish()
        for pre in self._optimizer_state_dict_pre_hooks.values():
            pre(self)
        saved = self._inner_state_dict()
        index = 0
        for group, replica in zip(saved["param_groups"], self._replicas, strict=True):
            group.update({PREFIX + name: value for name, value in self._clock.export().items()})
            group[PREFIX + "codec"] = repr(self._codec)
            for tensors in replica.export():
                # A new dict: what the inner optimizer gives are its live ones.
                saved["state"][index] = saved["state"].get(index, {}) | tensors
                index += 1
        for post in self._optimizer_state_dict_post_hooks.values():
            saved = post(self, saved) or saved
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or a checkpoint of the plain inner optimizer (which starts a new run from its weights).

        Our float32 tensors stay float32 and on their device, whatever the dtype of the parameters. A round under way ends first: the
        others count on this member.
        """
        self._finish()
        for pre in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre(self, state_dict) or state_dict
        ours, clean = split_ours(state_dict)
        if clean["state"] and not any(ours.values()):
            log.warning("the checkpoint holds no state of thinwire (a plain optimizer's?): a new run starts from its weights")
        self._inner_load_state_dict(clean)
        self._lay_out()
        self._clock.restore(our_numbers(state_dict))
        self._begun = False  # members compare notes again before the next round
        self._claim_state()
        # As in torch, saved parameters are matched by their order in the groups: their keys may be indices or names.
        for replica, group, names in zip(self._replicas, self.param_groups, saved_names(state_dict), strict=True):
            saved = [ours.get(name, {}) for name in names]
            same_codec = our_numbers(state_dict).get("codec") == repr(self._codec)
            unfit = replica.restore(saved, same_codec=same_codec, behind=self._clock.behind)
            if unfit and any(saved):
                log.warning("checkpoint of other settings: %s starts anew", ", ".join(unfit))
            if "anchor" in unfit:
                replica.take_anchor(group["params"])
        for post in self._optimizer_load_state_dict_post_hooks.values():
            post(self)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but live handles, and without the `step` that LR schedulers plant: a copy trains alone until given a group."""
        state = self.__dict__.copy()
        for name in ("step", "_engine", "_group", "_given_group", "_ledger", "_flight"):
            state.pop(name, None)
        for name in [name for name in state if name.startswith("_optimizer_") and name.endswith("_hooks")]:
            del state[name]  # as torch's own
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state:
            self._engine = self._group = self._flight = None
            self._ledger = Ledger()
            self._begun = False
            self._given_group = ALONE
        super().__setstate__({})

    # -- the beginning ---------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Have one replica a parameter group; groups may be added at any time."""
        for i, group in enumerate(self.param_groups):
            if i < len(self._replicas):
                if not self._replicas[i].fits(group["params"]):
                    raise agree.ConfigError(
                        f"the shapes of parameter group {i} changed after training began; add parameters with add_param_group"
                    )
                continue
            checks.dtypes(self._named_parameters())
            checks.warn_of_frozen(i, group["params"])
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
        if self._begun or self._closed:
            return self._begun and self._group is not None and not self._closed
        if self._group is None:
            self._group = resolve(self._given_group)
        if self._group is None or len(self._group.members) < 2:
            return False
        if self._refused or self._group.error is not None:
            return False
        refuse_ddp(self._group, [p for group in self.param_groups for p in group["params"]])
        lines = [f"{name} = {value!r}" for name, value in self._plan_settings().items()] + list(self._tensor_lines())
        self._engine = Engine(self._group, self._aggregate, self._ledger, agree.plan_id(lines))
        fresh = self._initial == "member0" and not self._clock.met
        values = [] if fresh else [f"initial value of {n}: {agree.tensor_hash(t):016x}" for n, t in self._shared_tensors()]
        sent, received = self._group.sent_nbytes, self._group.received_nbytes
        try:
            met = agree.agree(self._group, lines + values) and (not fresh or self._take_member0())
        except agree.ConfigError:
            self._refused = True
            raise
        finally:
            self._ledger.carry(self._group.sent_nbytes - sent, self._group.received_nbytes - received)
        if not met:
            return False
        self._begun = self._clock.met = True
        self._engine.watch.lap(None)
        return True

    def _plan_settings(self) -> dict[str, object]:
        return {
            "method": type(self).__name__,
            "wire version": wire.VERSION,
            "codec": self._codec,
            "aggregate": getattr(self._aggregate, "__name__", repr(self._aggregate)),
            "initial": self._initial,
            "verify_every": self._verify_every,
            "round": self._clock.round,
        } | self._settings()

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
    def _start(self, *, leaving: bool = False) -> None:
        """Begin a round, up to where it waits for the others; never blocks."""
        assert self._engine is not None and self._group is not None
        if self._clock.round == 0:  # frameworks may have wrapped the model after the first step
            refuse_ddp(self._group, [p for group in self.param_groups for p in group["params"]])
        self._engine.watch.lap("compute")
        self._flight = self._round(leaving=leaving)
        next(self._flight)

    @_disable_dynamo(recursive=True)
    @torch.no_grad()
    def _finish(self) -> Outcome | None:
        """End the round under way; None when it failed for everybody, or there is none."""
        flight, self._flight = self._flight, None
        try:
            while flight is not None:
                next(flight)
        except StopIteration as end:
            outcome: Outcome | None = end.value
            return outcome
        return None

    def _land(self) -> None:
        """Have no round under way, and weights that have followed the last one."""
        self._finish()

    def _exchange(self, job: Job) -> Generator[Pending, None, Outcome | None]:
        """A round of the engine, with the state hashes of the members compared."""
        assert self._engine is not None and self._group is not None
        outcome = yield from self._engine.round(job)
        if outcome is not None:
            states = {member: note.state for member, note in outcome.exchange.notes.items() if note.state}
            if len(set(states.values())) > 1:
                names, tensors = zip(*self._shared_tensors(), strict=True)
                raise agree.explain(self._group, states, names, tensors)
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
        return ended is not None or len(self._group.members) < 2

    def _leave(self) -> None:
        self._closed = True
        if self._group is not None and self._group is not self._given_group:
            self._group.leave()

    # -- what a method defines -------------------------------------------------------------------------------------------------

    def _round(self, *, leaving: bool) -> Generator[Pending, None, Outcome | None]:
        raise TypeError(f"{type(self).__name__} defines no _round")

    def _settings(self) -> dict[str, object]:
        raise TypeError(f"{type(self).__name__} defines no _settings")

    def _new_replica(self, params: list[Tensor]) -> Replica:
        raise TypeError(f"{type(self).__name__} defines no _new_replica")

    def _shared_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What is identical on all members after every round, by name."""
        raise TypeError(f"{type(self).__name__} defines no _shared_tensors")

    def _inner_state_dict(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} defines no _inner_state_dict")

    def _inner_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} defines no _inner_load_state_dict")
