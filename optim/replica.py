"""One parameter group as the group of members sees it: its layout, anchor, outer momentum and residual."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thinwire.comms.codec import Codec
from thinwire.optim.fragment import Fragment, gather_flat, local

PREFIX = "thinwire."


class Replica:
    """The tensors that a method keeps for some parameters; `anchor` and `momentum` are `(numel,)`, `residual` `(rows, chunk)`, float32."""

    def __init__(self, params: Sequence[Tensor], codec: Codec, *, anchor: bool, momentum: bool, residual: bool) -> None:
        self.fragment = Fragment([local(p).shape for p in params], codec)
        device = local(params[0]).device if params else torch.device("cpu")
        self.anchor = gather_flat(params) if anchor else None
        self.momentum = torch.zeros(self.fragment.numel, device=device) if momentum else None
        plan = self.fragment.plan
        self.residual = torch.zeros((plan.rows, plan.chunk), device=device) if residual else None

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
        for value, param in zip(self.fragment.split(flat), params, strict=True):
            local(param).detach().copy_(value)

    def put_anchor(self, params: Sequence[Tensor], offset: Tensor | None = None) -> None:
        """Set the parameters to the anchor, or to anchor - offset."""
        assert self.anchor is not None
        values = self.anchor if offset is None else self.anchor - offset
        for value, param in zip(self.fragment.split(values), params, strict=True):
            local(param).detach().copy_(value)

    def export(self) -> list[dict[str, Tensor]]:
        """For each parameter its part of every tensor, as views under `thinwire.` keys."""
        parts: dict[str, list[Tensor]] = {}
        if self.anchor is not None:
            parts["anchor"] = self.fragment.split(self.anchor)
        if self.momentum is not None:
            parts["momentum"] = self.fragment.split(self.momentum)
        if self.residual is not None:
            parts["residual"] = self.fragment.split_matrix(self.residual)
        count = len(self.fragment.shapes)
        return [{PREFIX + name: views[i] for name, views in parts.items()} for i in range(count)]

    def restore(self, saved: Sequence[Mapping[str, Tensor]]) -> list[str]:
        """Copy exported tensors back, in float32 on this replica's device; returns the names of those that do not fit or are absent."""
        unfit = set()
        for mine, theirs in zip(self.export(), saved, strict=True):
            for name, view in mine.items():
                value = theirs.get(name)
                if value is None or value.numel() != view.numel():
                    unfit.add(name.removeprefix(PREFIX))
                else:
                    view.copy_(value.reshape(view.shape))
        if "residual" in unfit and self.residual is not None:
            self.residual.zero_()  # part of another codec's residual is worth nothing
        return sorted(unfit)
