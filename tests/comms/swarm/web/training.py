"""A small swarm that really trains, over a network inside the process, and its live page."""

import threading
import time
from typing import Any

import torch

import thinwire
from thinwire.comms.swarm.group import SwarmGroup
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.loop import LoopThread
from thinwire.comms.swarm.memory import Network
from thinwire.comms.swarm.web.live import keep
from thinwire.comms.swarm.web.server import Place, Site

RUN = "my-run"
PERIOD_S = 0.2


class Trainer:
    """A member in a thread of its own."""

    def __init__(self, net: Network, *, founds: bool = False, identity: Identity | None = None) -> None:
        self.identity = identity or Identity.generate()
        self.short = self.identity.key.hex()[:8]
        self._net, self._stop, self._killed = net, threading.Event(), False
        peers = None if founds else ["somebody"]
        self._group = SwarmGroup(RUN, peers, identity=self.identity, transport=lambda identity: net.node(identity.key))
        self._model = torch.nn.Linear(16, 16)
        inner = torch.optim.SGD(self._model.parameters(), lr=0.05)
        self._opt = thinwire.DiLoCo(inner, group=self._group, sync_every=4)
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(self.identity.key[0])
        try:
            while not self._stop.is_set():
                x = torch.randn(8, 16, generator=generator)
                loss = ((self._model(x) - x) ** 2).mean()
                self._opt.zero_grad()
                loss.backward()
                self._opt.step()
                self._group.tell(loss=loss.item())
                time.sleep(0.01)  # a step's work
            if not self._killed:
                self._opt.close(timeout_s=20)
        finally:
            self._group.leave()

    def leave(self) -> None:
        """In order."""
        self._stop.set()
        self._thread.join(30)

    def kill(self) -> None:
        """As kill -9: no word of leaving, no stream left."""
        self._killed = True
        self._net.kill(self.identity.key)
        self._stop.set()
        self._group.leave()  # its thread may wait for others
        self._thread.join(30)


class Shown:
    """The page of what a network holds."""

    def __init__(self, net: Network) -> None:
        self.site = Site(Place(port=0))
        self._loop = LoopThread("test-page")
        self._loop.submit(self._keep(net))

    async def _keep(self, net: Network) -> None:
        node = net.node(b"visitor." * 4)
        await node.start()
        await keep(self.site, node, RUN, period_s=PERIOD_S)

    def __enter__(self) -> Site:
        return self.site.__enter__()

    def __exit__(self, *about: Any) -> None:
        self._loop.close()
        self.site.__exit__(*about)
