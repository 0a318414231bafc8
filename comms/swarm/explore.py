"""Exhaustive search of small cases: every order in which messages, timeouts, crashes, joins and leaves can come.

    found = explore(Case(members=3, crashes=1, ballots=2))
    assert not found.broken, found.path

The production machine itself is searched. A state is what all machines remember and what is under way; one that was met before is not
searched again. A message that is never delivered is a lost one: loss needs no step of its own. Announcements, payloads and
what others hold arrive at once, which hides no order of votes: when a member starts is free, and so is what a leader counts. Time stands
still; any timer may run out. Messages that can change nothing any more (of a decided slot, to a lower ballot) are not delivered.

Checked in every state: no slot of an epoch is decided in two ways; every member decides slot after slot; what counts was started. From
every `fair`-th state, a fair schedule without more faults must let everybody decide: what is under way is lost, links stand again, time
passes, messages arrive.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from thinwire.comms.swarm.decision import Standing
from thinwire.comms.swarm.effects import Decided, Effect, Push, Send, Want
from thinwire.comms.swarm.fair import Act, Fair, digest_at, fingerprint, give, key_of, nonce_of
from thinwire.comms.swarm.machine import OF_ROUND, Machine
from thinwire.comms.swarm.messages import Accept, Beat, CatchUp, Commit, Have, Prepare, Promise, Propose, Ready, Rulings
from thinwire.comms.swarm.view import Key, Slot, digest_of

FREE = ("deadline", "ballot", "bereaved")  # timers that run out as steps of their own
PROMPT = (Ready, Have, Accept, Commit, CatchUp, Rulings)
KINDS = ("crashes", "downs", "again", "restarts", "joins", "leaves")


@dataclass(frozen=True)
class Case:
    """What may happen, at most so many times each; `slots` and `ballots` bound how far members go.

    - `downs`: a member believes that a link has ended, and hears later that it stands; `again`: messages that are delivered twice.
    - `restarts`: crashed members that come back, as another incarnation; `joins`: newcomers; `leaves`: members that leave.
    - `prompt`: votes and what is told of decisions arrive at once too, which leaves the orders of proposals, promises and faults.
    - `epochs`: members tell where they stand, and those who have lost their quorum found a new epoch.
    """

    members: int = 3
    slots: int = 1
    ballots: int = 0
    crashes: int = 0
    downs: int = 0
    again: int = 0
    restarts: int = 0
    joins: int = 0
    leaves: int = 0
    prompt: bool = False
    epochs: bool = False
    fair: int = 0
    most: int = 20_000_000  # states


@dataclass
class Found:
    """What the search came to; `whole`: nothing within the bounds was left out."""

    states: int = 0
    steps: int = 0
    machines: int = 0
    decisions: int = 0
    fair_runs: int = 0
    whole: bool = True
    broken: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Machines (entries of the table), their incarnations, what is under way, what may still happen, what is decided."""

    machines: tuple[int | None, ...]
    lives: tuple[int, ...]
    net: frozenset[tuple[int, int, int]]  # from, to, number of the input
    left: tuple[int, ...]
    decided: frozenset[tuple[bytes, int, bytes]] = frozenset()  # epoch, round, chain

    def may(self, kind: str) -> bool:
        """Whether this may happen once more."""
        return self.left[KINDS.index(kind)] > 0

    def less(self, kind: str) -> "World":
        """After it has happened."""
        at = KINDS.index(kind)
        return replace(self, left=(*self.left[:at], self.left[at] - 1, *self.left[at + 1 :]))


@dataclass(frozen=True)
class Entry:
    """A machine as it was, and what the search has to know of it."""

    packed: bytes
    nonce: bytes
    timers: tuple[str, ...]
    flush: bool
    started: bool
    ballot: int
    standing: Standing
    leaving: bool


@dataclass(frozen=True)
class Outcome:
    """What an input comes to: the machine after it, what is under way then, what arrives at once (to, input, from any of), decisions."""

    at: int
    sent: tuple[tuple[int, int, int], ...]
    soon: tuple[tuple[int, int, tuple[int, ...]], ...]
    decided: tuple[tuple[bytes, int, bytes], ...]


