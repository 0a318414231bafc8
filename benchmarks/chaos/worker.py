"""A member of a chaos run: trains a tiny model with thinwire.DiLoCo over SwarmGroup, says what happens, and does what it is told.

    parent hears: entering ADDRESSES | joined AT SECONDS | round AT ROUND EPOCH STATE STEPS | dying STATE | failed TRACEBACK
    parent tells: leave | die STATE ROUND | slow SECONDS | disk SECONDS

AT is the machine's monotonic clock, which all its processes share. A full disk is a limit on the size of files: nothing can be appended
to any, while sockets and pipes go on.
"""

import os
import resource
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.chaos.doom import Doom
from benchmarks.chaos.fleet import MARK
from benchmarks.chaos.net import Places
from benchmarks.lab.namespaces import inside

PORT = 39500  # of the first peer in a network of its own
SLOW_S = 0.3  # that a slow member's step takes longer


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
    mark: str


@dataclass(frozen=True)
class Specs:
    """Makes specs: one key file an identity, a new one where a fresh key is asked for."""

    folder: Path
    history: Path
    run: str
    net: Places | None
    step_s: float
    sync_every: int
    port: int = 0

    def __call__(self, identity: str, *, peers: Sequence[str], place: int | None, fresh_key: bool) -> Spec:
        key = self.folder / f"{identity}.key"
        if fresh_key:
            key.unlink(missing_ok=True)
        address = "127.0.0.1" if self.net is None or place is None else self.net.address(place)
        port = self.port if identity == "bootstrap" else 0
        namespace = None if self.net is None or place is None else self.net.namespace(place)
        return Spec(
            self.run, key, tuple(peers), self.history, f"/ip4/{address}/tcp/{port}", namespace, self.step_s, self.sync_every, self.run
        )


class Talk:
    """The pipe to the parent: `say` from any thread; a thread of its own hears, and sets what the training loop looks at."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self.leave = threading.Event()
        self.slow_until = 0.0
        self.doom = Doom(self._dying)
        threading.Thread(target=self._hear, name="chaos-orders", daemon=True).start()

    def say(self, *words: Any) -> None:
        with self._lock:
            self._pipe.send(words)

    def _dying(self, state: str) -> None:
        self.say("dying", state)

    def _hear(self) -> None:
        try:
            while True:
                word, *rest = self._pipe.recv()
                if word == "leave":
                    self.leave.set()
                elif word == "die":
                    self.doom.state, self.doom.round = rest
                elif word == "slow":
                    self.slow_until = time.monotonic() + rest[0]
                elif word == "disk":
                    threading.Thread(target=fill_disk, args=rest, daemon=True).start()
        except (EOFError, OSError):
            self.leave.set()


def fill_disk(seconds: float) -> None:
    """For so long no file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    time.sleep(seconds)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def member(pipe: Connection, spec: Spec) -> None:
    """Train until told to leave."""
    talk = Talk(pipe)
    _settle(spec)
    try:
        _train(spec, talk)
    except BaseException:
        talk.say("failed", traceback.format_exc())


def bootstrap(pipe: Connection, spec: Spec) -> None:
    """The first peer: it only keeps the notice board."""
    raise NotImplementedError


def _settle(spec: Spec) -> None:
    torch.set_num_threads(1)
    os.environ[MARK] = spec.mark  # for what this process starts
    if spec.namespace is not None:
        inside(spec.namespace).__enter__()  # for good


def _train(spec: Spec, talk: Talk) -> None:
    raise NotImplementedError
