"""hivemind, imported when it is needed and not before, and without what its import does to a process.

The import takes seconds, warns, adds a log handler, renames a log level for everybody, fixes the start method of multiprocessing and
changes how torch shares tensors between processes; afterwards all that is as it was.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Hive:
    """What we use of hivemind; it has no types of its own."""

    version: str
    p2pd: Path  # the libp2p daemon that comes with it
    P2P: Any
    PeerID: Any
    Multiaddr: Any
    messages: Any  # the protobufs that p2pd speaks
    dht: Any  # the module of DHTNode
    storage: Any
    routing: Any
    timed_storage: Any
    serializer: Any
    msgpack: Any


@cache
def hive() -> Hive:
    """hivemind; raises `ImportError` with the remedy when it is not installed."""
    try:
        with _undone():
            top = import_module("hivemind")
            daemon = import_module("hivemind.p2p.p2p_daemon")
            return Hive(
                version=top.__version__,
                p2pd=Path(str(top.__file__)).parent / "hivemind_cli" / "p2pd",
                P2P=daemon.P2P,
                PeerID=daemon.PeerID,
                Multiaddr=daemon.Multiaddr,
                messages=import_module("hivemind.proto.p2pd_pb2"),
                dht=import_module("hivemind.dht.node"),
                storage=import_module("hivemind.dht.storage"),
                routing=import_module("hivemind.dht.routing"),
                timed_storage=import_module("hivemind.utils.timed_storage"),
                serializer=import_module("hivemind.utils.serializer"),
                msgpack=import_module("msgpack"),
            )
    except ImportError as error:
        raise ImportError(f"the swarm needs hivemind ({error}): pip install 'thinwire[swarm]'") from error


@contextmanager
def _undone() -> Iterator[None]:
    """Put back what the import changes."""
    import multiprocessing

    import torch.multiprocessing as sharing

    how, name, start = (
        sharing.get_sharing_strategy(),
        logging.getLevelName(logging.WARNING),
        multiprocessing.get_start_method(allow_none=True),
    )
    log = logging.getLogger("hivemind")
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    sharing.set_sharing_strategy(how)
    logging.addLevelName(logging.WARNING, name)
    if start is None:
        multiprocessing.set_start_method(None, force=True)
    log.handlers[:], log.propagate = handlers, propagate
    if "HIVEMIND_LOGLEVEL" not in os.environ:
        log.setLevel(level or logging.ERROR)
