"""One parameter group as the group of members sees it: its layout, anchor, outer momentum and residual."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thinwire.comms.codec import Codec
from thinwire.kernels import dispatch
from thinwire.kernels.vector import all_finite
from thinwire.optim.fragment import Fragment, gather_flat, is_sharded, local
from thinwire.optim.gate import Gate
from thinwire.optim.message import Message, encode
from thinwire.optim.shards import PADDING, exported, part_of

PREFIX = "thinwire."


class Replica:
    """The tensors that a method keeps for some parameters; `anchor`, `base` and `momentum` are `(numel,)`, `residual` `(rows, chunk)`,
    float32. `base`, where there is one, is what the parameters were when their work was last delivered: they have yet to follow the
    anchor. With `overlaps` it is part of every checkpoint.

    While a round is under way, `mark` is what the parameters were when it began (None where they have not changed since), and `aloft`
    the message of this member that it carries.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        codec: Codec,
        *,
        anchor: bool,
        momentum: bool,
        residual: bool,
        overlaps: bool = False,
        gate: Gate | None = None,
    ) -> None:
        self.fragment = Fragment([local(p).shape for p in params], codec)
        self.device = device = local(params[0]).device if params else torch.device("cpu")
        self.anchor = gather_flat(params) if anchor else None
        self.momentum = torch.zeros(self.fragment.numel, dtype=torch.float32, device=device) if momentum else None
        plan = self.fragment.plan
        self.residual = dispatch.residual(plan.rows, plan.chunk, device) if residual else None
        self.base: Tensor | None = None
        self.mark: Tensor | None = None
        self.aloft: Message | None = None
        self._overlaps = overlaps
        self._gate = gate
        self._spare: Tensor | None = None

    def encode(self, tensors: Sequence[Tensor], *, decay: float) -> Message:
        """The message of `tensors` (of anchor - tensors where there is an anchor) and the residual; nothing changes until `keep`."""
        if self._gate is not None:
            return encode(self.fragment, tensors, anchor=self.anchor, held=self.residual, decay=decay, gate=self._gate)
        if self._spare is None and self.residual is not None:
            self._spare = dispatch.residual(self.fragment.plan.rows, self.fragment.plan.chunk, self.residual.device)
        return encode(self.fragment, tensors, anchor=self.anchor, held=self.residual, spare=self._spare, decay=decay)

    def keep(self, residual: Tensor | None) -> None:
        """Take the residual of a message; the memory of the one before is for the next."""
        if residual is not None:
            self.residual, self._spare = residual, None if self._gate else self.residual

    def fits(self, params: Sequence[Tensor]) -> bool:
        """Whether the layout is still that of these parameters."""
        return tuple(local(p).shape for p in params) == self.fragment.shapes

    def take_anchor(self, params: Sequence[Tensor]) -> None:
        """Start a window: keep the agreed anchor where the parameters still hold it, take theirs where they were loaded anew.

        Parameters shorter than float32 hold a rounded anchor; taking it back from them would lose what the rounding cut off.
        """
        assert self.anchor is not None
        for held, param in zip(self.fragment.split(self.anchor), params, strict=True):
            value = local(param).detach()
            if not torch.equal(held.to(value.dtype), value):
                held.copy_(value)

    def gather(self, params: Sequence[Tensor]) -> Tensor:
        """The parameters as `(numel,)` float32."""
        return gather_flat(params)

    def put(self, params: Sequence[Tensor], flat: Tensor) -> None:
        """Set the parameters, and the anchor where there is one, from `(numel,)` float32."""
        if self.anchor is not None:
            self.anchor.copy_(flat)
        self._put(params, flat)

    def put_anchor(self, params: Sequence[Tensor]) -> None:
        """Set the parameters to the anchor."""
        assert self.anchor is not None
        self._put(params, self.anchor)

    def follow_anchor(self, params: Sequence[Tensor]) -> None:
        """Set the parameters to the anchor, with what they changed since their base (if there is one) on top."""
        if self.base is not None:
            assert self.anchor is not None
            self._put(params, self.anchor - (self.base - self.gather(params)))
            self.base = None

    def set_mark(self, params: Sequence[Tensor]) -> None:
        """The parameters are about to change while a round is under way."""
        if self.mark is None:
            self.mark = self.gather(params)

    def touch_down(self) -> None:
        """No round is under way any more."""
        self.mark = self.aloft = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mark": None, "aloft": None}  # a copy takes no part in the round under way

    def adopt(self, params: Sequence[Tensor], anchor: Tensor, momentum: Tensor | None, *, keep: bool) -> None:
        """Set anchor and momentum; with `keep` the parameters follow with what is not delivered on top, else that is forgotten.

        Work that is not finite is worth nothing.
        """
        assert self.anchor is not None
        base = self.anchor.clone() if self.base is None else self.base
        self.anchor.copy_(anchor)
        if self.momentum is not None and momentum is not None:
            self.momentum.copy_(momentum)
        keep = keep and all_finite(base - self.gather(params))
        self.base = base if keep else None
        if keep:
            self.follow_anchor(params)
        else:
            self.put_anchor(params)

    def forget(self) -> None:
        """Nothing is left to deliver."""
        if self.residual is not None:
            self.residual.zero_()

    def _put(self, params: Sequence[Tensor], flat: Tensor) -> None:
        for value, param in zip(self.fragment.split(flat), params, strict=True):
            local(param).detach().copy_(value)

    def export(self, params: Sequence[Tensor], *, aloft: bool = False) -> list[dict[str, Tensor]]:
        """For each parameter its part of every tensor under `thinwire.` keys; a residual in two places of its matrix is copied.

        Of sharded parameters the parts are sharded alike (`thinwire.optim.shards`), so that torch.distributed.checkpoint saves all of them.
        With `aloft` as if the round under way had counted what it carries and moved nothing: base and residual are those after it.
        """
        if aloft and self.aloft is not None:
            held, landed = (self.base, self.residual), (self.mark, self.aloft.kept)
            try:
                self.base, self.residual = landed
                return self.export(params)
            finally:
                self.base, self.residual = held
        places = self._places()
        if self._overlaps and self.base is None:  # members and moments differ in whether there is one; the keys of checkpoints must not
            assert self.anchor is not None
            places["base"] = [[view] for view in self.fragment.split(self.anchor.clone())]
        parts = [{name: _joined(views[i]) for name, views in places.items()} for i in range(len(params))]
        codec = self.fragment.plan.codec
        if params and is_sharded(params[0]) and self.residual is not None and not codec.basis:
            parts[0][PADDING] = self._padding
        return [{PREFIX + name: t for name, t in exported(part, param, codec).items()} for part, param in zip(parts, params, strict=True)]

    @property
    def _padding(self) -> Tensor:
        """What is behind the parameters in a residual that has no basis: no zeros, where a codec sends something of every block."""
        assert self.residual is not None
        return self.residual.view(-1)[self.fragment.numel :]

    def _places(self) -> dict[str, list[list[Tensor]]]:
        """For each kind of tensor and each parameter, the views that hold it."""
        places: dict[str, list[list[Tensor]]] = {}
        if self.anchor is not None:
            places["anchor"] = [[view] for view in self.fragment.split(self.anchor)]
        if self.base is not None:
            places["base"] = [[view] for view in self.fragment.split(self.base)]
        if self.momentum is not None:
            places["momentum"] = [[view] for view in self.fragment.split(self.momentum)]
        if self.residual is not None:
            places["residual"] = self.fragment.split_matrix(self.residual)
        return places

    def restore(self, saved: Sequence[Mapping[str, Tensor]], *, same_codec: bool, behind: bool) -> list[str]:
        """Copy exported tensors back, in float32 on this replica's device; returns the names of those that do not fit or are absent.

        What another codec left, or has no counterpart, is worth nothing: it starts at zero. `behind` says whether there was a base.
        """
        self.base = torch.empty_like(self.anchor) if behind and self.anchor is not None else None
        unfit = set() if same_codec or self.residual is None else {"residual"}
        places = self._places()
        for i, theirs in enumerate(saved):
            for name, views in places.items():
                sizes = [view.numel() for view in views[i]]
                value = part_of(theirs, PREFIX + name, sum(sizes))
                if value is None:
                    unfit.add(name)
                    continue
                for view, part in zip(views[i], value.split(sizes), strict=True):
                    view.copy_(part.reshape(view.shape))
        if saved and self.residual is not None and not self.fragment.plan.codec.basis:
            padding = part_of(saved[0], PREFIX + PADDING, self._padding.numel())
            if padding is not None:
                self._padding.copy_(padding)
        for name, tensor in (("residual", self.residual), ("momentum", self.momentum)):
            if name in unfit and tensor is not None:
                tensor.zero_()
        if not unfit.isdisjoint(("anchor", "base")):
            self.base = None
        return sorted(unfit)


def _joined(views: Sequence[Tensor]) -> Tensor:
    """One tensor of some views; itself a view where only one has elements."""
    held = [view for view in views if view.numel()]
    return torch.cat(held) if len(held) > 1 else (held or views)[0]
