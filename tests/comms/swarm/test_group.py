"""`SwarmGroup` over a network inside the process: members found, join, die, freeze, are cut off and come back, and stay identical."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import thinwire
from thinwire.comms.swarm import history, verify
from thinwire.comms.swarm.group import SwarmGroup
from thinwire.comms.swarm.memory import Network
from thinwire.optim.agree import ConfigError


class Swarm:
    """Members of one run in threads; each trains until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        self.network, self.folder = Network(), folder
        self.members: list[Member] = []
        self.pool = ThreadPoolExecutor(16)

    def add(self, **settings: Any) -> "Member":
        member = Member(self, first=not self.members, **settings)
        self.members.append(member)
        member.future = self.pool.submit(member.train)
        return member

    def gather(self, members: int) -> list["Member"]:
        """So many members, one after the other, of whom the last has come in when a round has counted all; those."""
        for _ in range(members):
            self.add()
            self.members[0].rounds(1, counted=len(self.members))
        return self.members

    def stop(self) -> list["Member"]:
        """End all members that are alive, one after the other; those."""
        alive = [member for member in self.members if not member.dead]
        for member in alive:
            member.stopping.set()
        for member in alive:
            member.future.result(60)
        return alive


class Member:
    def __init__(
        self,
        swarm: Swarm,
        *,
        first: bool,
        width: int = 32,
        sync_every: int = 2,
        split: str = "continue",
        lr: float = 0.05,
        **options: Any,
    ) -> None:
        self.group = SwarmGroup(
            "run",
            None if first else ["somebody"],
            transport=lambda identity: swarm.network.node(identity.key),
            history=swarm.folder,
            split=split,
        )
        self.key = self.group.identity.key
        self.model = torch.nn.Linear(width, width)
        inner = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.opt = thinwire.DiLoCo(inner, group=self.group, sync_every=sync_every, on_round=self._on_round, **options)
        self.stopping, self.dead = threading.Event(), False
        self.counted = 0
        self.round = 0
        self.news = threading.Condition()
        self.frozen = threading.Event()
        self.future: Any = None

    def _on_round(self, info: Any) -> None:
        with self.news:
            self.round = info.round
            self.counted = len(info.members)
            self.news.notify_all()

    def train(self) -> None:
        width = self.model.weight.shape[0]
        generator = torch.Generator().manual_seed(self.key[0])
        try:
            while not self.stopping.is_set():
                x = torch.randn(8, width, generator=generator)
                loss = ((self.model(x) - x) ** 2).mean()
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                time.sleep(0.002)  # a step's work: threads share one interpreter
            if not self.dead:
                self.opt.close(timeout_s=20)
        finally:
            self.group.leave()

    def kill(self, network: Network) -> None:
        """As kill -9: no word of leaving, no stream left."""
        self.dead = True
        network.kill(self.key)
        self.stopping.set()

    def wait(self, good: Callable[["Member"], bool], timeout_s: float = 20.0) -> None:
        with self.news:
            if not self.news.wait_for(lambda: good(self), timeout_s):
                raise AssertionError(f"not within {timeout_s} s: at round {self.round}, {self.counted} count, {self.group!r}")

    def rounds(self, n: int = 3, counted: int | None = None) -> None:
        """Wait for `n` more rounds in which `counted` members count."""
        start = self.round
        self.wait(lambda m: m.round >= start + n and (counted is None or m.counted == counted))


@pytest.fixture
def swarm(tmp_path: Path):
    swarm = Swarm(tmp_path)
    yield swarm
    for member in swarm.members:
        member.stopping.set()
        member.group.leave()
    swarm.pool.shutdown(wait=True)


def check(swarm: Swarm) -> None:
    verdict = verify.check(swarm.folder)
    assert not verdict.violations, verdict.violations[:5]
    assert verdict.checked["same state"] > 0
    assert verdict.checked["bytes"] > 0


def test_members_join_and_stay_identical(swarm: Swarm) -> None:
    first = swarm.add()
    first.rounds(2)
    swarm.add()
    swarm.add()
    first.rounds(3, counted=3)
    swarm.stop()
    check(swarm)


def test_behind_a_gate_members_send_a_fraction_of_their_payloads_and_count_it(swarm: Swarm) -> None:
    gated = {"width": 300, "lr": 1e-4, "codec": "int8", "visible": torch.bfloat16}
    first = swarm.add(**gated)
    swarm.add(**gated)
    first.rounds(2, counted=2)  # what the newcomer took is counted
    before = [member.opt.stats() for member in swarm.members]
    first.rounds(4, counted=2)
    swarm.stop()
    for member, then in zip(swarm.members, before, strict=True):
        now = member.opt.stats()
        payload, sent, received = (getattr(now, f) - getattr(then, f) for f in ("payload_sent", "wire_sent", "wire_received"))
        assert 0 < sent < payload / 4  # with heartbeats
        assert 0 < received < payload / 4
    check(swarm)  # of all rounds; after the last one members leave as they come to it, and not with the same weights


def test_who_is_killed_is_not_missed(swarm: Swarm) -> None:
    first, _, _, last = swarm.gather(4)
    last.kill(swarm.network)
    began = time.monotonic()
    first.rounds(2, counted=3)
    assert time.monotonic() - began < 5
    swarm.members[1].kill(swarm.network)
    first.rounds(2, counted=2)
    swarm.members[2].kill(swarm.network)
    first.rounds(2, counted=1)
    swarm.add()
    first.rounds(2, counted=2)
    swarm.stop()
    check(swarm)


