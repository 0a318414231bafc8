"""What the operating system and the lab say that a worker moved, and what it took: from construction on, pauses left out."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from benchmarks.lab.control import Control
from benchmarks.suite.counters import read_counts


class Moved(Struct, frozen=True):
    """Bytes: at the interface, and as the lab's relay counts them on the wire (None where there is no relay)."""

    sent: int
    received: int
    wire_sent: int | None = None
    wire_received: int | None = None

    def since(self, before: "Moved") -> "Moved":
        wire = [
            None if now is None or then is None else now - then
            for now, then in ((self.wire_sent, before.wire_sent), (self.wire_received, before.wire_received))
        ]
        return Moved(self.sent - before.sent, self.received - before.received, *wire)


class Meter:
    """Counters of one interface of this process's namespace, and of region `region` of the lab that it runs in, if any."""

    def __init__(self, interface: str, region: int) -> None:
        self._interface, self._region = interface, region
        self._control = Control.from_env() if "THINWIRE_LAB" in os.environ else None
        self._before = self._now()
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def moved(self) -> Moved:
        return self._now().since(self._before)

    def sent(self) -> int:
        """At the interface alone: cheap enough to ask during training."""
        return read_counts(self._interface).sent - self._before.sent

    def cpu_s(self) -> float:
        """Of this process, its threads included."""
        return time.process_time() - self._cpu

    def wall_s(self) -> float:
        return time.perf_counter() - self._wall

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens here takes no time."""
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self._cpu += time.process_time() - cpu
            self._wall += time.perf_counter() - wall

    def _now(self) -> Moved:
        seen = read_counts(self._interface)
        if self._control is None:
            return Moved(seen.sent, seen.received)
        counts = self._control.ask("counts")[self._region]
        return Moved(seen.sent, seen.received, counts["nbytes"], counts["received"])
