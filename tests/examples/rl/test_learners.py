"""Several learners that average, one of which is killed and comes back: in one process, over a network in memory."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import examples.rl.__main__ as main
import examples.rl.trainer
from examples.rl.config import load
from examples.rl.events import Events
from examples.rl.network import Network
from examples.rl.trainer import Stopped, Trainer
from thinwire import SwarmGroup
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.memory import Network as Memory
from thinwire.comms.swarm.transport import PeerError

UPDATES, EVERY = 24, 2
SMALL = {
    "warmup.steps": 2,
    "warmup.batch": 4,
    "train.updates": UPDATES,
    "train.groups": 2,
    "train.own_groups": 2,
    "train.completions": 4,
    "train.evaluate_every": UPDATES,
    "train.checkpoint_every": 2,
    "learners.sync_every": EVERY,
}


class Told(Events):
    """Events to wait for; after the update `hold` this learner goes on only when it is `released`."""

    def __init__(self, hold: int | None) -> None:
        super().__init__("trainer", as_json=True, stream=io.StringIO())
        self.all: list[dict[str, Any]] = []
        self.news, self.released, self._hold = threading.Condition(), threading.Event(), hold

    def say(self, event: str, **numbers: Any) -> None:
        super().say(event, **numbers)
        with self.news:
            self.all.append({"event": event, **numbers})
            self.news.notify_all()
        if event == "update" and numbers["update"] == self._hold:
            assert self.released.wait(60)

    def go_on(self, *, hold: int) -> None:
        """To another update, and stop there again."""
        released, self.released, self._hold = self.released, threading.Event(), hold
        released.set()

    def wait(self, event: str, least: int = 0) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [each for each in self.all if each["event"] == event and each.get("update", 0) >= least]

        with self.news:
            assert self.news.wait_for(lambda: bool(found()), 60), self.all[-5:]
            return found()[0]


class Place:
    """A learner in a thread, with the folder that it finds again when it comes back."""

    def __init__(self, memory: Memory, folder: Path, i: int, *, first: bool, hold: int | None = None) -> None:
        self.memory, self.folder = memory, folder / str(i)
        self.folder.mkdir(exist_ok=True)
        identity, member = (Identity.from_seed(bytes([10 * i + j + 1]) * 32) for j in range(2))
        self.keys = identity.key, member.key
        self.config = load(Path("examples/rl/learners.toml"), dict(SMALL))
        self.network = Network(self.config.run, "trainer", identity=identity, transport=lambda one: memory.node(one.key))
        self.network.start()
        self.group = SwarmGroup("learners", None if first else ["somebody"], identity=member, transport=lambda one: memory.node(one.key))
        self.events = Told(hold)
        self.trainer = Trainer(self.config, self.network, self.folder, self.events, group=self.group)
        self.failed: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            self.trainer.run()
        except Stopped:
            pass
        except BaseException as error:
            self.failed.append(error)

    def kill(self) -> None:
        """As kill -9 looks to the others."""
        for key in self.keys:
            self.memory.kill(key)
        self.end()

    def end(self) -> None:
        if not self.events.alive:
            return
        self.events.alive = False
        self.events.released.set()
        self.thread.join(60)
        self.trainer.close()
        self.group.leave()
        self.network.close()
        assert not self.failed, self.failed

    def rounds(self) -> dict[int, tuple[int, int]]:
        """By number: the hash of what learners share before it, and how many took part."""
        lines = map(json.loads, (self.folder / "rounds.jsonl").read_text().splitlines())
        return {line["round"]: (line["state_hash"], len(line["members"])) for line in lines if line["error"] is None}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    monkeypatch.setattr(examples.rl.trainer, "evaluate", lambda *args, **options: 0.5)
    memory, made = Memory(), list[Place]()

    def one(i: int, **options: Any) -> Place:
        made.append(Place(memory, tmp_path, i, first=i == 0, **options))
        return made[-1]

    yield one
    for each in made:
        each.end()


@pytest.mark.slow
def test_a_learner_that_was_killed_goes_on_from_where_the_others_are(place: Callable[..., Place]) -> None:
    first = place(0, hold=1)
    first.events.wait("update", 1)
    second = place(1, hold=5)
    second.events.wait("update", 1)
    first.events.go_on(hold=7)
    second.events.wait("update", 5)
    second.kill()
    assert torch.load(second.folder / "trainer.pt", weights_only=True)["progress"]["update"] == 4
    first.events.wait("update", 7)
    again = place(1)
    assert again.events.wait("resumed")["update"] == 4
    assert again.events.wait("joined")["update"] in (6, 7)  # of the first's round, not of its own checkpoint
    first.events.released.set()
    assert [each.events.wait("end")["update"] for each in (first, again)] == [UPDATES, UPDATES]
    updates = [each["update"] for each in again.events.all if each["event"] == "update"]
    assert updates == list(range(updates[0], UPDATES + 1))
    mine, theirs = again.rounds(), first.rounds()
    common = [round_ for round_ in mine.keys() & theirs.keys() if theirs[round_][1] == 2]
    assert max(common) > 3
    assert all(mine[round_][0] == theirs[round_][0] for round_ in common)


class Late:
    """The network of a trainer, and its clock: another trainer is there after so many seconds."""

    def __init__(self, identity: Identity, other_after_s: float) -> None:
        self.identity, self._after_s, self.now = identity, other_after_s, 0.0
        self.served: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def peers(self, role: str) -> list[bytes]:
        return [bytes(32)] if self.now >= self._after_s else []

    def ask(self, *question: Any) -> bytes:
        return msgspec.msgpack.encode(["/ip4/there"])

    def serve(self, name: str, handler: Any) -> None:
        self.served.append(name)


@pytest.mark.parametrize(
    ("first", "back", "other_after_s", "joins"),
    [(True, False, 99.0, None), (True, True, 20.0, ["/ip4/there"]), (True, True, 99.0, None), (False, False, 50.0, ["/ip4/there"])],
)
def test_the_first_learner_begins_a_swarm_but_looks_for_the_others_when_it_was_one(
    first: bool, back: bool, other_after_s: float, joins: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, other = Identity.generate(), Identity.generate()
    keys = [one.key.hex() for one in ((me, other) if first else (other, me))]
    peers = ["/ip4/127.0.0.1/tcp/1"] if back or not first else []
    config = load(Path("examples/rl/learners.toml"), {"network.trainers": keys, "network.initial_peers": peers})
    if back:
        Identity.load_or_create(tmp_path / "learner-key")
    network, given = Late(me, other_after_s), list[Any]()

    def group(run: str, known: list[str] | None, **options: Any) -> Any:
        given.append(known)
        return type("Group", (), {"addresses": lambda self: ["/ip4/here"]})()

    monkeypatch.setattr(main, "time", network)
    monkeypatch.setattr(main, "SwarmGroup", group)
    main.learners(config, network, tmp_path)  # type: ignore[arg-type]
    assert given == [joins]
    assert network.now <= (31 if back else 4 if first else 60)
    assert network.served == ["rl/learners"]


def test_a_learner_that_finds_no_other_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me, other = Identity.generate(), Identity.generate()
    config = load(Path("examples/rl/learners.toml"), {"network.trainers": [other.key.hex(), me.key.hex()]})
    network = Late(me, 99.0)
    monkeypatch.setattr(main, "time", network)
    with pytest.raises(PeerError, match="start the first of the trainers' keys first"):
        main.learners(config, network, tmp_path)  # type: ignore[arg-type]
