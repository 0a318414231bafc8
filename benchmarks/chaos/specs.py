"""What a process of a run is started with, and as what; the parent imports neither torch's optimizers nor hivemind for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.chaos.net import Places

WORKER = "benchmarks.chaos.worker"  # is imported once, by the process that the others are forked from


@dataclass(frozen=True)
class Spec:
    """What a process needs: everything that it may touch lies in `folder` and `history`."""

    run: str
    identity: Path
    peers: tuple[str, ...]
    history: Path
    listen: str
    namespace: str | None
    step_s: float
    sync_every: int
    founds: bool


@dataclass(frozen=True)
class Specs:
    """Makes specs: one key file an identity, a new one where a fresh key is asked for."""

    folder: Path
    history: Path
    run: str
    net: Places | None
    step_s: float
    sync_every: int

    def __call__(self, identity: str, *, peers: Sequence[str], place: int | None, fresh_key: bool, founds: bool) -> Spec:
        key = self.folder / f"{identity}.key"
        if fresh_key:
            key.unlink(missing_ok=True)
        address = "127.0.0.1" if self.net is None or place is None else self.net.address(place)
        namespace = None if self.net is None or place is None else self.net.namespace(place)
        return Spec(self.run, key, tuple(peers), self.history, f"/ip4/{address}/tcp/0", namespace, self.step_s, self.sync_every, founds)


def member(pipe: Connection, spec: Spec) -> None:
    """Train until told to leave."""
    from benchmarks.chaos import worker

    worker.member(pipe, spec)


def bootstrap(pipe: Connection, spec: Spec) -> None:
    """Be a peer that is no member, until told to leave."""
    from benchmarks.chaos import worker

    worker.bootstrap(pipe, spec)
