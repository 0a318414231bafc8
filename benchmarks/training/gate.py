"""A line that nobody crosses before everybody has come to it: so that clocks start, and connections end, together."""

import os
from datetime import timedelta

from torch.distributed import TCPStore

PATIENCE = timedelta(hours=2)  # the launcher ends a run that hangs


class Gate:
    """Of this run's workers, over a store that worker 0 holds; no bytes move between two crossings."""

    def __init__(self) -> None:
        env = os.environ
        self._workers = int(env["WORLD_SIZE"])
        self._store = TCPStore(
            env["MASTER_ADDR"], int(env["GATE_PORT"]), is_master=env["RANK"] == "0", timeout=PATIENCE, wait_for_workers=False
        )

    def cross(self, name: str, word: str = "") -> bool:
        """Come to the line of this name, and cross it with the last; whether all came with the same word."""
        self._store.add(f"{name}/{word}", 1)
        if self._store.add(f"{name}/here", 1) == self._workers:
            self._store.set(f"{name}/open", b"1")
        self._store.wait([f"{name}/open"])
        same = self._store.add(f"{name}/{word}", 0) == self._workers
        if self._store.add(f"{name}/gone", 1) == self._workers:
            self._store.set(f"{name}/empty", b"1")
        return same

    def hold(self, name: str) -> None:
        """Worker 0 keeps the store until everybody has crossed."""
        self._store.wait([f"{name}/empty"])
