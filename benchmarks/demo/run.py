"""Start the peers, kill one in the middle, start it again, and end all after the same round."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.chaos.fleet import Member
from benchmarks.chaos.swarm import Swarm
from benchmarks.demo.story import Story

START_S = 180.0  # for the first time: everything is imported once
DEAD_S = 3.0  # from the death of a process to its next start: long enough to be seen
BACK_S = 60.0  # for it to be there again
CALM_ROUNDS = 3  # that it takes part in, at least, before the end
END_S = 30.0
LOOK_S = 0.25


class DemoError(RuntimeError):
    """The demo could not go on; one sentence."""


@dataclass(frozen=True)
class Plan:
    """Seconds of training with everybody there, of which `kill_s` pass before peer `victim` is killed."""

    seconds: float
    victim: int
    kill_s: float

    @classmethod
    def drawn(cls, seconds: float, peers: int, seed: int) -> "Plan":
        """By the seed: anybody, between 30 and 45 % of the time."""
        random = Random(seed)
        return cls(seconds, random.randrange(peers), seconds * random.uniform(0.30, 0.45))


@dataclass
class Demo:
    """One run; `show` is called a few times a second, `say` with a line for a person; `count` gives the bytes that each peer has sent."""

    swarm: Swarm
    story: Story
    plan: Plan
    show: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda line: None
    count: Callable[[], list[int]] = list
    look_s: float = LOOK_S
    dead_s: float = DEAD_S
    _ended: dict[int, float] = field(default_factory=dict)  # when a killed one's process was gone

    def run(self) -> None:
        """From the first process to the last. Raises `DemoError`."""
        swarm, story, plan, clock = self.swarm, self.story, self.plan, self.swarm.clock
        self.show()
        swarm.begin()
        self._until(swarm.whole, START_S, "the peers did not find each other")
        whole = clock()
        story.start(whole)
        self._tell_all("go")
        self.say(f"all {story.size} peers train; peer {plan.victim + 1} will be killed in {plan.kill_s:.0f} s")
        self._until(lambda: clock() >= whole + plan.kill_s)
        self._kill()
        self._until(lambda: swarm.whole() and self._calm(), self.dead_s + BACK_S, f"peer {plan.victim + 1} did not come back")
        self._until(lambda: clock() >= whole + plan.seconds)
        last = swarm.last_round() + 2
        self.say(f"round {last} is the last")
        self._tell_all("until", last)
        self._until(lambda: all(one.sha256 for one in story.peers), END_S, f"not everybody came to round {last}")
        self._leave()

    def _kill(self) -> None:
        member = next(member for member in self.swarm.up() if _number(member) == self.plan.victim)
        self.swarm.dying(member, "kill")
        self.story.killed(self.plan.victim, self.swarm.clock())
        member.signal(signal.SIGKILL)
        self.say(f"kill -9 {member.pid}: peer {self.plan.victim + 1}")

    def _calm(self) -> bool:
        """Whether the one that was killed takes part again, and has for some rounds."""
        kill = self.story.kill
        return bool(kill and kill.same is not None and self.swarm.watch.seen[self._name(kill.peer)].rounds >= CALM_ROUNDS)

    def _leave(self) -> None:
        self.swarm.closing = True
        for member in list(self.swarm.fleet.members.values()):
            self.swarm.leave(member)
        self._until(lambda: not self.swarm.fleet.members, END_S, "not everybody left")

    def _until(self, condition: Callable[[], bool], limit_s: float = float("inf"), otherwise: str = "") -> None:
        """Hear, start who is due, and show, until the condition holds. Raises `DemoError` at the limit."""
        clock = self.swarm.clock
        began = shown = clock()
        while not condition():
            if clock() - began > limit_s:
                raise DemoError(f"{otherwise} in {limit_s:.0f} s; is this machine very busy? See `thinwire doctor`")
            for member, said in self.swarm.fleet.hear(self.look_s):
                if said is None:
                    self._gone(member)
                else:
                    self._heard(member, *said)
            self._revive()
            if clock() - shown >= self.look_s:
                shown = clock()
                self.story.counted(self.count())
                self.show()
        self.story.counted(self.count())
        self.show()

    def _gone(self, member: Member) -> None:
        number = _number(member)
        self.swarm.watch.ended(member.name, self.swarm.clock())
        if self.swarm.closing:
            return
        if not member.ending:
            raise DemoError(f"peer {number + 1} ended by itself with {member.process.exitcode}")
        self._ended[number] = self.swarm.clock()

    def _revive(self) -> None:
        now = self.swarm.clock()
        for number, ended in list(self._ended.items()):
            if now - ended >= self.dead_s:
                del self._ended[number]
                self.story.born(number, now)
                self.say(f"peer {number + 1} is started again")
                self.swarm.fill()

    def _heard(self, member: Member, word: str, *rest: Any) -> None:
        number, story = _number(member), self.story
        if word == "failed":
            raise DemoError(f"peer {number + 1} failed:\n{rest[0]}")
        if word == "said":
            self.say(f"peer {number + 1}: {rest[0]}")
        elif word == "entering":
            member.addresses = list(rest[0])
        elif word == "joined":
            at, seconds, numel = rest
            self.swarm.watch.joined(member.name, at, seconds)
            story.joined(number, at, numel)
            self.say(f"peer {number + 1} is a member")
            if story.began is None:
                self.swarm.fill()  # the first is there: the others can join
            else:
                member.tell("go")
        elif word == "round":
            at, round, epoch, state, steps, *_ = rest
            self.swarm.watch.round(member.name, at, round=round, epoch=epoch, state=state, steps=steps)
            story.round(number, *rest)
        elif word == "ended":
            story.ended(number, *rest)

    def _tell_all(self, *words: Any) -> None:
        for member in self.swarm.fleet.members.values():
            member.tell(*words)

    def _name(self, number: int) -> str:
        return next(member.name for member in self.swarm.fleet.members.values() if _number(member) == number)


def _number(member: Member) -> int:
    return int(member.identity.removeprefix("m"))


def clock() -> float:
    """Of the machine, shared by all its processes."""
    return time.monotonic()
