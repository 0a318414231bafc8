"""A member of a chaos run: trains a tiny model with thinwire.DiLoCo over SwarmGroup, says what happens, and does what it is told.

    parent hears: entering ADDRESSES | joined AT SECONDS PARTS | round AT ROUND EPOCH STATE STEPS | dying STATE | failed TRACEBACK
                  | where TEXT
    parent tells: leave | die STATE ROUND | slow SECONDS | disk SECONDS | where

AT is the machine's monotonic clock, which all its processes share. A full disk is a limit on the size of files: nothing can be appended
to any, while sockets and pipes go on.
"""

import asyncio
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import thinwire
from benchmarks.chaos.doom import Doom
from benchmarks.chaos.fleet import MARK
from benchmarks.chaos.specs import Spec
from benchmarks.lab.namespaces import inside
from thinwire.comms.door import Door
from thinwire.comms.swarm import driver
from thinwire.comms.swarm.group import SwarmGroup
from thinwire.comms.swarm.hive import hive
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.machine import Machine
from thinwire.comms.swarm.node import Node
from thinwire.comms.swarm.p2pd import DaemonOptions
from thinwire.comms.swarm.view import Slot
from thinwire.optim.ledger import RoundInfo

hive()  # imported once, before anything is forked from here
SIDE = 32  # of the model
SLOW_S = 0.3  # that a slow member's step takes longer


def transport(spec: Spec) -> Callable[[Identity], Node]:
    """The node of a member: as a user's, but it asks no router for a port."""
    return lambda _: Node(spec.identity, initial_peers=spec.peers, options=DaemonOptions(listen=(spec.listen,), port_map=False))


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
                elif word == "where":
                    self.say("where", whereabouts())
                elif word == "disk":
                    threading.Thread(target=fill_disk, args=rest, daemon=True).start()
        except (EOFError, OSError):
            self.leave.set()


def whereabouts() -> str:
    """Where the training thread is, innermost last."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return " > ".join(f"{Path(f.filename).stem}.{f.name}:{f.lineno}" for f in traceback.extract_stack(frame)[-8:])


def fill_disk(seconds: float) -> None:
    """For so long no file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    time.sleep(seconds)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def member(pipe: Connection, spec: Spec) -> None:
    """Train until told to leave."""
    talk = Talk(pipe)
    try:
        with settled(spec):
            train(spec, talk)
    except BaseException:
        talk.say("failed", traceback.format_exc())


def bootstrap(pipe: Connection, spec: Spec) -> None:
    """The first peer, which is no member: newcomers find the notice board through it."""
    with settled(spec):
        asyncio.run(keep_board(pipe, spec))


async def keep_board(pipe: Connection, spec: Spec) -> None:
    """Be there until told to leave."""
    node = transport(spec)(Identity.load_or_create(spec.identity))
    await node.start()
    pipe.send(("up", node.addresses()))
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), told.set)
    await told.wait()
    await node.close()


def settled(spec: Spec) -> AbstractContextManager[None]:
    """This process as the spec says, threads that it starts within too."""
    torch.set_num_threads(1)
    os.environ[MARK] = spec.run  # for what this process starts
    return nullcontext() if spec.namespace is None else inside(spec.namespace)


def train(spec: Spec, talk: Talk) -> None:
    """What a user's script does, with a word to the parent after every round."""
    began = time.monotonic()
    steps = 0
    driver.Machine = watched(talk.doom)  # type: ignore[misc]
    group = SwarmGroup(
        spec.run, None if spec.founds else spec.peers, identity=spec.identity, history=spec.history, transport=transport(spec)
    )
    enter = group.enter

    def entering(door: Door) -> None:
        group._open_transport()
        reachable = time.monotonic()
        talk.say("entering", group.addresses())
        enter(door)
        now = time.monotonic()
        talk.say("joined", now, now - began, {"network": reachable - began, "state": now - reachable})

    def told(info: RoundInfo) -> None:
        if info.error is None:
            state = "" if info.state_hash is None else f"{info.state_hash:016x}"
            talk.say("round", time.monotonic(), info.round, epoch_of(group, info.round), state, steps)

    group.enter = entering  # type: ignore[method-assign]
    torch.manual_seed(0)
    model = torch.nn.Linear(SIDE, SIDE)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    opt = thinwire.DiLoCo(inner, group=group, sync_every=spec.sync_every, verify_every=1, on_round=told)
    torch.manual_seed(os.getpid())
    while not talk.leave.is_set():
        opt.zero_grad()
        x = torch.randn(8, SIDE)
        (model(x) - x).square().mean().backward()
        opt.step()
        steps += 1
        time.sleep(spec.step_s + (SLOW_S if time.monotonic() < talk.slow_until else 0.0))
    opt.close()


def epoch_of(group: SwarmGroup, round: int) -> str:
    """The lineage in which a round was decided; members of different ones may have different states."""
    assert group._driver is not None
    settled = group._driver.settled.get(Slot(round))
    return (settled.decision.epoch.digest if settled else group._driver.machine.epoch).hex()[:16]


def watched(doom: Doom) -> Callable[..., Machine]:
    """Round machines that a doom stands before."""

    def made(*words: Any, **named: Any) -> Machine:
        machine = Machine(*words, **named)
        doom.watch(machine)
        return machine

    return made
