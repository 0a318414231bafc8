"""Other people's code: the authors' DeMo, and torchft's DiLoCo."""

import importlib
import os
from contextlib import ExitStack
from datetime import timedelta

from benchmarks.training.methods.method import InProcessGroup, Method
from benchmarks.training.task import WEIGHT_DECAY, adamw, outer_sgd
from examples.multiregion.model import GPT

PATIENCE = timedelta(minutes=30)  # gloo's own: thin links are no fault here


class DeMoReference(InProcessGroup):
    """`demo.py` of github.com/bloc97/DeMo, when a checkout of it is on PYTHONPATH (it needs einops)."""

    def __init__(self, gpt: GPT, *, lr: float) -> None:
        super().__init__(gpt)
        self.opt = importlib.import_module("demo").DeMo(gpt.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)


class Torchft(Method):
    """`torchft.local_sgd.DiLoCo` over its ProcessGroupGloo, float32: each worker is a replica group with a store and a manager of its own.

    The launcher runs the lighthouse, whose address is in TORCHFT_LIGHTHOUSE; its traffic and the heartbeats are counted with the rest.
    """

    def __init__(self, gpt: GPT, *, sync_every: int, outer_lr: float, outer_momentum: float) -> None:
        super().__init__(gpt)
        from torch.distributed import TCPStore
        from torchft import Manager, ProcessGroupGloo
        from torchft.local_sgd import DiLoCo

        rank, workers, here = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["WORKER_ADDRESS"]
        self._store = TCPStore(here, 0, is_master=True, wait_for_workers=False)
        self._manager = Manager(
            pg=ProcessGroupGloo(timeout=PATIENCE),
            load_state_dict=gpt.load_state_dict,
            state_dict=gpt.state_dict,
            min_replica_size=workers,
            use_async_quorum=False,  # DiLoCo needs it so
            timeout=PATIENCE,
            quorum_timeout=PATIENCE,
            rank=0,
            world_size=1,
            store_addr=here,
            store_port=self._store.port,
            replica_id=f"worker{rank}",
            hostname=here,
            init_sync=False,  # all start from equal weights
        )
        self.opt = adamw(gpt)
        outer = outer_sgd(list(gpt.parameters()), outer_lr, outer_momentum)
        self._hooks = ExitStack()
        self._hooks.enter_context(DiLoCo(self._manager, [gpt], self.opt, outer, sync_every))

    def close(self) -> None:
        pass  # a step that ends a round ends with all replicas equal

    def leave(self) -> None:
        self._hooks.close()
        self._manager.shutdown(wait=False)
