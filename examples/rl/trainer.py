"""The trainer: learns from whatever good groups there are, publishes what it has learnt, and waits for nobody in particular.

warm up or resume -> publish version 0
each update:   groups (own, foreign, workers') -> GRPO step -> publish -> drop what is too old
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.optim import AdamW, Optimizer

import thinwire
from examples.rl.averaging import averaging
from examples.rl.beacon import Ticker
from examples.rl.buffer import Capacity, ReplayBuffer
from examples.rl.capacity import Meter
from examples.rl.checks import Checked, CheckLimits, Checks
from examples.rl.config import Config
from examples.rl.docket import Docket
from examples.rl.environment import Environment
from examples.rl.evaluate import evaluate
from examples.rl.events import Events
from examples.rl.generate import adopted, generate
from examples.rl.intake import Intake
from examples.rl.learner import Learner
from examples.rl.loss import GRPO
from examples.rl.messages import GROUP, Parcel, Verdict
from examples.rl.network import Network
from examples.rl.policy import policy
from examples.rl.proofs import published
from examples.rl.reputation import Reputation, Trust
from examples.rl.rollout import RolloutError, RolloutGroup, seal
from examples.rl.sharing import Sharing
from examples.rl.tasks import environment
from examples.rl.tiny import weights_sha256
from examples.rl.warmup import Warmup, warm_up
from thinwire.comms.publish import Publisher, PublisherThread
from thinwire.comms.swarm.transport import Key
from thinwire.comms.whole import write_whole

BETAS = (0.9, 0.95)
LOOK_S = 0.5  # between looks at whether this process is to end
FOREIGN_S = 5.0  # of waiting for foreign groups: a learner that is alone goes on alone


class Stopped(Exception):
    """Whoever started this process is gone."""


@dataclass
class Progress:
    """Where a run is; all of it is in the checkpoint."""

    update: int = 0
    version: int = 0
    accuracy: list[tuple[int, float]] = field(default_factory=list)


class Trainer:
    """One learner of a run. Everything is made here; `run` trains."""

    def __init__(self, config: Config, network: Network, folder: Path, events: Events, *, group: Any = None) -> None:
        self.config, self._network, self._folder, self._events = config, network, folder, events
        self.environment: Environment = environment(config.task.environment)
        self.policy = policy(config.task.policy, seed=config.seed)
        self.progress = Progress()
        train = config.train
        self.optimizer: Optimizer = AdamW(self.policy.module.parameters(), lr=train.lr, betas=BETAS, weight_decay=0.0)
        if group is not None:
            learners = config.learners
            how: dict[str, Any] = {"sync_every": learners.sync_every, "codec": learners.codec, "log": folder / "rounds.jsonl"}
            self.optimizer = averaging(self.optimizer, group=group, **how)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.buffer = ReplayBuffer(Capacity(groups=max(64, 8 * train.groups), max_staleness=train.max_staleness))
        self.reputation = Reputation(Trust(ban_s=config.verify.ban_s, floor=config.verify.rate))
        self.meter = Meter(train.groups - train.own_groups - train.foreign_groups)
        self._resumed = self._load()  # before anybody can ask for the newest version
        self._intake = Intake(
            network.transport,
            config.run,
            self._checks(),
            self,
            self.reputation,
            lambda: self.progress.version,
            on_accepted=self._accepted,
            on_timed=self._timed,
        )
        self._docket = Docket(network, config.verifiers, ticker=Ticker(config.run), on_verdict=self._judged, seed=config.seed)
        self._publisher: PublisherThread | None = None
        self._sharing = Sharing(network, config.run, self._checks, wanted=train.foreign_groups)
        network.serve(GROUP, self._intake.answer)  # last: from now on others come in

    # -- what the intake asks ----------------------------------------------------------------------------------------------------------

    def put(self, checked: Checked) -> str | None:
        """Hold a group for training, with the rewards that were computed here."""
        try:
            self.buffer.put(msgspec.structs.replace(checked.group, rewards=checked.rewards))
        except RolloutError as error:
            return error.reason
        return None

    def wants(self) -> bool:
        """Whether there is not yet enough for two updates."""
        return len(self.buffer) < 2 * self.config.train.groups

    def _checks(self) -> Checks:
        config = self.config
        limits = CheckLimits(max_staleness=config.train.max_staleness, completion_tokens=config.task.max_new_tokens)
        return Checks(config.run, {self.environment.name: self.environment}, self.policy.tokenizer, limits)

    def _accepted(self, data: bytes, digest: bytes, checked: Checked) -> None:
        self._docket.consider(data, digest, checked.group.worker, self.reputation.sample_rate(checked.group.worker))
        self._sharing.offer(data, digest, checked.group.worker)

    def _timed(self, worker: Key, version: int, parcel: Parcel) -> None:
        self.meter.arrived(worker, version, work_s=parcel.work_s, since_s=parcel.since_s)

    def _judged(self, verifier: Key, worker: Key, verdict: Verdict) -> None:
        """In the event loop: a refusal drops what the worker has waiting; its reputation says for how long it is banned."""
        if not verdict.accepted:
            self.reputation.refused(worker, verdict.reason)
            self.buffer.discard(lambda group: group.worker == worker, verdict.reason)
        self._events.say("verdict", worker=worker.hex()[:8], accepted=verdict.accepted, reason=verdict.reason, detail=verdict.detail)

    # -- training ----------------------------------------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """All updates. Raises `Stopped` when whoever started this process is gone."""
        learner = self._ready()
        config, progress = self.config, self.progress
        self._publish()
        self._published.result()
        self._measure()
        while progress.update < config.train.updates:
            if not self._events.alive:
                raise Stopped
            began = time.monotonic()
            groups = list(self._gather())
            waited_s = time.monotonic() - began
            told = learner.update(groups)
            before, progress.update = progress.update, self._counted()
            if progress.update != before + 1:
                self._events.say("joined", update=progress.update)
            if progress.update % config.train.publish_every == 0:
                self._published.result()  # of the version before: what went wrong with it is said here
                self._publish()
            self.meter.updated(waited_s)
            self._say(groups, told.numbers, waited_s)
            if progress.update % config.train.evaluate_every == 0 or progress.update >= config.train.updates:
                self._measure()
            if progress.update % config.train.checkpoint_every == 0:
                self._save()
        if isinstance(self.optimizer, thinwire.DiLoCo):
            self.optimizer.close()
        told = {"sha256": weights_sha256(self.policy.module), "capacity": self.meter.told()}
        self._events.say("end", update=progress.update, accuracy=progress.accuracy[-1][1], **told, **self._traffic())
        return progress

    def _counted(self) -> int:
        """Updates so far. Of several learners each counts on from those whose weights it took: a step that only took them is none."""
        if isinstance(self.optimizer, thinwire.DiLoCo):
            return self.optimizer.global_step
        return self.progress.update + 1

    def close(self) -> None:
        """End the threads of this trainer."""
        if self._publisher is not None:
            self._publisher.close()
        self._sharing.close()
        self._intake.close()

    def _ready(self) -> Learner:
        """Go on from the checkpoint, or warm up."""
        config = self.config
        if not self._resumed:
            start = Warmup(**msgspec.structs.asdict(config.warmup))
            warm_up(self.policy, self.environment, seed=config.seed, options=start)
            self._events.say("warm", steps=start.steps)
        first = self.progress.version + 1
        publisher = Publisher(self._network.transport, config.run, identity=self._network.identity, first_version=first)
        self._publisher = PublisherThread(publisher, self._network.loop)
        train = config.train
        options = GRPO(clip_low=train.clip_low, clip_high=train.clip_high, delta=train.clip_ratio)
        return Learner(self.policy, self.optimizer, options=options, temperature=config.task.temperature)

    def _gather(self) -> Iterator[RolloutGroup]:
        """The groups of one update: own, foreign as far as there are any, and the rest from workers, for whom it waits."""
        train, version = self.config.train, self.progress.version
        yield from self._sample(train.own_groups)
        foreign = self._sharing.take(train.foreign_groups, FOREIGN_S) if train.foreign_groups else []
        rescored = [msgspec.structs.replace(checked.group, rewards=checked.rewards) for checked in foreign]
        yield from self._adopted(rescored)
        if train.own_groups + train.foreign_groups == train.groups:  # no workers: what foreigners lack is left out
            return
        missing = train.groups - train.own_groups - len(foreign)
        groups: list[RolloutGroup] = []
        while not groups:
            if not self._events.alive:
                raise Stopped
            groups = self.buffer.take(missing, version, timeout_s=LOOK_S)
        yield from self._adopted(groups)

    def _sample(self, count: int) -> list[RolloutGroup]:
        """Groups of this learner's own, signed like a worker's, so that others may have them."""
        if not count:
            return []
        task, identity = self.config.task, self._network.identity
        groups = generate(
            self.policy,
            self.environment,
            run=self.config.run,
            worker=identity.key,
            version=self.progress.update,
            numbers=range(count),
            completions=self.config.train.completions,
            max_new=task.max_new_tokens,
            temperature=task.temperature,
            generator=self._generator,
        )
        for group in groups:
            data = seal(group, identity)
            self._sharing.offer(data, hashlib.sha256(data).digest(), identity.key)
        return groups

    def _adopted(self, groups: Iterable[RolloutGroup]) -> Iterator[RolloutGroup]:
        """The groups in this policy's tokens; one that cannot be said in them is left out."""
        for group in groups:
            try:
                yield adopted(group, self.policy, temperature=self.config.task.temperature)
            except RolloutError as error:
                self._intake.refused[error.reason] += 1

    def _publish(self) -> None:
        """Make the weights the next version; they are copied now, and coded and signed in the background."""
        assert self._publisher is not None
        self.progress.version += 1
        write_whole(self._folder / "version", str(self.progress.version).encode())
        self.meter.published(self.progress.version)
        self._published = self._publisher.publish(self.policy.module.named_parameters(), extra=published())
        self.buffer.advance(self.progress.version)

    def _measure(self) -> None:
        task = self.config.task
        accuracy = evaluate(self.policy, self.environment, max_new=task.max_new_tokens, temperature=task.temperature)
        self.progress.accuracy.append((self.progress.update, accuracy))
        self._events.say("accuracy", update=self.progress.update, accuracy=accuracy)

    def _say(self, groups: Sequence[RolloutGroup], numbers: Mapping[str, float], waited_s: float) -> None:
        ages = Counter(max(0, self.progress.version - 1 - group.version) for group in groups if group.worker != self._network.identity.key)
        refused = self._intake.refused + Counter(self.buffer.stats().dropped)
        told = {name: numbers[name] for name in ("reward", "mismatch_kl", "entropy", "clipped", "ratio_max")}
        say = self._events.say
        say("update", update=self.progress.update, **told, waited_s=waited_s, staleness=ages, refused=refused, **self._traffic())

    def _traffic(self) -> dict[str, int]:
        transport = self._network.transport
        return {"sent": transport.sent_nbytes, "received": transport.received_nbytes}

    # -- the checkpoint ----------------------------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "trainer.pt"

    def _save(self) -> None:
        """Whole or not at all."""
        state = {
            "policy": self.policy.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "buffer": self.buffer.state_dict(),
            "generator": self._generator.get_state(),
            "progress": asdict(self.progress),
        }
        data = io.BytesIO()
        torch.save(state, data)
        write_whole(self._checkpoint, data.getvalue())
        self.reputation.save(self._folder / "reputation")

    def _load(self) -> bool:
        if not self._checkpoint.exists():
            return False
        state = torch.load(self._checkpoint, weights_only=True)
        self.policy.module.load_state_dict(state["policy"])
        kept = self._folder / "reputation"
        if kept.exists():
            self.reputation = Reputation.from_bytes(kept.read_bytes(), self.reputation.trust)
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])
        self._generator.set_state(state["generator"])
        self.progress = Progress(**state["progress"])
        # Versions that went out after the checkpoint are with workers, who are no liars for it.
        self.progress.version = max(self.progress.version, int((self._folder / "version").read_bytes()))
        self._events.say("resumed", update=self.progress.update)
        return True
