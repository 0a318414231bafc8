"""The worker's side of a fleet: measure what the parent asks for, one row after the other, in step with the other workers.

    parent: row          worker: prepares, warms up      -> {"ready": seconds of a round}
    parent: {"rounds"}   worker: counts, rounds, counts  -> {"seen": ..., "counts": ...}
    parent: {}           worker: checks                  -> {"checked": ...}

One JSON line each over a UNIX socket, which no network interface counts. When the parent is gone, the worker ends.
"""

import gc
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, Protocol

import torch

from benchmarks.suite.counters import Counts, read_counts

SETTLE_S = 0.05  # acknowledgements are delayed by at most 40 ms


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
    """Answer the parent at $FLEET_SOCKET until it hangs up; `part_of(row)` makes this worker's part."""
    torch.set_num_threads(1)
    interface, settle_s = os.environ.get("FLEET_INTERFACE", ""), SETTLE_S + 4 * float(os.environ.get("FLEET_RTT_S", "0"))

    def counts() -> Counts:
        return read_counts(interface) if interface else Counts()

    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ["FLEET_SOCKET"])
        with line.makefile("rwb") as wire:

            def say(**message: Any) -> None:
                wire.write(json.dumps(message).encode() + b"\n")
                wire.flush()

            say(rank=int(os.environ["RANK"]))
            while row := wire.readline():
                part = part_of(json.loads(row))
                say(ready=part.prepare())
                rounds = json.loads(wire.readline() or b"{}").get("rounds")
                if rounds is None:
                    return
                before = counts()
                seen = part.run(rounds)
                time.sleep(settle_s)  # what is still on its way belongs to these rounds
                say(seen=seen, counts=astuple(counts() - before))
                if not wire.readline():
                    return
                say(checked=part.check())
                del part
                gc.collect()  # tensors of the last row, before those of the next
