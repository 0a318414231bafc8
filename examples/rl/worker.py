"""A worker: takes the newest weights, samples groups of the tasks that its key stands for, and sends them, signed.

pull        asks for the newest version before it samples, and waits when its trainer has enough of it: staleness 0
push_pull   samples with what it has; newer weights come in behind it
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from examples.rl.config import Config
from examples.rl.curriculum import Curriculum
from examples.rl.events import Events
from examples.rl.generate import generate
from examples.rl.messages import GROUP, INLINE_NBYTES, Parcel, Receipt
from examples.rl.network import Network
from examples.rl.policy import policy
from examples.rl.proofs import prove
from examples.rl.rollout import RolloutGroup, seal
from examples.rl.weights import Follower
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.transport import Key, PeerError
from thinwire.comms.verify.activations import UnprovableError

BATCH = 4  # groups that are sampled together
WAIT_S = 0.5
SAY_S = 1.0
BANNED_S = 5.0  # between attempts of a worker that is
TRIES = 20  # of a parcel that its trainer is too busy for
AGAIN = ("busy", "stalled", "ended early", "unreachable", "p2pd is gone")


class Worker:
    """One worker of a trainer; `run` samples until the process is to end."""

    def __init__(self, config: Config, network: Network, events: Events, *, trainer: Key) -> None:
        self.config, self._network, self._events, self._trainer = config, network, events, trainer
        self._curriculum = Curriculum(config)
        self.environment = self._curriculum.measured
        self.policy = policy(config.task.policy, seed=config.seed, device=config.task.device)
        self._curriculum.check_sayable(self.policy.tokenizer, config.task.policy)
        self._weights = Follower(network, config.run, trainer, self.policy.module)
        self._generator = torch.Generator().manual_seed(int.from_bytes(network.identity.key[:7], "little"))
        self._version, self._next, self._sha256 = 0, 0, b""
        self._began = self._loaded = self._busy_s = 0.0  # the turn, this version, and the seconds of all turns that made groups
        self._made = 0
        self.answers: Counter[str] = Counter()
        self._ended, self._lock = False, threading.Lock()  # the lock is of the answers
        self._senders = ThreadPoolExecutor(BATCH, thread_name_prefix="thinwire-rl-send")
        self._said = float("-inf")

    def run(self) -> None:
        """Sample and send, until nobody listens to this process any more."""
        try:
            while self._events.alive:
                self._began = time.monotonic()
                wanted = self._refresh() and self._round()
                if not wanted:  # enough for now: newer weights will want more
                    self._weights.wait(self._version, WAIT_S)
                self._say()
        finally:
            self._ended = True
            self._senders.shutdown(wait=True, cancel_futures=True)  # while there is a network: who waits for an answer gets one
            self._weights.close()

    def _refresh(self) -> bool:
        """Take newer weights if there are any; whether there are some at all."""
        if self.config.train.mode == "pull":
            self._weights.ask()
        newest = self._weights.newest()
        if newest is not None and newest.number > self._version:
            try:
                self.environment = self._curriculum.at(self._curriculum.told(newest.extra))
            except ValueError as error:
                self._events.say("trouble", why=str(error))
                self._weights.wait(newest.number, WAIT_S)
                return False
            newest.load_into(self.policy.module)
            self._version, self._next, self._sha256 = newest.number, 0, newest.sha256
            self._loaded = time.monotonic()
        return self._version > 0

    def _round(self) -> bool:
        """Sample some groups and send them together: far away each would take a round trip; whether more of this version are wanted."""
        task = self.config.task
        groups = generate(
            self.policy,
            self.environment,
            run=self.config.run,
            worker=self._network.identity.key,
            version=self._version,
            numbers=range(self._next, self._next + BATCH),
            completions=self.config.train.completions,
            max_new=task.max_new_tokens,
            temperature=task.temperature,
            generator=self._generator,
        )
        self._next += BATCH
        sent: list[Future[Receipt | None]] = []
        for group in groups:
            try:
                group = prove(group, self.policy, self._sha256, proofs=self.config.verify.proofs)
            except UnprovableError as error:  # with these weights; the next ones may do
                self.answers["unprovable"] += 1
                self._next = group.n  # it was not used
                self._events.say("trouble", why=f"version {self._version} cannot be proved: {error}")
                break
            sent.append(self._senders.submit(self._send, group))
        receipts = [each.result() for each in sent]
        wanted = len(sent) == len(groups) and all(receipt is not None and receipt.wanted for receipt in receipts)
        self._busy_s += time.monotonic() - max(self._began, self._loaded)
        self._made += len(sent)
        return wanted

    def _send(self, group: RolloutGroup) -> Receipt | None:
        """The trainer's answer; None when it could not be had."""
        data = seal(group, self._network.identity)
        if len(data) <= INLINE_NBYTES:
            return self._deliver(Parcel(data, **self._hints()))
        blob = Blob.of(data)
        self._network.loop.call(self._network.hold, blob)
        try:
            return self._deliver(Parcel(b"", blob.digest, blob.nbytes, **self._hints()))
        finally:
            self._network.loop.call(self._network.release, blob.digest)

    def _hints(self) -> dict[str, float]:
        """What `capacity.Meter` is told: each duration by this clock alone."""
        work_s = self._busy_s / self._made if self._made else 0.0
        return {"work_s": work_s, "since_s": time.monotonic() - self._loaded}

    def _deliver(self, parcel: Parcel) -> Receipt | None:
        for _ in range(TRIES):
            try:
                receipt = Receipt.decode(self._network.ask(self._trainer, GROUP, parcel.encode()))
            except PeerError as error:
                self._count(error.reason)
                receipt = None
            if receipt is not None and receipt.reason == "banned":
                time.sleep(BANNED_S)
            if receipt is not None and receipt.reason not in AGAIN:
                self._count(receipt.reason or "accepted")
                return receipt
            if self._ended or not self._events.alive:
                return None
            self._weights.wait(self._version, WAIT_S)
        return None

    def _count(self, answer: str) -> None:
        with self._lock:
            self.answers[answer] += 1

    def _say(self) -> None:
        if time.monotonic() - self._said > SAY_S:
            self._said = time.monotonic()
            transport = self._network.transport
            told = {"sent": transport.sent_nbytes, "received": transport.received_nbytes}
            with self._lock:
                answers = dict(self.answers)
            self._events.say("groups", version=self._version, answers=answers, refused=dict(self._weights.refused), **told)
