"""Real nodes on loopback, in an event loop that a whole test module shares."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.node import Node
from thinwire.comms.swarm.p2pd import Daemon, DaemonOptions
from thinwire.comms.swarm.transport import Transport

LOOPBACK = DaemonOptions(listen=("/ip4/127.0.0.1/tcp/0",), port_map=False)
T = TypeVar("T")


class Diary:
    """What happened at a node, in order, and a way to wait for it."""

    def __init__(self, node: Transport) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self._more = asyncio.Event()
        node.on_up = lambda peer: self.note("up", peer)
        node.on_down = lambda peer: self.note("down", peer)
        node.on_message = lambda peer, message: self.note(peer, message)

    def note(self, *line: Any) -> None:
        self.lines.append(line)
        self._more.set()

    async def until(self, *line: Any, times: int = 1) -> None:
        while self.lines.count(line) < times:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 30)


class World:
    """An event loop and the nodes in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = asyncio.new_event_loop()
        self.nodes: list[Node] = []

    def run(self, scene: Coroutine[Any, Any, T]) -> T:
        return self.runner.run_until_complete(asyncio.wait_for(scene, 60))

    def node(self, identity: Identity | None = None, **options: Any) -> Node:
        """A node that is not started."""
        identity = identity or Identity.generate()
        path = self.folder / f"{identity.key.hex()}"
        if not path.exists():
            identity.save(path)
        node = Node(path, **({"options": LOOPBACK} | options))
        self.nodes.append(node)
        return node

    def close(self) -> None:
        self.run(_close(self.nodes))
        self.runner.run_until_complete(end(asyncio.all_tasks(self.runner)))  # hivemind's
        self.runner.run_until_complete(self.runner.shutdown_default_executor())
        self.runner.close()


def p2pd_pid(daemon: Daemon) -> int:
    """The process that the guard guards."""
    return int(Path(f"/proc/{daemon.guard_pid}/task/{daemon.guard_pid}/children").read_text().split()[0])


async def _close(nodes: list[Node]) -> None:
    await asyncio.gather(*(node.close() for node in nodes))
