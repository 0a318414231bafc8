"""A member without a swarm: rounds come by the clock of the machine, states follow from rounds: all agree unless told not to."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path

from thinwire.comms.swarm.history import History

ROUND_S = 0.02
EPOCH = sha256(b"toy").digest()


@dataclass(frozen=True)
class Toy:
    identity: str
    folder: Path
    began: float
    wrong: str = ""  # identity whose state differs from round 5 on


@dataclass(frozen=True)
class ToySpecs:
    folder: Path
    began: float
    wrong: str = ""

    def __call__(self, identity: str, *, peers: Sequence[str], place: int | None, fresh_key: bool, founds: bool) -> Toy:
        return Toy(identity, self.folder, self.began, self.wrong)


def state(round: int, wrong: bool) -> bytes:
    return sha256(f"{round} {wrong and round > 5}".encode()).digest()


def toy(pipe: Connection, spec: Toy) -> None:
    key = sha256(spec.identity.encode()).digest()
    history = History(spec.folder, member=key, nonce=os.urandom(8))
    wrong = spec.identity == spec.wrong
    pipe.send(("entering", []))
    round = max(int((time.monotonic() - spec.began) / ROUND_S), 0)
    history.append("join", digest=EPOCH, round=round, after=state(round, wrong))
    pipe.send(("joined", time.monotonic(), 0.01))
    die_at = -1
    while True:
        due = spec.began + (round + 1) * ROUND_S - time.monotonic()
        while pipe.poll(max(due, 0)):
            word, *rest = pipe.recv()
            if word == "leave":
                history.append("leave")
                return
            if word == "die":
                die_at = rest[1]
            due = spec.began + (round + 1) * ROUND_S - time.monotonic()
        if round == die_at and spec.identity == f"m{round % 2}":
            pipe.send(("dying", "toy"))
            os.kill(os.getpid(), signal.SIGKILL)
        history.append("commit", digest=EPOCH, round=round, counted={b"x" * 32: b"y" * 32}, chain=state(round, False))
        before, after = state(round, wrong), state(round + 1, wrong)
        history.append("apply", digest=EPOCH, round=round, counted={b"x" * 32: b"y" * 32}, before=before, after=after)
        pipe.send(("round", time.monotonic(), round, "toy", before.hex(), round))
        round += 1


def toy_bootstrap(pipe: Connection, spec: Toy) -> None:
    with History(spec.folder, member=b"bootstrap", nonce=os.urandom(8)) as history:
        history.append("join", digest=EPOCH, round=0)
        history.append("epoch", digest=EPOCH, round=0)
    pipe.send(("up", [f"toy/{os.getpid()}"]))
    while pipe.recv()[0] != "leave":
        pass


def failing(pipe: Connection, spec: Toy) -> None:
    pipe.send(("failed", "Traceback: the script has a bug"))
    pipe.recv()
