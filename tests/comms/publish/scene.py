"""A publisher and subscribers in one process, and weights that move as in training."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import torch
from torch import Tensor

from thinwire.comms.publish.publisher import Publisher
from thinwire.comms.publish.subscriber import Subscriber
from thinwire.comms.publish.weights import NamedTensors, snapshot
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.memory import MemoryNode, Network

RUN = "run"


def play(scene: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 60) -> None:
    asyncio.run(asyncio.wait_for(scene(), timeout_s))


def model(numel: int = 3000, seed: int = 0) -> dict[str, Tensor]:
    """Two matrices, an odd vector, a scalar and nothing at all."""
    generator = torch.Generator().manual_seed(seed)
    side = int((numel / 2) ** 0.5)
    shapes: dict[str, tuple[int, ...]] = {"up": (side, side), "down": (side, side), "bias": (7,), "scale": (), "empty": (0, 3)}
    return {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}


def moved(tensors: dict[str, Tensor], by: float = 1e-5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)  # not the weights' own numbers
    return {name: t + by * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}


def holds(subscriber: Subscriber | Publisher, tensors: NamedTensors) -> bool:
    """Whether it holds the bfloat16 of these tensors, bit for bit."""
    held = subscriber.weights()
    if held is None:
        return False
    return torch.equal(snapshot(held[1]).flat.view(torch.int16), snapshot(tensors).flat.view(torch.int16))


class Cast:
    """Who takes part: members of a network in one process."""

    def __init__(self, **publisher: Any) -> None:
        self.network = Network()
        self.identity = Identity.from_seed(bytes(32))
        self.options = publisher
        self.node: MemoryNode
        self.publisher: Publisher
        self.subscribers: list[Subscriber] = []
        self.nodes: list[MemoryNode] = []

    async def publish_from_here(self) -> Publisher:
        self.node = self.network.node(self.identity.key)
        await self.node.start()
        self.publisher = Publisher(self.node, RUN, identity=self.identity, **self.options)
        await self.publisher.start()
        return self.publisher

    async def join(self, *, follow: bool = False, **options: Any) -> Subscriber:
        """A subscriber that knows the members before it."""
        node = self.network.node(bytes([len(self.nodes) + 1]) * 32)
        await node.start()
        defaults: dict[str, Any] = {"poll_s": 0.05, "patience_s": 0.3, "peers": [each.key for each in self.nodes]}
        subscriber = Subscriber(node, RUN, publishers=[self.identity.key], **(defaults | options))
        await subscriber.start(follow=follow)
        self.subscribers.append(subscriber)
        self.nodes.append(node)
        return subscriber

    async def end(self) -> None:
        for subscriber in self.subscribers:
            await subscriber.close()
        await self.publisher.close()
        for node in self.nodes:
            await node.close()
        await self.node.close()
