"""The trainer: learns from whatever good groups there are, publishes what it has learnt, and waits for nobody in particular.

warm up or resume -> publish version 0
each update:   groups (own, foreign, workers') -> GRPO step -> publish -> drop what is too old
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from examples.rl.beacon import Ticker
from examples.rl.buffer import Capacity, ReplayBuffer
from examples.rl.capacity import Meter
from examples.rl.checks import REASONS, Checked, CheckLimits, Checks
from examples.rl.config import Config, ConfigError
from examples.rl.docket import Docket
from examples.rl.environment import Environment
from examples.rl.evaluate import evaluate
from examples.rl.events import Events
from examples.rl.generate import adopted, generate
from examples.rl.intake import Intake
from examples.rl.messages import GROUP, Parcel, Verdict
from examples.rl.network import Network
from examples.rl.parts import Parts
from examples.rl.policy import Policy, policy
from examples.rl.proofs import published
from examples.rl.reputation import Reputation, Trust
from examples.rl.rollout import RolloutError, RolloutGroup, seal
from examples.rl.sharing import Sharing
from examples.rl.tiny import weights_sha256
from examples.rl.trained import Trained, alone
from examples.rl.warmup import Warmup, warm_up
from thinwire.comms.publish import Publisher, PublisherThread
from thinwire.comms.swarm.transport import Key
from thinwire.comms.whole import write_whole

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
    """One learner of a run. Everything is made here; `run` trains. `group`: of the learners that average; `lead`: of several ranks."""

    def __init__(
        self, config: Config, network: Network, folder: Path, events: Events, *, group: Any = None, lead: Trained | None = None
    ) -> None:
        self.config, self._network, self._folder, self._events = config, network, folder, events
        self._trained = lead or alone(config, group, log=folder / "rounds.jsonl")
        self.policy = self._trained.policy
        self.parts = Parts(config, self.policy.tokenizer, network.identity.key, folder)
        self.environment: Environment = self.parts.curriculum.measured
        self._reference: Policy | None = None
        self.progress = Progress()
        train = config.train
        self._generator = torch.Generator().manual_seed(config.seed)
        self.buffer = ReplayBuffer(Capacity(groups=max(64, 8 * train.groups), max_staleness=train.max_staleness))
        self.reputation = Reputation(Trust(ban_s=config.verify.ban_s, floor=config.verify.rate))
        self.meter = Meter(train.groups - train.own_groups - train.foreign_groups)
        self._resumed = self._load()  # before anybody can ask for the newest version
        self.parts.open(self.buffer, self.progress.update)
        if self.parts.atropos is not None:
            events.say("atropos", url=self.parts.atropos.url)
        self._intake = Intake(
            network.transport,
            config.run,
            self._checks(self.parts.asked),
            self,
            self.reputation,
            lambda: self.progress.version,
            on_accepted=self._accepted,
            on_timed=self._timed,
        )
        self._docket = Docket(network, config.verifiers, ticker=Ticker(config.run), on_verdict=self._judged, seed=config.seed)
        self._publisher: PublisherThread | None = None
        self._sharing = Sharing(network, config.run, lambda: self._checks(self.parts.foreign), wanted=train.foreign_groups)
        network.serve(GROUP, self._intake.answer)  # last: from now on others come in

    # -- what the intake asks ----------------------------------------------------------------------------------------------------------

    def put(self, checked: Checked) -> str | None:
        """Hold a group for training, with the rewards that were computed here."""
        try:
            self.buffer.put(msgspec.structs.replace(checked.group, rewards=checked.rewards))
        except RolloutError as error:
            return error.reason
        self.parts.accepted(checked)
        return None

    def wants(self) -> bool:
        """Whether there is not yet enough for two updates."""
        return len(self.buffer) < 2 * self.config.train.groups

    def _checks(self, environments: Callable[[int, str], Environment | None]) -> Checks:
        config = self.config
        limits = CheckLimits(max_staleness=config.train.max_staleness, completion_tokens=config.task.max_new_tokens)
        return Checks(config.run, environments, self.policy.tokenizer, limits, rewards=self.parts.rewards)

    def _accepted(self, data: bytes, digest: bytes, checked: Checked) -> None:
        self._docket.consider(data, digest, checked.group.worker, self.reputation.sample_rate(checked.group.worker))
        self._sharing.offer(data, digest, checked.group.worker)

    def _timed(self, worker: Key, version: int, parcel: Parcel) -> None:
        self.meter.arrived(worker, version, work_s=parcel.work_s, since_s=parcel.since_s)

    def _judged(self, verifier: Key, worker: Key, verdict: Verdict) -> None:
        """In the event loop: a refusal drops what the worker has waiting; its reputation says for how long it is banned. What a verifier
        cannot prove itself is nobody's lie."""
        if not verdict.accepted and REASONS.get(verdict.reason) != "none":
            self.reputation.refused(worker, verdict.reason)
            self.buffer.discard(lambda group: group.worker == worker, verdict.reason)
        self._events.say("verdict", worker=worker.hex()[:8], accepted=verdict.accepted, reason=verdict.reason, detail=verdict.detail)

    # -- training ----------------------------------------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """All updates. Raises `Stopped` when whoever started this process is gone."""
        self._ready()
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
            told = self._trained.update(groups)
            before, progress.update = progress.update, self._trained.counted(progress.update)
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
        self._trained.close()
        self._trained.refresh()
        told = {"sha256": weights_sha256(self.policy.module), "capacity": self.meter.told()}
        self._events.say("end", update=progress.update, accuracy=progress.accuracy[-1][1], **told, **self._traffic())
        return progress

    def close(self) -> None:
        """End the threads of this trainer."""
        self.parts.close()
        if self._publisher is not None:
            self._publisher.close()
        self._sharing.close()
        self._intake.close()

    def _ready(self) -> None:
        """Go on from the checkpoint, or warm up."""
        config = self.config
        if not self._resumed:
            start = Warmup(**msgspec.structs.asdict(config.warmup))
            if start.steps:
                warm_up(self.policy, self.parts.curriculum.demonstrations, seed=config.seed, options=start)
            self._events.say("warm", steps=start.steps)
            if config.train.kl:
                self._reference = self._frozen(self.policy.module.state_dict())
        first = self.progress.version + 1
        publisher = Publisher(self._network.transport, config.run, identity=self._network.identity, first_version=first)
        self._publisher = PublisherThread(publisher, self._network.loop)
        self._trained.begin(self._reference)

    def _frozen(self, state: Mapping[str, Any]) -> Policy:
        """Another policy with these weights, which no optimizer knows: what `train.kl` keeps to."""
        made = policy(self.config.task.policy, seed=self.config.seed, device=self.config.task.device)
        made.module.load_state_dict(state)
        made.module.requires_grad_(False)
        return made

    def _gather(self) -> Iterator[RolloutGroup]:
        """The groups of one update: own, foreign as far as there are any, and the rest from workers, for whom it waits."""
        train, version = self.config.train, self.progress.version
        yield from self._own(train.own_groups)
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
        self._trained.refresh()
        groups = generate(
            self.policy,
            self.parts.current(self.progress.version),
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

    def _own(self, count: int) -> Iterator[RolloutGroup]:
        """Groups of this learner's own, worth what they are worth here; one that cannot be judged is left out."""
        for group in self._sample(count):
            try:
                yield self.parts.own(group, self.progress.version)
            except RolloutError as error:
                self._intake.refused[error.reason] += 1

    def _adopted(self, groups: Iterable[RolloutGroup]) -> Iterator[RolloutGroup]:
        """The groups in this policy's tokens; one that cannot be said in them is left out."""
        for group in groups:
            if group.tokenizer != self.policy.tokenizer.digest:  # it gets log-probs here
                self._trained.refresh()
            try:
                yield adopted(group, self.policy, temperature=self.config.task.temperature)
            except RolloutError as error:
                self._intake.refused[error.reason] += 1

    def _publish(self) -> None:
        """Make the weights the next version; they are copied now, and coded and signed in the background."""
        assert self._publisher is not None
        self.progress.version += 1
        beside = published() | self.parts.beside(self.progress.version)
        write_whole(self._folder / "version", str(self.progress.version).encode())
        self.meter.published(self.progress.version)
        self._published = self._publisher.publish(self._trained.named(), extra=beside)
        self.buffer.advance(self.progress.version)

    def _measure(self) -> None:
        task = self.config.task
        self._trained.refresh()
        accuracy = evaluate(self.policy, self.environment, max_new=task.max_new_tokens, temperature=task.temperature)
        self.progress.accuracy.append((self.progress.update, accuracy))
        self._events.say("accuracy", update=self.progress.update, accuracy=accuracy)

    def _say(self, groups: Sequence[RolloutGroup], numbers: Mapping[str, float], waited_s: float) -> None:
        ages = Counter(max(0, self.progress.version - 1 - group.version) for group in groups if group.worker != self._network.identity.key)
        refused = self._intake.refused + Counter(self.buffer.stats().dropped)
        names = ("reward", "mismatch_kl", "entropy", "clipped", "ratio_max", *(("kl",) if self._reference else ()))
        told = {name: numbers[name] for name in names} | self.parts.told(self.progress.version, self.progress.update) | self._traffic()
        self._events.say("update", update=self.progress.update, waited_s=waited_s, staleness=ages, refused=refused, **told)

    def _traffic(self) -> dict[str, int]:
        transport = self._network.transport
        return {"sent": transport.sent_nbytes, "received": transport.received_nbytes}

    # -- the checkpoint ----------------------------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "trainer.pt"

    def _save(self) -> None:
        """Whole or not at all."""
        self._trained.refresh()
        state = {
            "policy": self.policy.module.state_dict(),
            "optimizer": self._trained.optimizer_state(),
            "buffer": self.buffer.state_dict(),
            "generator": self._generator.get_state(),
            "progress": asdict(self.progress),
            "parts": self.parts.state_dict(),
        }
        if self._reference is not None:
            state["reference"] = self._reference.module.state_dict()
        data = io.BytesIO()
        torch.save(state, data)
        write_whole(self._checkpoint, data.getvalue())
        self.reputation.save(self._folder / "reputation")

    def _load(self) -> bool:
        if not self._checkpoint.exists():
            return False
        state = torch.load(self._checkpoint, weights_only=True, map_location="cpu")
        self.policy.module.load_state_dict(state["policy"])
        kept = self._folder / "reputation"
        if kept.exists():
            self.reputation = Reputation.from_bytes(kept.read_bytes(), self.reputation.trust)
        self._trained.load_optimizer_state(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])
        self._generator.set_state(state["generator"])
        self.progress = Progress(**state["progress"])
        self.parts.load_state_dict(state.get("parts", {}))
        if self.config.train.kl:
            if "reference" not in state:
                raise ConfigError(f"train.kl is {self.config.train.kl}, but {self._checkpoint} began without a reference; leave it at 0")
            self._reference = self._frozen(state["reference"])
        # Versions that went out after the checkpoint are with workers, who are no liars for it.
        self.progress.version = max(self.progress.version, int((self._folder / "version").read_bytes()))
        self._events.say("resumed", update=self.progress.update)
        return True
