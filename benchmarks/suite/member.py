"""The worker's side of a fleet: measure what the parent asks for, one row after the other, in step with the other workers.

    parent: row          worker: prepares, warms up    -> {"ready": seconds of a round}
    parent: {}           worker                        -> {"counts": of the kernel}
    parent: {"rounds"}   worker: does them             -> {"seen": ...}
    parent: {}           worker                        -> {"counts": of the kernel}
    parent: {}           worker                        -> {"checked": ...}

Each waits for the others between any two lines: bytes belong to the rounds if they are counted when nobody has begun and when all have
ended (a worker that is done may hold bytes in its socket that others wait for). One JSON line each over a pair of sockets, which no network
interface counts. When the parent is gone, the worker ends.
"""

import gc
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from typing import Any, Protocol

import torch

from benchmarks.suite.counters import Counts, read_counts


class Part(Protocol):
    """One worker's part in one row."""

    def prepare(self) -> float:
        """Make everything and warm up; returns the seconds a round takes."""
        ...

    def run(self, rounds: int) -> Any:
        """Measure so many rounds; returns what JSON can carry."""
        ...

    def check(self) -> Any:
        """What came out, and whether it is right."""
        ...


class Idle:
    """The part of a worker that a row does not need."""

    def prepare(self) -> float:
        return 0.0

    def run(self, rounds: int) -> None:
        return None

    def check(self) -> None:
        return None


def serve(part_of: Callable[[dict[str, Any]], Part]) -> None:
    """Answer the parent at the socket of number $FLEET_SOCKET until it hangs up; `part_of(row)` makes this worker's part."""
    torch.set_num_threads(1)
    interface = os.environ.get("FLEET_INTERFACE", "")

    def counts() -> Counts:
        return read_counts(interface) if interface else Counts()

    with socket.socket(fileno=int(os.environ["FLEET_SOCKET"])) as line, line.makefile("rwb") as wire:

        def say(**message: Any) -> None:
            wire.write(json.dumps(message).encode() + b"\n")
            wire.flush()

        def hear() -> Any:
            told = wire.readline()
            if not told:
                raise EOFError
            return json.loads(told)

        with suppress(EOFError):
            say(rank=int(os.environ["RANK"]))
            while True:
                part = part_of(hear())
                say(ready=part.prepare())
                hear()
                say(counts=astuple(counts()))
                say(seen=part.run(hear()["rounds"]))
                hear()
                say(counts=astuple(counts()))
                hear()
                say(checked=part.check())
                del part
                gc.collect()  # tensors of the last row, before those of the next
