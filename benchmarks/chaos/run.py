"""Run a plan of faults against a swarm: strike, watch, wait until it has healed, and strike again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.faults import Fault
from benchmarks.chaos.fleet import Member
from benchmarks.chaos.nemesis import Nemesis
from benchmarks.chaos.swarm import BOOTSTRAP, Swarm
from benchmarks.chaos.watch import Done

CALM_ROUNDS = 10  # before the first fault and after the last, which are calm
HEAL_S = 60.0  # for everybody to be there again: longer is a hang
START_S = 240.0  # for the first time: everything is imported once
LEAVE_S = 30.0
LOOK_S = 0.2


class ChaosError(RuntimeError):
    """The run could not go on: a member's script failed, or the swarm never came up."""


@dataclass
class Chaos:
    """One run; `tell` gets a line for a person now and then. `every_s` is the time from one fault to the next, at least.

    Throughput is measured against the calm of the same run: before the first fault, after the last, and the second half of each `every_s`.
    """

    swarm: Swarm
    faults: Sequence[Fault]
    tell: Callable[[str], None] = lambda line: None
    every_s: float = 0.0
    calm_rounds: int = CALM_ROUNDS
    missed: list[str] = field(default_factory=list)  # faults that found nobody to hit
    stuck: list[str] = field(default_factory=list)  # who was not there in HEAL_S
    calm: Done = field(default_factory=Done)
    done: Done = field(default_factory=Done)  # from the first fault until all have come back from the last
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.watch, self.clock = self.swarm.watch, self.swarm.clock
        self.nemesis = Nemesis(self.swarm, self.clock)
        self._marks: dict[str, int] = {}
        self._last = 0.0

    def run(self) -> None:
        """From the first process to the last. Raises `ChaosError`."""
        began = self.clock()
        self.swarm.begin()
        if not self._until(lambda: self._calm(1), START_S):
            raise ChaosError(f"the swarm did not come up in {START_S:g} s; up: {self.watch.up()}")
        self._rest()
        before = self.watch.done(self.clock())
        for fault in self.faults:
            self._strike(fault)
        self._heal(2)
        self.done = self.watch.done(self.clock()) - before
        self._rest()
        self._leave()
        self.seconds = self.clock() - began

    def _rest(self) -> None:
        """A while in which nothing happens."""
        self._mark()
        with self._in_calm():
            self._until(lambda: self._calm(self.calm_rounds))

    @contextmanager
    def _in_calm(self) -> Iterator[None]:
        before = self.watch.done(self.clock())
        yield
        self.calm += self.watch.done(self.clock()) - before

    def _strike(self, fault: Fault) -> None:
        overlaps = fault.overlaps and len(self.swarm.up()) > 1 and not self.every_s
        if not overlaps:
            self._heal(fault.rounds)
        self._wait(self._last + self.every_s / 2)
        with self._in_calm() if self._calm(0) else nullcontext():
            self._wait(self._last + self.every_s)
        self._mark()
        self._last = self.clock()
        if self.nemesis.strike(fault):
            self.watch.struck[fault.kind] += 1
        else:
            self.missed.append(str(fault))
        self.tell(f"{fault.number + 1}/{len(self.faults)} {fault}; {self.watch.rounds} rounds, {len(self.watch.hangs)} hangs")

    def _wait(self, until: float) -> None:
        self._until(lambda: self.clock() >= until, limit_s=self.every_s + 1)

    def _heal(self, rounds: int) -> None:
        """Wait until everybody is there and `rounds` have passed for all."""
        if self._until(lambda: self._calm(rounds)):
            return
        late = [f"{member.name} at {self._where(member)}" for member in self.swarm.fleet.members.values() if member.identity != BOOTSTRAP]
        self.stuck.append(f"not healed in {HEAL_S:g} s: {', '.join(late)}")
        self.tell(self.stuck[-1])
        self._ask()
        self._until(lambda: False, limit_s=1.0)
        for member in list(self.swarm.fleet.members.values()):
            if member.identity != BOOTSTRAP and member.name not in self.watch.up():
                self.swarm.kill(member)

    def _ask(self) -> None:
        """Let everybody say where it is."""
        for member in self.swarm.fleet.members.values():
            if not member.frozen:
                member.tell("where")

    def _calm(self, rounds: int) -> bool:
        return (
            not self.nemesis.busy
            and self.swarm.whole()
            and all(self.watch.seen[name].rounds - self._marks.get(name, 0) >= rounds for name in self.watch.up())
        )

    def _where(self, member: Member) -> str:
        one = self.watch.seen.get(member.name)
        return "nothing" if one is None or one.since is None else f"round {one.round}{', frozen' if one.frozen else ''}"

    def _mark(self) -> None:
        self._marks = {name: one.rounds for name, one in self.watch.seen.items()}

    def _leave(self) -> None:
        self.swarm.closing = True
        for member in list(self.swarm.fleet.members.values()):
            self.swarm.leave(member)
        if not self._until(lambda: not self.swarm.fleet.members, limit_s=LEAVE_S):
            self.stuck.append(f"did not leave in {LEAVE_S:g} s: {', '.join(self.swarm.fleet.members)}")

    def _until(self, condition: Callable[[], bool], limit_s: float = HEAL_S) -> bool:
        """Hear, tend and watch until the condition holds; False at the limit."""
        until = self.clock() + limit_s
        while not condition():
            if self.clock() > until:
                return False
            for member, said in self.swarm.fleet.hear(min(self.nemesis.next_s(), LOOK_S)):
                if said is None:
                    self._ended(member)
                else:
                    self._heard(member, *said)
            self.nemesis.tend()
            hang = None if self.swarm.closing else self.watch.look(self.clock())
            if hang:
                self.tell(f"HANG: {hang}")
                self._ask()
        return True

    def _ended(self, member: Member) -> None:
        if not member.ending and member.identity != BOOTSTRAP:
            self.swarm.dying(member, "kill")
            self.tell(f"{member.name} ended by itself with {member.process.exitcode}")
        self.nemesis.ended(member)
        self.swarm.ended(member)

    def _heard(self, member: Member, word: str, *rest: Any) -> None:
        if word == "failed":
            raise ChaosError(f"{member.name} failed:\n{rest[0]}")
        if word == "where":
            self.tell(f"{member.name}: {rest[0]}")
        if word in ("up", "entering"):
            member.addresses = list(rest[0])
        if word == "joined":
            self.watch.joined(member.name, *rest)
            self.swarm.fill()
        elif word == "round":
            at, round, epoch, state, steps = rest
            self.watch.round(member.name, at, round=round, epoch=epoch, state=state, steps=steps)
        self.nemesis.heard(member, word)
