"""A node for a while: of somebody who looks on, or who helps others to find each other."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.node import Node
from thinwire.comms.swarm.p2pd import DaemonOptions


@contextmanager
def key_file(given: Path | None) -> Iterator[Path]:
    """The file given, or one with a fresh key for as long as it is needed."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="thinwire-") as folder:
        path = Path(folder) / "identity.key"
        Identity.generate().save(path)
        yield path


@asynccontextmanager
async def standing(key: Path | None, peers: Sequence[str], options: DaemonOptions) -> AsyncIterator[Node]:
    """A node that is up. Raises `PeerError` when it cannot be."""
    with key_file(key) as path:
        node = Node(path, initial_peers=peers, options=options)
        await node.start()
        try:
            yield node
        finally:
            await node.close()


def visitor(peers: Sequence[str], key: Path | None) -> contextlib.AbstractAsyncContextManager[Node]:
    """The node of somebody who only asks: nobody looks anything up through it."""
    return standing(key, peers, DaemonOptions(client_mode=True, port_map=False, relays=None))


async def interrupted() -> None:
    """Wait for Ctrl-C, or for SIGTERM."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    try:
        await over.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