def test_the_founder_dies(swarm: Swarm) -> None:
    swarm.gather(3)
    swarm.members[0].kill(swarm.network)
    swarm.members[1].rounds(2, counted=2)
    swarm.add()
    swarm.members[1].rounds(2, counted=3)
    swarm.stop()
    check(swarm)


def test_all_but_one_die_at_once(swarm: Swarm) -> None:
    swarm.gather(4)
    for member in swarm.members[:3]:
        member.kill(swarm.network)
    swarm.members[3].rounds(2, counted=1)
    swarm.add()
    swarm.members[3].rounds(2, counted=2)
    swarm.stop()
    check(swarm)


def test_who_was_cut_off_comes_back(swarm: Swarm) -> None:
    a, b, c = swarm.gather(3)
    for other in (a, b):
        swarm.network.cut(c.key, other.key)
    a.rounds(3, counted=2)
    for other in (a, b):
        swarm.network.join(c.key, other.key)
    a.rounds(3, counted=3)
    swarm.stop()
    check(swarm)


@pytest.mark.parametrize(("members", "loud"), [(3, True), (4, False)], ids=["loud", "silent"])
def test_two_that_cannot_talk_to_each_other_count_through_the_rest(swarm: Swarm, members: int, loud: bool) -> None:
    a, b, *_ = swarm.gather(members)
    epoch = a.group._driver.machine.epoch
    swarm.network.cut(a.key, b.key, loud=loud)
    a.rounds(1)
    began = time.monotonic()
    a.wait(lambda m: m.counted == members and time.monotonic() - began > 2)  # silence is noticed after 1 to 1.5 s
    counted = []
    for _ in range(10):
        a.rounds(1)
        counted.append((a.counted, b.counted))
    assert counted.count((members, members)) >= 8, counted
    swarm.network.join(a.key, b.key)
    a.rounds(2, counted=members)
    assert {member.group._driver.machine.epoch for member in swarm.members} == {epoch}  # nobody went on alone
    swarm.stop()
    check(swarm)


def test_a_newcomer_that_cannot_reach_one_of_the_members_comes_in(swarm: Swarm) -> None:
    swarm.gather(3)
    newcomer = Member(swarm, first=False)
    swarm.network.cut(swarm.members[0].key, newcomer.key, loud=True)
    swarm.members.append(newcomer)
    newcomer.future = swarm.pool.submit(newcomer.train)
    swarm.members[0].rounds(3, counted=4)
    swarm.stop()
    check(swarm)


def test_an_incarnation_that_is_over_says_so_and_has_no_say_in_the_next(swarm: Swarm) -> None:
    a, b = swarm.add(), swarm.add()
    a.rounds(3, counted=2)
    old = b.group._driver
    assert old is not None

    def sent_away() -> None:
        b.group._loop.submit(b.group._go_astray(old, "the others have gone on without this member")).result(10)

    sent_away()
    b.wait(lambda m: m.group._driver is not old)
    a.rounds(3, counted=2)
    sent_away()  # a word that comes late
    assert b.group.astray is None
    swarm.stop()
    check(swarm)
    lives: dict[str, list[history.Event]] = {}
    for event in history.read(swarm.folder):
        if event.member == b.key.hex():
            lives.setdefault(event.nonce, []).append(event)
    first, second = sorted(lives.values(), key=lambda events: events[0].mono)
    assert (first[0].kind, first[-1].kind) == ("join", "leave")
    assert (second[0].kind, second[0].why) == ("rejoin", "the others have gone on without this member")


def test_members_that_are_all_sent_away_at_once_find_each_other_again(swarm: Swarm) -> None:
    swarm.gather(3)
    for member in swarm.members:
        member.group._loop.submit(member.group._go_astray(member.group._driver, "a word of somebody who is gone")).result(10)
    before = max(member.round for member in swarm.members)
    for member in swarm.members:
        member.wait(lambda m: m.counted == 3 and m.round > before + 3)
    swarm.stop()
    check(swarm)
    alone = [event.member for event in history.read(swarm.folder) if event.kind == "epoch" and len(event.members) == 1]
    assert min(member.key.hex() for member in swarm.members) in alone  # the rest came to it


def test_another_model_is_refused_at_the_door(swarm: Swarm) -> None:
    swarm.add().rounds(1)
    stranger = swarm.add(width=16)
    with pytest.raises(ConfigError, match=r"\(16, 16\).*\(32, 32\)"):
        stranger.future.result(30)
    stranger.dead = True
    swarm.members[0].rounds(2)
    swarm.stop()


def test_other_settings_are_refused_at_the_door(swarm: Swarm) -> None:
    swarm.add().rounds(1)
    stranger = swarm.add(sync_every=3)
    with pytest.raises(ConfigError, match="sync_every"):
        stranger.future.result(30)
    stranger.dead = True
    swarm.stop()


def test_who_is_sent_away_before_it_has_begun_comes_back_as_one_incarnation(swarm: Swarm) -> None:
    first = swarm.add()
    first.rounds(2)
    member = Member(swarm, first=False)
    enter, incarnations = member.group.enter, []

    def entering(door: Any) -> None:
        enter(door)
        incarnations.append(member.group._driver)
        if len(incarnations) == 1:  # as when it meets another lineage in the same moment
            why = "another lineage of this run has more work in it"
            member.group._loop.submit(member.group._go_astray(incarnations[0], why)).result(10)

    member.group.enter = entering  # type: ignore[method-assign]
    swarm.members.append(member)
    member.future = swarm.pool.submit(member.train)
    first.rounds(3, counted=2)
    assert len(incarnations) == 2
    assert incarnations[0].closed
    swarm.stop()
    check(swarm)
