"""DiLoCo: many local steps, then one compressed exchange of what they changed (arXiv:2311.08105)."""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from thinwire.comms.codec import Codec
from thinwire.comms.group import Pending
from thinwire.kernels.vector import all_finite
from thinwire.optim import checks
from thinwire.optim.aggregate import Aggregator
from thinwire.optim.base import OnRound, Synchronised
from thinwire.optim.engine import IDLE, Job, Outcome
from thinwire.optim.fragment import local
from thinwire.optim.gate import Gate, built
from thinwire.optim.message import Message
from thinwire.optim.outer import SGD, OuterRule
from thinwire.optim.replica import Replica
from thinwire.optim.update import Update

log = logging.getLogger("thinwire")

DENSE_OUTER = SGD(lr=0.7, momentum=0.9, nesterov=True)
SPARSE_OUTER = SGD(lr=1.0)
DENSE_DECAY = 1.0
SPARSE_DECAY = 0.95


class DiLoCo(Synchronised):
    """Wraps a torch optimizer: it trains locally, and every `sync_every` steps members exchange pseudo-gradients.

        delta   = anchor - local                      what this window changed
        payload = encode(decay * residual + delta)    error feedback, select, quantise, pack
        anchor <- outer(anchor, aggregate(payloads))  the same bytes in the same order on every member
        local  <- anchor                              + what was learnt while the exchange was under way

    It is the inner optimizer to the outside: `param_groups`, `state` and `defaults` are the inner's own, so schedulers, scalers and
    clipping work unchanged. The anchor is kept in float32. Defaults follow the codec: Nesterov SGD (.7, .9) for dense ones, plain
    averaging with error feedback for sparse ones (momentum on top of error feedback diverges; under about 50 rounds Nesterov overshoots).

    - `sync_every`: inner steps a round.
    - `overlap`: inner steps taken while the exchange runs, 0 (wait for it) to sync_every - 1; costs one more copy of the weights.
    - `codec`: a name (`thinwire.comms.codec`) or a `chain(...)`.
    - `group`: a `Group`, a `ProcessGroup`, a one-dimensional `DeviceMesh`, or None for the torchrun environment (alone outside of it).
    - `outer_lr`, `outer_momentum`, `nesterov`: the outer SGD; or `outer(anchor, update, round) -> anchor` on `(numel,)` float32.
    - `decay`: of the residual between rounds; 1.0 loses nothing. Unused by the lossless codec.
    - `visible`: torch.bfloat16 (or float16): send only what changes the weights in that type, keep the rest in the residual
      (`thinwire.optim.gate`; PULSELoCo, arXiv:2602.03839). For learning rates around 1e-6, over a transport that codes zeros short (a
      `SwarmGroup`). Averages plainly (outer learning rate 1 unless given) with decay 1; not with momentum, a rule of one's own, a basis, or
      codecs without a zero (sign).
    - `aggregate`: "mean", "contributors", "clipped" (thinwire.optim.robust; the default where members come and go), "trimmed" or
      "median" (dense codecs only), or a function; sparse codecs default to contributors.
    - `initial`: "equal" checks that members start from the same weights, "member0" sends its weights to all. Where members come and go
      neither means anything: a newcomer takes the state of the run, whatever it starts from.
    - `on_round`, `log`: called with, and appended as JSON lines, each `RoundInfo`.
    - `verify_every`: rounds between comparisons of the replicas' hashes.

    Raises at construction for settings that cannot work, `ConfigError` at the first step when members do not match, `DivergenceError`
    when replicas differ. The network never raises out of `step`: a failed round keeps the window's work for the next one.

    In an elastic group (`thinwire.optim.elastic`) the first step of a newcomer is to take the state of the others; a round that is not
    decided in time stays in the air while training goes on, and lands below what was learnt meanwhile; a replica that differs takes the
    state of the majority, and nothing is raised. A rule of the user's own for `outer` must keep no state there, or `carry` it.

    >>> model = torch.nn.Linear(2, 2)
    >>> opt = DiLoCo(torch.optim.AdamW(model.parameters(), lr=1e-3), sync_every=50)
    >>> opt.step()
    """

    def __init__(
        self,
        inner: Optimizer,
        *,
        sync_every: int = 10,
        overlap: int = 0,
        codec: str | Codec = "blockmax",
        group: Any = None,
        outer_lr: float | None = None,
        outer_momentum: float | None = None,
        nesterov: bool | None = None,
        outer: OuterRule | None = None,
        decay: float | None = None,
        visible: torch.dtype | None = None,
        aggregate: str | Aggregator | None = None,
        initial: str = "equal",
        on_round: OnRound | None = None,
        log: str | Path | None = None,
        verify_every: int = 1,
    ) -> None:
        if not isinstance(inner, Optimizer):
            raise TypeError(f"DiLoCo wraps a torch.optim.Optimizer, got {type(inner).__name__}; construct the inner optimizer first")
        if isinstance(inner, Synchronised):
            raise TypeError(f"DiLoCo got a {type(inner).__name__}, which already exchanges updates; wrap a plain torch optimizer")
        self._inner = inner
        Optimizer.__setstate__(self, {})
        self._set_up(codec=codec, group=group, aggregate=aggregate, initial=initial, on_round=on_round, log=log, verify_every=verify_every)
        if self._codec.unitless:
            raise ValueError(f"{self._codec} sends votes, which say no size; DiLoCo needs one: choose sign or int values")
        self._sync_every = checks.positive("sync_every", sync_every)
        self._overlap = checks.overlap(overlap, self._sync_every)
        self._gate: Gate | None = None
        if visible is not None:
            self._gate = built(visible, self._codec, lr=outer_lr, momentum=outer_momentum, nesterov=nesterov, outer=outer, decay=decay)
            self._outer: SGD | OuterRule = SGD(self._gate.lr)
            self._decay = 1.0
            return
        self._outer = _outer_rule(self._codec, outer_lr, outer_momentum, nesterov, outer)
        if decay is None:
            decay = SPARSE_DECAY if self._codec.sparse else DENSE_DECAY
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; choose 0 (no error feedback) to 1 (nothing is forgotten)")
        self._decay = 0.0 if self._codec.summable else float(decay)

    # -- the inner optimizer, live ---------------------------------------------------------------------------------------------

    @property
    def inner(self) -> Optimizer:
        """The wrapped optimizer."""
        return self._inner

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._inner.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self._inner.param_groups = value

    @property
    def state(self) -> Any:
        return self._inner.state

    @state.setter
    def state(self, value: Any) -> None:
        self._inner.state = value

    @property
    def defaults(self) -> dict[str, Any]:
        return self._inner.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self._inner.defaults = value

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._inner.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; every member must add the same ones before its next step. A round under way ends first."""
        self._inner.add_param_group(param_group)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One inner step; after every `sync_every`-th an exchange with the members begins, which `overlap` steps later has ended.

        Returns what the inner step returns.
        """
        if self._allocating():
            self._lay_out()
            return self._inner.step(closure) if closure is not None else self._inner.step()
        self._open_window()
        arrived, self._entrance.arrived = self._entrance.arrived, False
        if arrived and closure is None:
            return None  # the gradient is of the weights that it came with
        loss = self._inner.step(closure) if closure is not None else self._inner.step()
        self._clock.tick()
        self._claim_state()
        since = self._clock.window % self._sync_every
        if since == 0:
            self._launch()
        if since >= self._overlap or self._late:
            self._land()
        return loss

    # -- a window --------------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Begin the round that is due."""
        self._land()  # a checkpoint of other settings may have left one behind
        if self._flight is not None:
            return  # it is late: what is learnt meanwhile waits for the next one
        if self._begin():
            self._is_alone()  # says once that the group has ended; the round then fails, and the ledger counts it
            self._catch_up()
            if self._flight is None and self._begun:
                self._start()
        elif self._is_alone():
            self._clock.forget_window()  # alone every step is agreed: whoever joins later starts from here
        else:
            self._record_no_meeting()

    def _land(self) -> None:
        """End the round under way, if there is one, and let the weights follow; one that is late stays, and lands at a later step."""
        if self._flight is not None:
            if not self._is_decided():
                self._mark()
                return
            self._finish()
        if self._clock.behind:
            self._follow()

    @torch.no_grad()
    def _mark(self) -> None:
        """Keep what the weights are now that the round under way begins: they are about to change."""
        for replica, group in zip(self._replicas, self.param_groups, strict=False):
            replica.set_mark(group["params"])

    @torch.no_grad()
    def _open_window(self) -> None:
        """Take the anchor before the first step of a window: frameworks load weights after construction.

        Where members come and go it is theirs from the moment of entering: weights that are loaded later are work of this member.
        """
        known = len(self._replicas)
        self._lay_out()
        if self._entrance.entered:
            if self._group is not None:
                self._entrance.refresh(self._group)
        elif not self._clock.open and not self._clock.behind and self._flight is None:
            for replica, group in zip(self._replicas[:known], self.param_groups, strict=False):
                replica.take_anchor(group["params"])
        if not self._closed and (not self._begun or (self._group is not None and self._group.astray is not None)):
            self._begin()

    def _lay_out(self) -> None:
        if len(self._replicas) < len(self.param_groups):
            self._land()  # the round under way is about the groups it began with
        super()._lay_out()

    def _round(self, *, leaving: bool, idle: bool) -> Generator[Pending, None, Outcome | None]:
        groups = [group["params"] for group in self.param_groups]
        job = self._brought(groups, leaving=leaving, idle=idle)
        if job.abstain and job.abstain != IDLE:
            self._recover(groups)
        if self._overlap > 0 and not leaving:
            self._mark()
        before = self._clock.steps
        for replica, message in zip(self._replicas, job.messages, strict=True):
            replica.aloft = None if job.abstain else message
        outcome = yield from self._exchange(job)
        assert self._engine is not None and self._group is not None
        if outcome is None:
            self._miss()
            return None
        kept_work = not outcome.counted and job.abstain in (None, IDLE) and self._clock.open and not outcome.all_leaving
        if outcome.updates is not None:
            bases = [replica.mark for replica in self._replicas]
            if kept_work:  # nothing of it was delivered: it counts from the old anchor on
                bases = [replica.anchor.clone() for replica in self._replicas if replica.anchor is not None]
            self._apply(outcome.updates, groups, bases)
        if outcome.counted:
            for replica, message in zip(self._replicas, job.messages, strict=True):
                replica.keep(message.kept)
        since = self._clock.window if idle else self._clock.steps - before
        if self._clock.behind and not self._saving:
            self._follow()
        held_again = outcome.updates is None and not outcome.all_leaving and not self._group.elastic  # everybody abstained
        if not held_again:
            self._clock.next_round(since=since, open=kept_work)
        self._settle(job, outcome)
        return outcome

    def _brought(self, groups: list[list[Tensor]], *, leaving: bool, idle: bool) -> Job:
        """What this member brings to the round."""
        messages: list[Message] | None = None
        if not idle and (self._clock.open or not leaving):
            messages = [replica.encode(params, decay=self._decay) for replica, params in zip(self._replicas, groups, strict=True)]
        return self._job(messages, "pseudo-gradient", steps=0 if idle else self._clock.window, leaving=leaving)

    def _miss(self) -> None:
        """There is no outcome for this member: its work waits, unless it is told that the others have counted it."""
        if not self._is_delivered():
            return
        self._mark()
        for replica in self._replicas:
            if replica.aloft is not None:
                replica.keep(replica.aloft.kept)
                replica.base = replica.mark
        since = self._clock.steps - self._launched
        self._clock.window, self._clock.open, self._clock.behind = since, since > 0, True

    def _recover(self, groups: list[list[Tensor]]) -> None:
        """With NaN: the weights are the agreed ones again, and moments that hold NaN would spoil them at the next step."""
        for replica, params in zip(self._replicas, groups, strict=True):
            replica.put_anchor(params)
            for p in params:
                held = [value for value in self._inner.state.get(p, {}).values() if isinstance(value, Tensor)]
                if not all(all_finite(local(value).detach()) for value in held):
                    self._inner.state[p] = {}
                    log.warning("state of the inner optimizer was not finite for a parameter of shape %s: it starts anew", tuple(p.shape))
        self._clock.forget_window()

    def _apply(self, updates: Sequence[Update], groups: list[list[Tensor]], bases: Sequence[Tensor | None]) -> None:
        """Move the anchors, and the weights with them; weights that have a base stay, and follow later."""
        self._entrance.retire()
        held = [[local(p).detach() for p in params] for params in groups]
        moved = None
        if not isinstance(self._outer, SGD):
            anchors = [replica.anchor for replica in self._replicas if replica.anchor is not None]
            moved = [self._moved(anchor, u.flat(like)) for anchor, u, like in zip(anchors, updates, held, strict=True)]
        for i, (update, replica, base) in enumerate(zip(updates, self._replicas, bases, strict=True)):
            assert replica.anchor is not None
            targets = held[i] if base is None else [torch.empty_like(weight) for weight in held[i]]
            if isinstance(self._outer, SGD):
                update.apply(targets, self._outer.finish(replica.anchor, replica.momentum))
            elif moved is not None:
                replica.put(targets, moved[i])
            replica.base = base
        self._clock.behind = any(base is not None for base in bases)

    @_disable_dynamo(recursive=True)
    @torch.no_grad()
    def _follow(self) -> None:
        """Let weights that stayed behind follow their anchor, with what they learnt since their base on top.

            local <- anchor + (local - base)      base: the weights when the round began; the old anchor where their payload did not count

        Work up to the base is in the payload or in the residual, and work since then is all that anchor - local holds: every step is in
        one pseudo-gradient. This is the correction of Delayed Gradient Averaging (Zhu et al., NeurIPS 2021). Streaming DiLoCo mixes
        instead, alpha * local + (1 - alpha) * anchor (arXiv:2501.18512): the next pseudo-gradient, alpha * (anchor - base) - alpha *
        (local - base), then repeats a part of what was sent and lacks a part of what was learnt.
        """
        for replica, group in zip(self._replicas, self.param_groups, strict=False):
            replica.follow_anchor(group["params"])
        self._clock.behind = False

    def _moved(self, anchor: Tensor, update: Tensor) -> Tensor:
        """The anchor by the user's own outer rule."""
        assert not isinstance(self._outer, SGD)
        new = self._outer(anchor, update, self._clock.round)
        if new.shape != anchor.shape:
            raise ValueError(f"outer returned {tuple(new.shape)}; the new anchor has the anchor's {tuple(anchor.shape)}")
        return new

    def _allocating(self) -> bool:
        """Whether this is torch.distributed.checkpoint making state appear: a fresh optimizer, lr 0, all gradients zero."""
        if self._begun or self._clock.steps or self._inner.state or any(group.get("lr") != 0 for group in self.param_groups):
            return False
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return bool(grads) and not any(bool(grad.any()) for grad in grads)

    # -- what the base asks ----------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, object]:
        outer = self._outer if isinstance(self._outer, SGD) else getattr(self._outer, "__qualname__", type(self._outer).__name__)
        shown = {} if self._gate is None else {"visible": str(self._gate.dtype)}
        return {"sync_every": self._sync_every, "overlap": self._overlap, "decay": self._decay, "outer": outer} | shown

    def _new_replica(self, params: list[Tensor]) -> Replica:
        momentum = isinstance(self._outer, SGD) and self._outer.momentum > 0
        overlaps = self._overlap > 0 or self._elastic()  # a round may land late
        residual = self._decay > 0
        return Replica(params, self._codec, anchor=True, momentum=momentum, residual=residual, overlaps=overlaps, gate=self._gate)

    def _shared_tensors(self) -> Iterator[tuple[str, Tensor]]:
        anchors = [part for replica in self._replicas for part in replica.fragment.split(replica.anchor)]  # type: ignore[arg-type]
        # Groups that were added since the last step have no anchor yet; they are the last.
        return zip((name for name, _ in self._named_parameters()), anchors, strict=False)

    def _agreed_tensors(self) -> dict[str, Tensor]:
        held: dict[str, Tensor] = {}
        for i, replica in enumerate(self._replicas):
            assert replica.anchor is not None
            held[f"anchor.{i}"] = replica.anchor
            if replica.momentum is not None:
                held[f"momentum.{i}"] = replica.momentum
        return held

    @torch.no_grad()
    def _adopt(self, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        for i, (replica, group) in enumerate(zip(self._replicas, self.param_groups, strict=True)):
            work = keep and (self._clock.open or self._clock.behind)
            replica.adopt(group["params"], tensors[f"anchor.{i}"], tensors.get(f"momentum.{i}"), keep=work)
            if not keep:
                replica.forget()

    def _inner_state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    def _inner_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._inner.load_state_dict(state_dict)


def _outer_rule(codec: Codec, lr: float | None, momentum: float | None, nesterov: bool | None, outer: OuterRule | None) -> SGD | OuterRule:
    if outer is not None:
        if not callable(outer):
            raise TypeError(f"outer is {outer!r}; give a function outer(anchor, update, round) -> anchor")
        if (lr, momentum, nesterov) != (None, None, None):
            raise ValueError("give either outer= or outer_lr / outer_momentum / nesterov, not both")
        return outer
    default = SPARSE_OUTER if codec.sparse else DENSE_OUTER
    momentum = default.momentum if momentum is None else momentum
    if nesterov is None:
        nesterov = default.nesterov and momentum > 0
    return SGD(default.lr if lr is None else lr, momentum, nesterov)
