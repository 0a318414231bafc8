"""The roles of a run in one process, over a network in memory: in threads that a test starts and that are ended with it."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.rl.config import Config, load
from examples.rl.events import Events, read
from examples.rl.generate import generate
from examples.rl.messages import GROUP, Parcel, Receipt
from examples.rl.network import Network, Role
from examples.rl.proofs import prove
from examples.rl.rollout import RolloutGroup, seal
from examples.rl.trainer import Stopped, Trainer
from examples.rl.verifier import Verifier
from examples.rl.weights import Follower
from examples.rl.worker import Worker
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.memory import Network as Memory

SMALL = {
    "warmup.steps": 3,
    "warmup.batch": 4,
    "train.updates": 3,
    "train.groups": 4,
    "train.completions": 4,
    "train.evaluate_every": 3,
    "verify.rate": 1.0,
}
WAIT_S = 200.0  # a bound for machines with other work; what is waited for comes in a second
TRAINER, VERIFIER = (Identity.from_seed(bytes([i]) * 32) for i in (1, 2))
PINNED = {"network.trainers": [TRAINER.key.hex()], "network.verifiers": [VERIFIER.key.hex()]}


class Said(Events):
    """Events that a test can wait for."""

    def __init__(self, role: str) -> None:
        self.lines = io.StringIO()
        super().__init__(role, as_json=True, stream=self.lines)
        self.news = threading.Condition()

    def say(self, event: str, **numbers: Any) -> None:
        super().say(event, **numbers)
        with self.news:
            self.news.notify_all()

    def all(self, event: str) -> list[dict[str, Any]]:
        found = [read(line) for line in self.lines.getvalue().splitlines()]
        return [each for each in found if each is not None and each["event"] == event]

    def wait(self, event: str, good: Callable[[dict[str, Any]], bool] = lambda event: True) -> dict[str, Any]:
        with self.news:
            assert self.news.wait_for(lambda: any(map(good, self.all(event))), WAIT_S), self.lines.getvalue()[-2000:]
        return next(each for each in self.all(event) if good(each))


class World:
    """Roles in threads; all of them are ended at the end of a test."""

    def __init__(self, folder: Path, changes: dict[str, Any]) -> None:
        self.memory, self.folder = Memory(), folder
        self.config: Config = load(Path("examples/rl/tiny.toml"), SMALL | PINNED | changes)
        self.events: list[Said] = []
        self.closing: list[Callable[[], None]] = []
        self.threads: list[threading.Thread] = []
        self.failed: list[BaseException] = []

    def network(self, role: Role, identity: Identity) -> Network:
        made = Network(self.config.run, role, identity=identity, transport=lambda one: self.memory.node(one.key))
        made.start()
        self.closing.append(made.close)
        return made

    def trainer(self) -> tuple[Trainer, Said]:
        events = self._said("trainer")
        made = Trainer(self.config, self.network("trainer", TRAINER), self.folder, events)
        self.closing.append(made.close)
        return made, events

    def worker(self, identity: Identity) -> tuple[Worker, Said]:
        events = self._said("worker")
        return Worker(self.config, self.reached("worker", identity), events, trainer=TRAINER.key), events

    def verifier(self) -> tuple[Verifier, Said]:
        events = self._said("verifier")
        return Verifier(self.config, self.reached("verifier", VERIFIER), events, trainer=TRAINER.key), events

    def reached(self, role: Role, identity: Identity) -> Network:
        network = self.network(role, identity)
        assert network.wait_for(lambda: network.peers("trainer") == [TRAINER.key], WAIT_S)
        return network

    def start(self, run: Callable[[], object]) -> threading.Thread:
        def main() -> None:
            try:
                run()
            except Stopped:
                pass
            except BaseException as error:
                self.failed.append(error)

        thread = threading.Thread(target=main)
        self.threads.append(thread)
        thread.start()
        return thread

    def end(self) -> None:
        for events in self.events:
            events.alive = False
        for thread in self.threads:
            thread.join(WAIT_S)
        for close in reversed(self.closing):
            close()

    def _said(self, role: str) -> Said:
        self.events.append(Said(role))
        return self.events[-1]


def someone(i: int) -> Identity:
    return Identity.from_seed(bytes([100 + i]) * 32)


class Liar:
    """A worker of whose groups a test changes what it likes."""

    def __init__(self, world: World, identity: Identity) -> None:
        self.world, self.identity = world, identity
        self.network = world.reached("worker", identity)
        self.worker, _ = world.worker(someone(99))
        self.follower = Follower(self.network, world.config.run, TRAINER.key, self.worker.policy.module)
        world.closing += [self.follower.close, self.worker._weights.close]
        assert self.follower.wait(0, WAIT_S)
        version = self.follower.newest()
        assert version is not None
        version.load_into(self.worker.policy.module)
        self.version = version

    def group(self, n: int = 0) -> RolloutGroup:
        config = self.world.config
        [group] = generate(
            self.worker.policy,
            self.worker.environment,
            run=config.run,
            worker=self.identity.key,
            version=self.version.number,
            numbers=[n],
            completions=4,
            max_new=config.task.max_new_tokens,
            generator=torch.Generator().manual_seed(n),
        )
        return group

    def proved(self, group: RolloutGroup) -> RolloutGroup:
        return prove(group, self.worker.policy, self.version.sha256)

    def send(self, data: bytes) -> Receipt:
        return Receipt.decode(self.network.ask(TRAINER.key, GROUP, Parcel(data).encode()))

    def send_group(self, group: RolloutGroup) -> Receipt:
        return self.send(seal(group, self.identity))
