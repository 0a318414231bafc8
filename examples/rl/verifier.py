"""A verifier: looks at groups that were accepted, with one prefill of what a challenge draws, and tells their trainer what it found."""

from __future__ import annotations

import time

from examples.rl.beacon import Chain
from examples.rl.config import Config
from examples.rl.events import Events
from examples.rl.messages import MAX_LISTED, PENDING, VERDICT, Look, Sample, Samples, Verdict
from examples.rl.network import Network
from examples.rl.policy import policy
from examples.rl.proofs import examine, thresholds_from
from examples.rl.rollout import RolloutError, unseal
from examples.rl.weights import Follower
from thinwire.comms.swarm.transport import Key, PeerError
from thinwire.comms.verify.beacon import BeaconError

LOOK_S = 0.3
KEPT = 16  # versions
SAY_S = 1.0


class Verifier:
    """Works for one trainer until nobody listens to this process any more."""

    def __init__(self, config: Config, network: Network, events: Events, *, trainer: Key) -> None:
        self.config, self._network, self._events, self._trainer = config, network, events, trainer
        self.policy = policy(config.task.policy, seed=config.seed)
        self._weights = Follower(network, config.run, trainer, self.policy.module, keep=KEPT)
        self._chain = Chain(config.run, trainer)
        self._loaded = -1
        self._said = float("-inf")
        self.looked = 0

    def run(self) -> None:
        """Ask for groups and look at them."""
        try:
            while self._events.alive:
                if not self._round():
                    self._weights.wait(self._newest(), LOOK_S)
                self._say()
        finally:
            self._weights.close()

    def _newest(self) -> int:
        newest = self._weights.newest()
        return newest.number if newest else 0

    def _round(self) -> bool:
        """Whether there was anything to look at."""
        self._newest()
        try:
            answer = Samples.decode(self._network.ask(self._trainer, PENDING, Look(self._chain.tick).encode()))
            self._chain.take(answer.anchor, answer.links)
        except (PeerError, BeaconError) as error:
            self._events.say("trouble", why=str(error))
            return False
        found = False
        for sample in answer.samples[:MAX_LISTED]:
            try:
                found |= self._look(sample)
            except PeerError as error:
                self._events.say("trouble", why=str(error))
        return found

    def _look(self, sample: Sample) -> bool:
        """One group; False when it cannot be judged (yet): its challenge is not drawn, or its weights have not come by."""
        try:
            randomness = self._chain.randomness(sample.round)
        except BeaconError:
            return False
        data = self._network.fetch(sample.digest, sample.nbytes, [self._trainer])
        try:
            looked = self._examine(data, randomness)
        except RolloutError as error:
            return self._tell(sample, error.reason, str(error))
        return looked and self._tell(sample)

    def _examine(self, data: bytes, randomness: bytes) -> bool:
        """Raises `RolloutError` for a group that is not honest; False where its weights have not come by."""
        group = unseal(data, run=self.config.run)
        version = self._weights.at(group.version)
        if version is None:
            return False
        if self._loaded != version.number:
            version.load_into(self.policy.module)
            self._loaded = version.number
        config = self.config
        examine(
            group,
            self.policy,
            version.sha256,
            randomness,
            drift_nats=config.verify.drift_nats,
            temperature=config.task.temperature,
            proofs=config.verify.proofs,
            thresholds=thresholds_from(version.extra),
        )
        return True

    def _tell(self, sample: Sample, reason: str = "", detail: str = "") -> bool:
        self.looked += 1
        verdict = Verdict(sample.digest, not reason, reason, detail[:200])
        self._network.ask(self._trainer, VERDICT, verdict.encode())
        return True

    def _say(self) -> None:
        if time.monotonic() - self._said > SAY_S:
            self._said = time.monotonic()
            transport = self._network.transport
            self._events.say("looked", groups=self.looked, sent=transport.sent_nbytes, received=transport.received_nbytes)
