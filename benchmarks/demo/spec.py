"""What a peer of the demo is started with; the command imports neither the model nor hivemind for it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.chaos import specs
from benchmarks.chaos.net import Places

WORKER = "benchmarks.demo.worker"  # is imported once, by the process that the peers are forked from
SYNC_EVERY = 10  # steps of a round


@dataclass(frozen=True)
class Spec(specs.Spec):
    """`model_seed` is the same for all; `data_seed` is this incarnation's own."""

    model_seed: int
    data_seed: int


class Specs:
    """Makes specs: one key file a peer, text of its own for every incarnation."""

    def __init__(self, folder: Path, run: str, net: Places | None, seed: int) -> None:
        self._common = specs.Specs(folder, folder / "history", run, net, step_s=0.0, sync_every=SYNC_EVERY)
        self._seed, self._born = seed, count(1)

    def __call__(self, identity: str, *, peers: Sequence[str], place: int | None, fresh_key: bool, founds: bool) -> Spec:
        common = self._common(identity, peers=peers, place=place, fresh_key=fresh_key, founds=founds)
        return Spec(**asdict(common), model_seed=self._seed, data_seed=1000 * self._seed + next(self._born))


def peer(pipe: Connection, spec: Spec) -> None:
    """Train until told to leave."""
    from benchmarks.demo import worker

    worker.peer(pipe, spec)
