"""Which group an optimizer exchanges with, and what must not be wrapped around it."""

from typing import Any

import torch
from torch import Tensor

from thinwire.comms.group import Group
from thinwire.optim.agree import ConfigError

ALONE = object()  # the group of a copied optimizer


def resolve(group: Any) -> Group | None:
    """A `Group` from itself, a `ProcessGroup`, a one-dimensional `DeviceMesh`, or, given None, the torchrun environment."""
    from thinwire.comms.meeting import in_environment
    from thinwire.comms.torch_group import TorchGroup

    if group is None:
        return TorchGroup.from_env() if in_environment() else None
    if group is ALONE:
        return None
    if isinstance(group, Group):
        return group
    if hasattr(group, "get_group") and hasattr(group, "mesh_dim_names"):
        return TorchGroup(group.get_group())
    return TorchGroup(group)


def refuse_ddp(group: Group, params: list[Tensor]) -> None:
    """Raise `ConfigError` when a live DDP model holds these parameters over two or more of our members.

    It would all-reduce every gradient over the link that we are to save.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    import gc

    from torch.nn.parallel import DistributedDataParallel

    ours = {id(p) for p in params}
    members = set(getattr(group, "global_ranks", None) or group.members)
    for wrapped in gc.get_objects():
        if DistributedDataParallel not in type(wrapped).__mro__ or not any(id(p) in ours for p in wrapped.parameters()):
            continue
        ranks = torch.distributed.get_process_group_ranks(wrapped.process_group)
        if len(members.intersection(ranks)) > 1:
            raise ConfigError(
                f"the model is wrapped in DistributedDataParallel over ranks {ranks}, which are members of this WAN group: every "
                "gradient would cross the link. Pass the bare model, or give DDP only the ranks of one region (process_group=...)"
            )
