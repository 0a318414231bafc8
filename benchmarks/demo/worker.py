"""A peer of the demo: trains a small GPT on real text with thinwire.DiLoCo over SwarmGroup, as a user's script would, and says how it goes.

    parent hears: entering ADDRESSES | joined AT SECONDS NUMEL | round AT ROUND EPOCH STATE STEPS LOSS SENT HEARD | said TEXT
                  | ended ROUND SHA256 LOSS | failed TRACEBACK
    parent tells: go | until ROUND | leave

It enters the run with its first step, and waits there until it is told to go.

AT is the machine's monotonic clock. STATE is a hash of what the members shared before the round, SENT are the bytes handed to the network,
HEARD the members whose work was in the round.
"""

import logging
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

import thinwire
from benchmarks.chaos.worker import epoch_of, settled, transport
from benchmarks.demo.spec import Spec
from examples.multiregion.data import Batches, load, validation_batches
from examples.multiregion.model import GPT, sha256
from thinwire.comms.door import Door
from thinwire.comms.swarm.group import SwarmGroup
from thinwire.optim.ledger import RoundInfo

WIDTH, LAYERS = 128, 2
BATCH = 4  # sequences of 128 bytes
LR = 1e-3
WARM_STEPS = 20  # of an incarnation: Adam knows no moments yet, and at full length its first steps spoil what a newcomer was given
CODEC = "blockmax"
TEXT = load()  # once, before anything is forked from here


class Talk(logging.Handler):
    """The pipe to the parent: `say` from any thread, warnings too; a thread of its own hears, and sets what the training loop looks at."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.WARNING)
        self._pipe, self._saying = pipe, threading.Lock()
        self.leave, self.go = threading.Event(), threading.Event()
        self.until: int | None = None
        threading.Thread(target=self._hear, name="demo-orders", daemon=True).start()

    def say(self, *words: Any) -> None:
        with self._saying:
            self._pipe.send(words)

    def emit(self, record: logging.LogRecord) -> None:
        self.say("said", record.getMessage())

    def _hear(self) -> None:
        try:
            while True:
                word, *rest = self._pipe.recv()
                if word == "until":
                    (self.until,) = rest
                elif word == "go":
                    self.go.set()
                elif word == "leave":
                    break
        except (EOFError, OSError):
            pass
        self.leave.set()
        self.go.set()


def peer(pipe: Connection, spec: Spec) -> None:
    """Train until told to leave."""
    talk = Talk(pipe)
    logger = logging.getLogger("thinwire")
    logger.addHandler(talk)
    logger.propagate = False
    try:
        with settled(spec):
            Training(spec, talk).run()
    except BaseException:
        talk.say("failed", traceback.format_exc())


class Training:
    """The loop, and what it says after every round."""

    def __init__(self, spec: Spec, talk: Talk) -> None:
        self._began, self._talk = time.monotonic(), talk
        peers = None if spec.founds else spec.peers
        self._group = SwarmGroup(spec.run, peers, identity=spec.identity, transport=transport(spec))
        self._enter = self._group.enter
        self._group.enter = self._entering  # type: ignore[method-assign]
        torch.manual_seed(spec.model_seed)
        self._gpt = GPT(WIDTH, LAYERS)
        inner = torch.optim.AdamW(self._gpt.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
        self._opt = thinwire.DiLoCo(inner, group=self._group, sync_every=spec.sync_every, codec=CODEC, on_round=self._told)
        self._batches = Batches(TEXT.train, size=BATCH, seed=spec.data_seed)
        self._steps, self._loss = 0, 0.0
        self._agreed: tuple[int, list[Tensor]] | None = None  # the weights after the round that was to be the last

    def run(self) -> None:
        """Train up to the last round, show what is agreed then, and leave when all have."""
        while self._agreed is None and not self._talk.leave.is_set():
            self._opt.zero_grad()
            loss = self._gpt.loss(self._batches.draw())
            loss.backward()
            for group in self._opt.param_groups:
                group["lr"] = LR * min((self._steps + 1) / WARM_STEPS, 1.0)
            self._opt.step()
            self._steps += 1
            now = float(loss.detach())
            self._loss = now if self._steps <= 2 else 0.9 * self._loss + 0.1 * now  # the first is of weights that a newcomer gives up
            if self._steps == 1:
                self._talk.go.wait()
        if self._agreed is not None:
            self._show(*self._agreed)
            self._talk.leave.wait()
        self._opt.close()

    def _entering(self, door: Door) -> None:
        self._talk.say("entering", self._group.addresses())
        self._enter(door)
        now = time.monotonic()
        self._talk.say("joined", now, now - self._began, sum(p.numel() for p in self._gpt.parameters()))

    def _told(self, info: RoundInfo) -> None:
        if info.error is not None:
            return
        state = "" if info.state_hash is None else f"{info.state_hash:016x}"
        sent = self._opt.stats().wire_sent
        heard, epoch = len(info.members) - len(info.rejected), epoch_of(self._group, info.round)
        self._talk.say("round", time.monotonic(), info.round, epoch, state, self._steps, self._loss, sent, heard)
        if self._talk.until is not None and info.round >= self._talk.until and self._agreed is None:
            # Taken here: of a round that lands late, the weights hold what was learnt meanwhile, which nobody else has.
            self._agreed = info.round, [tensor.detach().clone() for _, tensor in self._opt._shared_tensors()]

    @torch.no_grad()
    def _show(self, round: int, agreed: list[Tensor]) -> None:
        for p, tensor in zip(self._gpt.parameters(), agreed, strict=True):
            p.copy_(tensor.view_as(p))
        held_out = validation_batches(TEXT, count=2)
        loss = sum(float(self._gpt.loss(batch)) for batch in held_out) / len(held_out)
        self._talk.say("ended", round, sha256(self._gpt), loss)
