"""The members of a chaos run as the nemesis sees them: who is up, and what can be done to one."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.chaos.fleet import Fleet, Member, Work
from benchmarks.chaos.net import Places
from benchmarks.chaos.watch import Watch

BOOTSTRAP = "bootstrap"
FEW = "few are left"  # kills with which no majority runs and reaches each other: the rest waits before it declares an epoch of its own


class Specs(Protocol):
    """What a process is started with."""

    def __call__(self, identity: str, *, peers: Sequence[str], place: int | None, fresh_key: bool, founds: bool) -> Any: ...


@dataclass
class Swarm:
    """`size` members are kept up: who ends is followed by another incarnation. `bootstrap` is the work of a peer
    that is no member, if any."""

    fleet: Fleet
    watch: Watch
    size: int
    work: Work
    specs: Specs
    bootstrap: Work | None = None
    net: Places | None = None
    extras: int = 6  # places for newcomers
    clock: Callable[[], float] = time.monotonic
    is_cut: bool = False
    closing: bool = False
    _places: dict[str, int] = field(default_factory=dict)
    _fresh: dict[str, bool] = field(default_factory=dict)
    _newcomers: int = 0
    _inside: set[str] = field(default_factory=set)  # of a cut: identities that do not reach the rest
    _unplugged: set[str] = field(default_factory=set)  # identities without a cable
    _remembered: list[str] = field(default_factory=list)  # addresses, for when everybody has just died

    def begin(self) -> None:
        """Start the member that founds the run; the others follow when it has."""
        self._start("m0", self.work, founds=True)

    def fill(self) -> None:
        """Start who is missing."""
        there = {member.identity for member in self.fleet.members.values()}
        wanted = {f"m{i}": self.work for i in range(self.size)} | ({BOOTSTRAP: self.bootstrap} if self.bootstrap else {})
        for identity, work in wanted.items():
            if identity not in there and not self.closing:
                self._start(identity, work)

    def up(self) -> list[Member]:
        """Members that have joined and run."""
        return [self.fleet.members[name] for name in self.watch.up() if name in self.fleet.members]

    def last_round(self) -> int:
        """The latest round that a member who is there has applied."""
        return max((self.watch.seen[member.name].round for member in self.up()), default=-1)

    def whole(self) -> bool:
        """Whether everybody who should be there has joined, and nobody else is left."""
        joined = {member.identity for member in self.up() if not member.extra}
        return len(joined) == self.size and not any(member.extra for member in self.fleet.members.values())

    def kill(self, member: Member, *, same_key: bool = True) -> None:
        """SIGKILL."""
        self._fresh[member.identity] = not same_key
        self.dying(member, "kill")
        member.signal(signal.SIGKILL)

    def dying(self, member: Member, kind: str) -> None:
        """It is about to die; `kind` of death unless too few are left to decide at once."""
        was, member.ending = member.ending, True
        if not was and self.watch.seen[member.name].since is not None:
            self.watch.wounded(self.clock(), kind)
            self._count()

    def _count(self) -> None:
        """Where too few are left, also for another reason, the kills since the last round are of that kind."""
        left = [member for member in self.up() if not member.ending and member.identity not in self._unplugged]
        inside = [member for member in left if member.identity in self._inside]
        if 2 * max(len(inside), len(left) - len(inside)) <= self.size:
            self.watch.worsened(FEW)

    def freeze(self, member: Member, frozen: bool) -> None:
        """SIGSTOP, or SIGCONT to one that was stopped."""
        if member.name in self.fleet.members:
            member.frozen = frozen
            member.signal(signal.SIGSTOP if frozen else signal.SIGCONT)
            self.watch.froze(member.name, self.clock(), frozen)
            self._count()

    def leave(self, member: Member) -> None:
        """Let it end as a user's script would."""
        member.ending = True
        member.tell("leave")

    def newcomer(self) -> Member:
        """One more than `size`."""
        self._newcomers += 1
        return self._start(f"x{self._newcomers % self.extras}", self.work, extra=True)

    def kill_bootstrap(self) -> bool:
        """SIGKILL the peer that is no member; another takes its place."""
        found = [member for member in self.fleet.members.values() if member.identity == BOOTSTRAP]
        for member in found:
            member.signal(signal.SIGKILL)
        return bool(found)

    def cut(self, members: Sequence[Member], others: Sequence[Member] | None = None) -> None:
        """These from others; None: from all others."""
        assert self.net is not None
        self.is_cut = True
        rest = None if others is None else [self._places[member.identity] for member in others]
        self.net.cut([self._places[member.identity] for member in members], rest)
        self._inside = set() if others is not None else {member.identity for member in members}  # a hole parts nobody
        self._count()

    def heal(self) -> None:
        """All reach each other again."""
        assert self.net is not None
        self.is_cut = False
        self._inside = set()
        self.net.heal()

    def link(self, member: Member, *, up: bool) -> None:
        """Pull a member's cable, or put it in."""
        assert self.net is not None
        self.net.link(self._places[member.identity], up=up)
        (self._unplugged.discard if up else self._unplugged.add)(member.identity)
        self._count()

    def ended(self, member: Member) -> None:
        """Its process is gone: whoever should be there is started again."""
        if member.identity != BOOTSTRAP:
            self.watch.ended(member.name, self.clock())
        if not member.extra:
            self.fill()

    def _start(self, identity: str, work: Work, *, extra: bool = False, founds: bool = False) -> Member:
        place = self._places.setdefault(identity, len(self._places)) if self.net else None
        peers = [address for member in self.fleet.members.values() for address in member.addresses] or self._remembered
        self._remembered = peers
        spec = self.specs(identity, peers=peers, place=place, fresh_key=self._fresh.pop(identity, extra), founds=founds)
        member = self.fleet.start(identity, work, spec, extra=extra)
        if identity != BOOTSTRAP:
            self.watch.born(member.name, self.clock())
        return member
