"""Does to members what the plan says; every fault ends by itself, and whoever died comes back."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from benchmarks.chaos.faults import Fault
from benchmarks.chaos.fleet import Member
from benchmarks.chaos.swarm import Swarm

STORM = 3
EXTRA_ROUNDS = 2  # that a newcomer of a storm takes part in before it leaves
FLAPS = 5


@dataclass
class Nemesis:
    """`clock` in seconds; what is due later is done by `tend`."""

    swarm: Swarm
    clock: Callable[[], float]
    armed: Fault | None = None  # waits for the leader to come to its state
    armed_round: int = -1
    doomed: dict[str, str] = field(default_factory=dict)  # newcomers that die when they say this
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _ties: "count[int]" = field(default_factory=count)

    @property
    def busy(self) -> bool:
        """Whether a fault lasts."""
        return bool(self._due or self.doomed or self.armed)

    def next_s(self) -> float:
        """Seconds until something is due."""
        return max(self._due[0][0] - self.clock(), 0.0) if self._due else 1.0

    def tend(self) -> None:
        """Do what is due, and forget a leader that has outlived its round."""
        while self._due and self._due[0][0] <= self.clock():
            heapq.heappop(self._due)[2]()
        if self.armed and (self.swarm.last_round() > self.armed_round + 1 or len(self._living()) < 2):
            self.disarm()

    def strike(self, fault: Fault) -> bool:
        """Do it; False where nobody is there whom it could hit."""
        able: dict[str, Callable[[Fault], bool]] = {
            "kill": self._kill, "freeze": self._freeze, "leader": self._leader, "join and die": self._join_and_die, "slow": self._slow,
            "cut": self._cut, "hole": self._hole, "flap": self._flap, "bootstrap": self._bootstrap, "storm": self._storm,
            "leave": self._leave, "all but one": self._all_but_one, "disk full": self._disk,
        }  # fmt: skip
        return able[fault.kind](fault)

    def heard(self, member: Member, word: str) -> None:
        """A member has said something that a fault may wait for."""
        if self.doomed.get(member.name) == word:
            del self.doomed[member.name]
            self.swarm.kill(member)
        if word == "dying":
            self.swarm.dying(member, "leader killed")
            self.disarm()
        if word == "round" and member.extra and not member.ending and self.swarm.watch.seen[member.name].rounds >= EXTRA_ROUNDS:
            self.swarm.leave(member)

    def ended(self, member: Member) -> None:
        """Its process is gone."""
        self.doomed.pop(member.name, None)

    def disarm(self) -> None:
        """No leader dies any more."""
        self.armed = None
        for member in self.swarm.up():
            member.tell("die", "", -1)

    def _living(self) -> list[Member]:
        """Members that are up and not about to end. The last one is spared: what all have learnt dies with it, whatever a protocol does."""
        return [member for member in self.swarm.up() if not member.ending]

    def _victim(self, fault: Fault) -> Member | None:
        up = self._living()
        return up[int(fault.pick * len(up))] if len(up) > 1 else None

    def _kill(self, fault: Fault) -> bool:
        victim = self._victim(fault)
        if victim:
            self.swarm.kill(victim, same_key=fault.same_key)
        return victim is not None

    def _freeze(self, fault: Fault) -> bool:
        victim = self._victim(fault)
        if victim is None:
            return False
        self.swarm.freeze(victim, True)
        self._later(fault.seconds, lambda: self.swarm.freeze(victim, False))
        return True

    def _leader(self, fault: Fault) -> bool:
        if self.armed or len(self._living()) < 2:
            return False
        self.armed, self.armed_round = fault, self.swarm.last_round() + 2
        for member in self.swarm.up():
            member.tell("die", fault.state, self.armed_round)
        return True

    def _join_and_die(self, fault: Fault) -> bool:
        newcomer = self.swarm.newcomer()
        self.doomed[newcomer.name] = "entering" if fault.pick < 0.5 else "joined"
        return True

    def _slow(self, fault: Fault) -> bool:
        return self._told(fault, "slow")

    def _disk(self, fault: Fault) -> bool:
        return self._told(fault, "disk")

    def _told(self, fault: Fault, word: str) -> bool:
        victim = self._victim(fault)
        if victim:
            victim.tell(word, fault.seconds)
            self._later(fault.seconds, lambda: None)
        return victim is not None

    def _cut(self, fault: Fault) -> bool:
        victim = self._victim(fault)
        if victim is None or self.swarm.is_cut:
            return False
        several = len(self.swarm.up()) > 3 and fault.pick * 1000 % 1 < 0.5
        self.swarm.cut([victim, *[other for other in self.swarm.up() if other is not victim][:several]])
        self._later(fault.seconds, self.swarm.heal)
        return True

    def _hole(self, fault: Fault) -> bool:
        victim = self._victim(fault)
        others = [member for member in self._living() if member is not victim]
        if victim is None or len(others) < 2 or self.swarm.is_cut:
            return False
        self.swarm.cut([victim], [others[int(fault.pick * 1000 % 1 * len(others))]])
        self._later(fault.seconds, self.swarm.heal)
        return True

    def _flap(self, fault: Fault) -> bool:
        victim = self._victim(fault)
        if victim is None:
            return False
        for i in range(2 * FLAPS):
            up = bool(i % 2)
            self._later(i * fault.seconds, lambda up=up: self.swarm.link(victim, up=up))  # type: ignore[misc]
        return True

    def _bootstrap(self, _: Fault) -> bool:
        return self.swarm.kill_bootstrap()

    def _storm(self, _: Fault) -> bool:
        for _i in range(STORM):
            self.swarm.newcomer()
        return True

    def _leave(self, fault: Fault) -> bool:
        victim = self._victim(fault)
        if victim:
            self.swarm.leave(victim)
        return victim is not None

    def _all_but_one(self, fault: Fault) -> bool:
        survivor = self._victim(fault)
        if survivor is None:
            return False
        for member in self.swarm.up():
            if member is not survivor:
                self.swarm.kill(member, same_key=fault.same_key)
        return True

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.clock() + seconds, next(self._ties), act))
