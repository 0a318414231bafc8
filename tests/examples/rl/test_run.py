"""A trainer, workers and a verifier in one process over a network in memory: what flows, what is refused, and what goes on all the same."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
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
            assert self.news.wait_for(lambda: any(map(good, self.all(event))), 60), self.lines.getvalue()[-2000:]
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
        assert network.wait_for(lambda: network.peers("trainer") == [TRAINER.key], 30)
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
            thread.join(60)
        for close in reversed(self.closing):
            close()

    def _said(self, role: str) -> Said:
        self.events.append(Said(role))
        return self.events[-1]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def one(**changes: Any) -> World:
        made.append(World(tmp_path, {name.replace("__", "."): value for name, value in changes.items()}))
        return made[-1]

    yield one
    for world in made:
        world.end()
        assert not world.failed, world.failed


def someone(i: int) -> Identity:
    return Identity.from_seed(bytes([100 + i]) * 32)


@pytest.mark.parametrize(("mode", "proofs"), [("push_pull", True), ("pull", True), ("pull", False)])
def test_a_run_learns_from_workers_and_a_verifier_looks_at_what_they_send(make: Callable[..., World], mode: str, proofs: bool) -> None:
    world = make(train__mode=mode, train__max_staleness=0 if mode == "pull" else 4, verify__proofs=proofs)
    trainer, said = world.trainer()
    world.start(trainer.run)
    for i in range(2):
        world.start(world.worker(someone(i))[0].run)
    world.start(world.verifier()[0].run)
    end = said.wait("end")
    assert end["update"] == 3
    assert [each["update"] for each in said.all("accuracy")] == [0, 3]
    ages = [int(age) for each in said.all("update") for age in each["staleness"]]
    assert max(ages) <= world.config.train.max_staleness
    assert not said.wait("verdict")["reason"]
    assert all(each["accepted"] for each in said.all("verdict")), said.all("verdict")


def test_a_killed_trainer_goes_on_where_it_was(make: Callable[..., World]) -> None:
    world = make(train__checkpoint_every=1)
    trainer, said = world.trainer()
    run = world.start(trainer.run)
    world.start(world.worker(someone(0))[0].run)
    said.wait("update", lambda event: event["update"] == 2)
    trainer._events.alive = False
    run.join(60)
    saved = torch.load(world.folder / "trainer.pt", weights_only=True)["progress"]
    trainer.close()
    world.closing.remove(trainer.close)
    again = Trainer(world.config, trainer._network, world.folder, fresh := world._said("trainer"))
    world.closing.append(again.close)
    world.start(again.run)
    assert fresh.wait("resumed")["update"] == saved["update"] >= 1
    assert fresh.wait("end")["update"] == 3
    assert again.progress.version > saved["version"]


class Liar:
    """A worker of whose groups a test changes what it likes."""

    def __init__(self, world: World, identity: Identity) -> None:
        self.world, self.identity = world, identity
        self.network = world.reached("worker", identity)
        self.worker, _ = world.worker(someone(99))
        self.follower = Follower(self.network, world.config.run, TRAINER.key, self.worker.policy.module)
        world.closing += [self.follower.close, self.worker._weights.close]
        assert self.follower.wait(0, 60)
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


def lied(make: Callable[..., World]) -> tuple[World, Trainer, Said, Liar]:
    """A trainer that waits for more groups than a liar sends."""
    world = make(train__groups=16, train__updates=1)
    trainer, said = world.trainer()
    world.start(trainer.run)
    said.wait("accuracy")
    return world, trainer, said, Liar(world, someone(0))


def test_every_lie_is_refused_with_its_reason_and_training_goes_on(make: Callable[..., World]) -> None:
    _, trainer, _, liar = lied(make)
    change = msgspec.structs.replace
    fair = liar.group(0)
    lies = {
        "schema": lambda: liar.send(b"\x80\x04\x95pickle"),
        "signature": lambda: liar.send(seal(change(fair, worker=bytes(32)), liar.identity)),
        "future": lambda: liar.send_group(change(fair, version=fair.version + 5)),
        "environment": lambda: liar.send_group(change(fair, environment="other")),
        "prompt": lambda: liar.send_group(change(liar.group(1), prompt="11111=")),
        "skipping": lambda: liar.send_group(liar.group(3000)),
    }
    for reason, lie in lies.items():
        trainer.reputation = type(trainer.reputation)()  # each for itself: a ban would hide the next
        trainer._intake._reputation = trainer.reputation
        receipt = lie()
        assert (receipt.accepted, receipt.reason) == (False, reason)
    trainer._intake._reputation = type(trainer.reputation)()
    assert liar.send_group(liar.group(2)).accepted
    assert liar.send_group(liar.group(2)).accepted  # the same bytes again: the first receipt may have been lost
    assert liar.send_group(liar.proved(liar.group(2))).reason == "replay"
    assert sum(trainer._intake.refused.values()) == len(lies) + 1


def test_rewards_that_are_not_so_are_computed_again_and_counted(make: Callable[..., World]) -> None:
    _, trainer, _, liar = lied(make)
    fair = liar.group(0)
    receipt = liar.send_group(msgspec.structs.replace(fair, rewards=(1.0,) * 4))
    assert receipt.accepted
    [held] = [group for queue in trainer.buffer._state.queues.values() for group in queue]
    assert held.rewards == fair.rewards
    assert trainer._intake._checks.counts["false reward"] == 4 - sum(map(int, fair.rewards))
    assert trainer.reputation.score(liar.identity.key) < trainer.reputation.score(bytes(32))


def test_a_worker_with_other_weights_is_found_banned_and_what_it_sent_is_dropped(make: Callable[..., World]) -> None:
    world, trainer, said, liar = lied(make)
    world.start(world.verifier()[0].run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in liar.worker.policy.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    assert liar.send_group(liar.proved(liar.group(0))).accepted
    verdict = said.wait("verdict")
    assert verdict["reason"] in ("activations", "drift")
    assert trainer.reputation.banned(liar.identity.key)
    assert len(trainer.buffer) == 0
    assert liar.send_group(liar.proved(liar.group(1))).reason == "banned"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: {"proof": b""}, "commitment"),
        (lambda one: {"proof": bytes(len(one.proof))}, "commitment"),
        (lambda one: {"logprobs": bytes(len(one.logprobs))}, "commitment"),
    ],
)
def test_what_is_not_what_was_committed_to_is_refused(make: Callable[..., World], change: Any, reason: str) -> None:
    world, _, said, liar = lied(make)
    world.start(world.verifier()[0].run)
    group = liar.proved(liar.group(0))
    one = msgspec.structs.replace(group.completions[0], **change(group.completions[0]))
    liar.send_group(msgspec.structs.replace(group, completions=(one, *group.completions[1:])))
    assert said.wait("verdict")["reason"] == reason


def test_a_group_that_is_too_large_for_a_message_is_fetched_and_one_that_lies_about_itself_is_not(make: Callable[..., World]) -> None:
    _, trainer, _, liar = lied(make)
    data = seal(liar.group(0), liar.identity)
    ask = lambda parcel: Receipt.decode(liar.network.ask(TRAINER.key, GROUP, parcel.encode()))  # noqa: E731
    assert ask(Parcel(b"", hashlib.sha256(data).digest(), len(data))).reason == "oversized"  # small ones come along
    assert ask(Parcel(b"", bytes(32), 1 << 40)).reason == "oversized"
    assert not ask(Parcel(b"", bytes(32), 100_000)).accepted  # nobody has it
    assert len(trainer.buffer) == 0
