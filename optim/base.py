"""What every optimizer of this package shares: what a user sees of it, and its checkpoint; a method adds only its own `_round`."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from thinwire.comms.codec import Codec
from thinwire.comms.group import Group
from thinwire.comms.recipes import codec as named_codec
from thinwire.comms.rounds import LATE
from thinwire.optim import checks
from thinwire.optim.aggregate import Aggregator
from thinwire.optim.checkpoint import our_numbers, saved_names, split_ours
from thinwire.optim.clock import Clock
from thinwire.optim.elastic import Entrance
from thinwire.optim.ledger import Ledger, RoundInfo, Stats
from thinwire.optim.member import Member
from thinwire.optim.members import ALONE
from thinwire.optim.replica import PREFIX
from thinwire.optim.robust import aggregator

log = logging.getLogger("thinwire")

OnRound = Callable[[RoundInfo], None]
S = TypeVar("S", bound="Synchronised")


class Synchronised(Member):
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
        self._given_group, self._initial, self._verify_every = group, initial, verify_every
        usual = "clipped" if self._elastic() else "contributors" if self._codec.sparse else "mean"
        self._aggregate = aggregator(aggregate or usual, self._codec)
        self._ledger = Ledger(on_round, log)
        self._clock = Clock()
        self._replicas = []
        self._engine = self._group = self._flight = self._pending = None
        self._entrance = Entrance(self)
        self._late = self._saving = self._begun = self._closed = self._refused = self._warned_alone = False
        checks.dtypes(self._named_parameters())

    # -- what a user sees ------------------------------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """Rounds the group has agreed on."""
        return self._clock.round

    @property
    def global_step(self) -> int:
        """Steps this member has taken; one that joined counts on from those of the member whose state it took."""
        return self._clock.steps

    @property
    def group(self) -> Group | None:
        """The members it exchanges with, or None while it trains alone."""
        return self._group

    def stats(self) -> Stats:
        """Totals of the ledger."""
        return self._ledger.stats()

    def carry(self, **things: Any) -> None:
        """Have objects such as LR schedulers travel with the state that a newcomer to an elastic group takes.

        Every member carries things of the same names. Learning rates and the other numbers of `param_groups` always travel. Raises
        `TypeError` for a state that is no plain JSON, `RuntimeError` after the first step.

        >>> import torch
        >>> from thinwire import DiLoCo
        >>> opt = DiLoCo(torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1))
        >>> opt.carry(scheduler=torch.optim.lr_scheduler.ExponentialLR(opt, 0.9))
        """
        if self._begun or self._entrance.entered:
            raise RuntimeError("carry() comes before the first step: members compare what they carry when they meet")
        self._entrance.carry(things)

    def close(self, timeout_s: float = 600.0) -> None:
        """Announce leaving, flush the last partial window, and answer the others until everybody leaves: replicas end identical.

        Members that are alive but behind are waited for, at most `timeout_s`. Where members come and go, this one leaves as soon as its
        last work counts, and the group with it; the others go on. Never raises because of the network; a second call does nothing.
        """
        if self._closed:
            return
        if self._elastic():
            self._flush(time.monotonic() + timeout_s)
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

    def _flush(self, give_up: float) -> None:
        """Deliver what is left to members that go on without this one; it gives up at `give_up` (monotonic)."""
        for attempt in range(4):
            if not self._is_decided(give_up - time.monotonic()):
                log.warning("round %d is not decided yet: this member leaves without knowing whether its work counts", self._clock.round)
                break
            self._land()
            if attempt == 3 or self._refused or not (self._clock.open and self._begin()) or self._is_alone():
                break
            self._catch_up()
            if self._flight is None and self._clock.open:
                self._start(leaving=True)
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
        Where that comes too late (an elastic group's may), what the round carries is left out, as if it counted: it may.
        """
        self._lay_out()
        clock, aloft = self._clock, not self._is_decided(self._group.patience_s if self._group else 0.0)
        if aloft:
            clock = self._clock_aloft()
        else:
            self._finish(saving=True)
        for pre in self._optimizer_state_dict_pre_hooks.values():
            pre(self)
        saved = self._inner_state_dict()
        index = 0
        for group, replica, held in zip(saved["param_groups"], self._replicas, self.param_groups, strict=True):
            group.update({PREFIX + name: value for name, value in clock.export().items()})
            group[PREFIX + "codec"] = repr(self._codec)
            for tensors in replica.export(held["params"], aloft=aloft):
                # A new dict: what the inner optimizer gives are its live ones.
                saved["state"][index] = saved["state"].get(index, {}) | tensors
                index += 1
        for post in self._optimizer_state_dict_post_hooks.values():
            saved = post(self, saved) or saved
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or a checkpoint of the plain inner optimizer (which starts a new run from its weights).

        Our float32 tensors stay float32 and on their device, whatever the dtype of the parameters. A round under way ends first: the
        others count on this member. In an elastic group the state of the others counts at the next step, and of this one what it holds
        of undelivered work, unless the group has gone on since it was saved.
        """
        if self._is_decided(self._group.patience_s if self._group else 0.0):
            self._finish(saving=True)
        self._drop_flight()
        self._entrance.retire()
        for pre in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre(self, state_dict) or state_dict
        ours, clean = split_ours(state_dict)
        if clean["state"] and not any(ours.values()):
            log.warning("the checkpoint holds no state of thinwire (a plain optimizer's?): a new run starts from its weights")
        self._inner_load_state_dict(clean)
        self._lay_out()
        self._clock.restore(our_numbers(state_dict))
        self._begun = False  # members compare notes again before the next round
        self._entrance.restored = True
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
        for name in ("step", "_engine", "_group", "_given_group", "_ledger", "_flight", "_pending", "_entrance"):
            state.pop(name, None)
        for name in [name for name in state if name.startswith("_optimizer_") and name.endswith("_hooks")]:
            del state[name]  # as torch's own
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state:
            self._engine = self._group = self._flight = self._pending = None
            self._ledger, self._entrance = Ledger(), Entrance(self)
            self._begun = self._late = False
            self._given_group = ALONE
        super().__setstate__({})

    # -- what a method defines -------------------------------------------------------------------------------------------------

    def _inner_state_dict(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} defines no _inner_state_dict")

    def _inner_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} defines no _inner_load_state_dict")