class Explorer:
    """One search."""

    def __init__(self, case: Case, make: Callable[[Key, bytes], Machine] = Machine) -> None:
        self.case, self.make = case, make
        self.found = Found()
        self._table: list[Entry] = []
        self._ids: dict[int, int] = {}
        self._acts: list[Act] = []
        self._numbers: dict[Act, int] = {}
        self._inputs: dict[tuple[int | None, int], Outcome] = {}
        self._mattering: dict[tuple[int, int], bool] = {}

    def run(self) -> Found:
        """Search."""
        first = self._begin()
        met = {hash(first)}
        stack: list[tuple[World, Any]] = [(first, None)]
        found = self.found
        while stack and not found.broken:
            world, path = stack.pop()
            found.states += 1
            if self.case.fair and found.states % self.case.fair == 0:
                self._fair(world)
            for label, after in self._steps(world):
                found.steps += 1
                mark = hash(after)
                if mark not in met:
                    met.add(mark)
                    stack.append((after, (label, path)))
                    self._judge(after)
                if found.broken:
                    path = (label, path)
                    break
            if found.broken or found.states >= self.case.most:
                found.whole = False
                while path is not None:
                    found.path, path = (path[0], *found.path), path[1]
                break
        found.machines = len(self._table)
        return found

    # -- machines ----------------------------------------------------------------------------------------------------------------

    def _number(self, act: Act) -> int:
        number = self._numbers.get(act)
        if number is None:
            number = self._numbers[act] = len(self._acts)
            self._acts.append(act)
        return number

    def _input(self, i: int, at: int | None, number: int) -> Outcome:
        """What an input makes of a machine."""
        known = self._inputs.get((at, number))
        if known is None:
            act = self._acts[number]
            machine = self.make(*act[1:3]) if at is None else pickle.loads(self._table[at].packed)
            effects = give(machine, act, 0.0)
            known = self._inputs[at, number] = self._outcome(i, self._enter(machine), effects)
        return known

    def _outcome(self, i: int, at: int, effects: list[Effect]) -> Outcome:
        entry = self._table[at]
        sent: list[tuple[int, int, tuple[int, ...]]] = []
        soon: list[tuple[int, int, tuple[int, ...]]] = []
        decided: list[tuple[bytes, int, bytes]] = []
        for effect in effects:
            if isinstance(effect, Decided):
                d = effect.decision
                decided.append((d.epoch.digest, d.slot.round, d.chain))
            elif isinstance(effect, Send) and (self.case.epochs or not isinstance(effect.message, Beat)):
                number = self._number(("receive", key_of(i), entry.nonce, effect.message))
                at_once = isinstance(effect.message, PROMPT if self.case.prompt else (Ready, Have))
                (soon if at_once else sent).extend((key[0] - 1, number, ()) for key in effect.to)
            elif isinstance(effect, Push):
                number = self._number(("holds", effect.slot, effect.key, effect.digest))
                soon.extend((key[0] - 1, number, ()) for key in effect.to)
            elif isinstance(effect, Want):
                number = self._number(("holds", effect.slot, effect.key, effect.digest))
                soon.append((i, number, tuple(key[0] - 1 for key in effect.holders)))
        if entry.flush:
            soon.append((i, self._number(("fire", "flush")), ()))
        return Outcome(at, tuple((i, j, number) for j, number, _ in sent), tuple(soon), tuple(decided))

    def _enter(self, machine: Machine) -> int:
        seat = machine._seat
        seat.counts.clear()
        mark = fingerprint(machine)
        at = self._ids.get(mark)
        if at is None:
            at = self._ids[mark] = len(self._table)
            started = seat.me in machine._payloads.desk(seat.slot).announced
            timers = tuple(name for name in FREE if name in seat.due)
            ballot = machine._round.ballots.promised
            packed = pickle.dumps(machine, pickle.HIGHEST_PROTOCOL)
            self._table.append(Entry(packed, seat.nonce, timers, "flush" in seat.due, started, ballot, seat.standing, seat.leaving))
        return at

    # -- worlds ------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> World:
        n, more = self.case.members, self.case.joins
        keys, nonces = tuple(map(key_of, range(n))), tuple(nonce_of(i, 0) for i in range(n))
        standing = Standing(0, bytes(16), Slot(0), digest_of(b"chain"), 0, keys, nonces)
        world = World((None,) * (n + more), (0,) * (n + more), frozenset(), tuple(getattr(self.case, kind) for kind in KINDS))
        for i in range(n):
            world = self._do(world, i, ("follow", keys[i], nonces[i], standing))
        for i in range(n):
            for j in range(n):
                world = self._do(world, i, ("up", keys[j], nonces[j])) if i != j else world
        return world

    def _do(self, world: World, index: int, act: Act) -> World:
        """An input, and what follows from it at once."""
        return self._go(world, index, self._number(act))

    def _go(self, world: World, index: int, number: int) -> World:
        machines, net, decided = list(world.machines), set(world.net), world.decided
        queue = deque([(index, number)])
        while queue:
            i, number = queue.popleft()
            before, born = machines[i], self._acts[number][0] == "follow"
            if before is None and not born:
                continue
            outcome = self._input(i, None if born else before, number)
            machines[i] = outcome.at
            net.update(outcome.sent)
            decided = decided.union(outcome.decided)
            for j, soon, holders in outcome.soon:
                if not holders or any(machines[k] is not None for k in holders):
                    queue.append((j, soon))
        kept = frozenset(item for item in net if self._matters(machines[item[1]], item[2]))
        return World(tuple(machines), world.lives, kept, world.left, decided)

    def _matters(self, at: int | None, number: int) -> bool:
        """Whether an input can still change a machine."""
        if at is None:
            return False
        known = self._mattering.get((at, number))
        if known is None:
            known = self._mattering[at, number] = self._can_matter(self._table[at], self._acts[number])
        return known

    def _can_matter(self, entry: Entry, act: Act) -> bool:
        if self._finished(entry) and act[0] != "down":
            return False
        if act[0] != "receive" or not isinstance(act[3], OF_ROUND) or act[3].epoch != entry.standing.epoch:
            return True
        if act[3].slot != entry.standing.slot:
            return act[3].slot > entry.standing.slot
        return not isinstance(act[3], (Propose, Prepare, Promise)) or act[3].ballot >= entry.ballot

    def _finished(self, entry: Entry) -> bool:
        return entry.standing.slot.round >= self.case.slots

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Everything that can happen next."""
        for item in world.net:
            i, j, number = item
            act = self._acts[number]
            what = type(act[3]).__name__ if act[0] == "receive" else act[0]
            if world.machines[j] is not None:
                yield f"{i}>{j} {what}", self._go(replace(world, net=world.net - {item}), j, number)
                if world.may("again") and act[0] == "receive":
                    yield f"{i}>{j} {what} (again)", self._go(world.less("again"), j, number)
        for i, at in enumerate(world.machines):
            if at is None:
                yield from self._births(world, i)
            else:
                if world.may("crashes"):
                    yield f"{i} crashes", self._crash(world, i)
                if not self._finished(self._table[at]):
                    yield from self._choices(world, i, self._table[at])

    def _choices(self, world: World, i: int, entry: Entry) -> Iterator[tuple[str, World]]:
        slot = entry.standing.slot
        if not entry.started and not entry.leaving and slot.round < self.case.slots:
            yield f"{i} starts {slot.round}", self._do(world, i, ("start", slot, digest_at(key_of(i), entry.nonce, slot)))
        for name in entry.timers:
            if name != "ballot" or entry.ballot < self.case.ballots:
                if name != "bereaved" or self.case.epochs:
                    yield f"{i} {name}", self._do(world, i, ("fire", name))
        if world.may("downs"):
            for j, at in enumerate(world.machines):
                if at is not None and j != i:
                    after = self._do(world.less("downs"), i, ("down", key_of(j)))
                    again = self._number(("up", key_of(j), nonce_of(j, world.lives[j])))
                    yield f"{i} loses {j}", replace(after, net=after.net | {(j, i, again)})
        if world.may("leaves") and not entry.leaving:
            yield f"{i} leaves", self._do(world.less("leaves"), i, ("leave",))

    def _crash(self, world: World, i: int) -> World:
        downs = {(i, j, self._number(("down", key_of(i)))) for j, at in enumerate(world.machines) if at is not None and j != i}
        rest = frozenset(item for item in world.net if item[1] != i)
        machines = (*world.machines[:i], None, *world.machines[i + 1 :])
        return replace(world.less("crashes"), machines=machines, net=rest | downs)

    def _births(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        """A newcomer, or a crashed member that comes back when everybody knows that it was gone."""
        new = i >= self.case.members and not world.lives[i]
        if not world.may("joins" if new else "restarts") or any(a == i and self._acts[n][0] == "down" for a, _, n in world.net):
            return
        lives = (*world.lives[:i], world.lives[i] + 1, *world.lives[i + 1 :])
        for donor, at in enumerate(world.machines):
            if at is not None:
                after = replace(world.less("joins" if new else "restarts"), lives=lives)
                after = self._do(after, i, ("follow", key_of(i), nonce_of(i, lives[i]), self._table[at].standing))
                for j, other in enumerate(world.machines):
                    if other is not None:
                        after = self._do(after, j, ("up", key_of(i), nonce_of(i, lives[i])))
                        after = self._do(after, i, ("up", key_of(j), nonce_of(j, lives[j])))
                yield f"{i} joins from {donor}", after

    # -- what was promised -------------------------------------------------------------------------------------------------------

    def _judge(self, world: World) -> None:
        slots: dict[tuple[bytes, int], bytes] = {}
        for epoch, slot, chain in world.decided:
            if slots.setdefault((epoch, slot), chain) != chain:
                self.found.broken = f"round {slot} is decided twice in one epoch"
        self.found.decisions = max(self.found.decisions, len(world.decided))

    def _fair(self, world: World) -> None:
        """Let time pass without faults: everybody decides all slots, or is told to follow others."""
        self.found.fair_runs += 1
        machines = {i: pickle.loads(self._table[at].packed) for i, at in enumerate(world.machines) if at is not None}
        if not machines:
            return
        fair = Fair(machines, self.case.slots)
        why = fair.run({i for i in range(len(world.machines)) if i not in machines})
        if why:
            self.found.broken = why


def explore(case: Case, make: Callable[[Key, bytes], Machine] = Machine) -> Found:
    """Search a case to its end, or to the first thing that is broken."""
    return Explorer(case, make).run()
