"""A peer of the demo without a swarm: rounds come by the clock of the machine, and all hold the same unless told not to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

ROUND_S = 0.02


@dataclass(frozen=True)
class Toy:
    identity: str
    peers: tuple[str, ...]
    wrong: str = ""  # identity that ends with other weights
    fails: str = ""  # identity whose script has a bug


@dataclass(frozen=True)
class ToySpecs:
    wrong: str = ""
    fails: str = ""

    def __call__(self, identity: str, *, peers: Sequence[str], place: int | None, fresh_key: bool, founds: bool) -> Toy:
        assert founds == (not peers)
        return Toy(identity, tuple(peers), self.wrong, self.fails)


def toy(pipe: Connection, spec: Toy) -> None:
    pipe.send(("entering", [f"toy/{spec.identity}"]))
    pipe.send(("joined", time.monotonic(), 0.01, 1000))
    while pipe.recv() != ("go",):
        pass
    if spec.identity == spec.fails:
        pipe.send(("failed", "Traceback: the script has a bug"))
    steps, until = 0, None
    while True:
        round = int(time.monotonic() / ROUND_S)
        if pipe.poll(ROUND_S):
            word, *rest = pipe.recv()
            if word == "leave":
                return
            (until,) = rest
        steps += 10
        pipe.send(("round", time.monotonic(), round, "toy", f"state {round}", steps, 5.0 / steps, 100 * steps, 3))
        if until is not None and round >= until:
            pipe.send(("ended", round, "b" * 64 if spec.identity == spec.wrong else "a" * 64, 0.5))
            until = None
