"""DeMo: an exchange every step, of what stands out in a momentum that is never synchronised (arXiv:2411.19870)."""

import logging
import struct
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thinwire.comms.codec import Codec
from thinwire.comms.group import Pending
from thinwire.kernels.finish import Step
from thinwire.optim.aggregate import Aggregator
from thinwire.optim.base import OnRound, Synchronised
from thinwire.optim.engine import IDLE, Job, Outcome
from thinwire.optim.fragment import local
from thinwire.optim.message import Message, norm, silent
from thinwire.optim.replica import Replica
from thinwire.optim.update import Update, combine

log = logging.getLogger("thinwire")

_STEP = struct.Struct("<dd")  # learning rate and weight decay of a group


class DeMo(Synchronised):
    """SGD on decoupled momentum: each step members exchange the strongest coefficients of what they have not sent yet.

        residual <- decay * residual + basis(gradient)
        payload   = encode(residual);  residual <- residual - decode(payload)
        p        <- p * (1 - lr * weight_decay) - lr * sign(basis^-1(aggregate(payloads)))

    The gradient must be this member's own: no DDP around the model. `DeMo(params, codec="dct-topk32")` is the published method with
    8-bit values; the defaults are the winner of benchmarks/training/sweep. Gradients enter with gain 1 (the published code folds the
    learning rate into the momentum; under `sign` only a changing schedule can tell).

    - `params`, `lr`, `weight_decay`: as in torch; groups may set their own.
    - `decay`: of the residual. `sign`: move by the sign of the update, else by the update itself.
    - `codec`, `group`, `aggregate`, `initial`, `on_round`, `log`, `verify_every`: as in `DiLoCo`.

    Raises like `DiLoCo`. A failed round moves no weight and keeps the gradient in the residual. In an elastic group every step waits until
    its round is decided: weights move by rounds only, so that there is nothing to go on with meanwhile.

    >>> model = torch.nn.Linear(2, 2)
    >>> opt = DeMo(model.parameters(), lr=1e-3)
    >>> opt.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        codec: str | Codec = "dct-blockmax64-vote",
        decay: float = 0.999,
        sign: bool = True,
        weight_decay: float = 0.0,
        group: Any = None,
        aggregate: str | Aggregator | None = None,
        initial: str = "equal",
        on_round: OnRound | None = None,
        log: str | Path | None = None,
        verify_every: int = 50,
    ) -> None:
        if not 0 <= lr < float("inf"):
            raise ValueError(f"lr is {lr}; choose a number >= 0")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; choose 0 (gradients only) to 1 (nothing is forgotten)")
        if not 0 <= weight_decay < float("inf"):
            raise ValueError(f"weight_decay is {weight_decay}; choose a number >= 0")
        Optimizer.__init__(self, params, {"lr": lr, "weight_decay": weight_decay})
        self._set_up(codec=codec, group=group, aggregate=aggregate, initial=initial, on_round=on_round, log=log, verify_every=verify_every)
        if self._codec.unitless and not sign:
            raise ValueError(f"{self._codec} sends votes, which say no size; choose sign=True, or sign or int values")
        self._decay, self._sign = float(decay), bool(sign)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Exchange and move; returns the closure's loss. Parameters without a gradient count as gradient zero."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._lay_out()
        if self._allocating():
            return loss
        begun = self._begin()
        if begun and self._group is not None and self._group.elastic:
            self._entrance.refresh(self._group)
            self._catch_up()
            begun = self._begin()  # once more if it has found that its replica differs
        arrived, self._entrance.arrived = self._entrance.arrived, False
        if arrived:
            return loss  # the gradient is of the weights that it came with
        self._clock.tick()
        self._claim_state()
        if self._is_alone():
            self._step_alone()
        elif begun:
            self._sync()
        else:
            self._hold()
        return loss

    def _round(self, *, leaving: bool, idle: bool) -> Generator[Pending, None, Outcome | None]:
        assert self._group is not None and self._engine is not None
        messages: list[Message] = []
        abstain: str | None = IDLE
        if not idle and not leaving:
            messages = self._messages()
            abstain = None if all(message.finite for message in messages) else "NaN, Inf or numbers above 2^100 in the gradient"
        norm_sent = hypot(*(message.norm for message in messages))
        if abstain:
            messages = [silent(r.fragment, r.residual.device) for r in self._replicas if r.residual is not None]
        job = Job(
            fragments=[replica.fragment for replica in self._replicas],
            messages=messages,
            round=self._clock.round,
            steps=0 if leaving or idle else self._clock.window,
            abstain=abstain,
            leaving=leaving,
            state=self._state_hash(),
            delta_norm=norm_sent,
            said=self._step_size(),
            sound=_can_step,
        )
        outcome = yield from self._exchange(job)
        counted = self._is_delivered() if outcome is None else self._group.rank in outcome.members
        if not abstain:
            for replica, message in zip(self._replicas, messages, strict=True):
                replica.keep(message.kept if counted else message.whole())
        if outcome is None:
            return None
        if outcome.updates is not None:
            self._move(outcome.updates, outcome.said)
        if outcome.updates is not None or outcome.all_leaving or self._group.elastic:
            self._clock.next_round(since=self._clock.window if idle else 0)
        norms = [m.kept_norm for m in messages] if counted else [norm([r.residual]) for r in self._replicas if r.residual is not None]
        self._engine.settle(job, outcome, hypot(*norms))
        return outcome

    def _messages(self) -> list[Message]:
        groups = [group["params"] for group in self.param_groups]
        return [replica.encode(_gradients(params), decay=self._decay) for replica, params in zip(self._replicas, groups, strict=True)]

    def _move(self, updates: Sequence[Update], said: bytes) -> None:
        """Take the step that all members take: learning rate and weight decay are those of the lowest member that counts.

        A scheduler that is a step ahead on one member must not make replicas differ.
        """
        self._entrance.retire()
        for update, group, (lr, decay) in zip(updates, self.param_groups, _STEP.iter_unpack(said), strict=True):
            update.apply([local(p).detach() for p in group["params"]], Step(lr, keep=1.0 - lr * decay, sign=self._sign))

    def _step_size(self) -> bytes:
        return b"".join(_STEP.pack(group["lr"], group["weight_decay"]) for group in self.param_groups)

    def _hold(self) -> None:
        """Members could not meet: the gradient waits in the residual."""
        self._record_no_meeting()
        for replica, message in zip(self._replicas, self._messages(), strict=True):
            if message.finite:
                replica.keep(message.whole())

    def _step_alone(self) -> None:
        """Without a group the same method runs on its own payload, so that one process behaves like a member."""
        messages = self._messages()
        if not all(message.finite for message in messages):
            log.warning("the gradient holds NaN, Inf or numbers above 2^100: no step is taken")
            return
        for replica, message in zip(self._replicas, messages, strict=True):
            replica.keep(message.kept)
        updates = [combine(r.fragment, [m.payload], self._aggregate) for r, m in zip(self._replicas, messages, strict=True)]
        self._move(updates, self._step_size())
        self._clock.next_round()

    def _allocating(self) -> bool:
        """Whether this is torch.distributed.checkpoint making state appear: a fresh optimizer, lr 0, all gradients zero."""
        if self._begun or self._clock.steps or any(group["lr"] != 0 for group in self.param_groups):
            return False
        return not any(bool(p.grad.any()) for group in self.param_groups for p in group["params"] if p.grad is not None)

    # -- what the base asks ----------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, object]:
        settings: dict[str, object] = {"decay": self._decay, "sign": self._sign}
        if not self._elastic():  # there a newcomer takes them from the others
            settings["lr and weight_decay of each group"] = [(float(g["lr"]), float(g["weight_decay"])) for g in self.param_groups]
        return settings

    def _new_replica(self, params: list[Tensor]) -> Replica:
        return Replica(params, self._codec, anchor=False, momentum=False, residual=True)

    def _shared_tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, local(p)) for name, p in self._named_parameters())

    def _agreed_tensors(self) -> dict[str, Tensor]:
        groups = [group["params"] for group in self.param_groups]
        return {f"parameter.{i}.{j}": local(p).detach() for i, params in enumerate(groups) for j, p in enumerate(params)}

    @torch.no_grad()
    def _adopt(self, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        for name, value in self._agreed_tensors().items():
            value.copy_(tensors[name])
        if not keep:
            for replica in self._replicas:
                replica.forget()

    def _inner_state_dict(self) -> dict[str, Any]:
        groups, index = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            groups.append({**group, "params": list(range(index, index + count))})
            index += count
        return {"state": {}, "param_groups": groups}

    def _inner_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["param_groups"]
        sizes = [[len(group["params"]) for group in groups] for groups in (self.param_groups, saved)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"checkpoint has parameter groups of {sizes[1]} parameters, this optimizer of {sizes[0]}")
        for group, values in zip(self.param_groups, saved, strict=True):
            group.update({name: value for name, value in values.items() if name != "params"})


def _gradients(params: Sequence[Tensor]) -> list[Tensor]:
    """The gradients that live here; zero where there is none."""
    return [torch.zeros_like(local(p)) if p.grad is None else _dense(local(p.grad)) for p in params]


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _can_step(said: bytes) -> bool:
    """Whether every learning rate and weight decay is a number that this optimizer takes."""
    return all(0 <= value < float("inf") for step in _STEP.iter_unpack(said) for value in step)
