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
from thinwire.comms.swarm.effects import Decided, Effect, Push, Rejoin, Send, Want
from thinwire.comms.swarm.lineage import TRIES
from thinwire.comms.swarm.machine import OF_ROUND, Machine
from thinwire.comms.swarm.messages import Beat, Have, Prepare, Promise, Propose, Ready
from thinwire.comms.swarm.view import Key, Slot, digest_of

FREE = ("deadline", "ballot", "bereaved")  # timers that run out as steps of their own
KINDS = ("crashes", "downs", "again", "restarts", "joins", "leaves")
FAIR_S, STEP_S = 400.0, 0.25
Act = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """What may happen, at most so many times each; `slots` and `ballots` bound how far members go.

    - `downs`: a member believes that a link has ended, and hears later that it stands; `again`: messages that are delivered twice.
    - `restarts`: crashed members that come back, as another incarnation; `joins`: newcomers; `leaves`: members that leave.
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
    """Machines (entries of the table), their incarnations, what is under way (from, to, input), what may still happen, what is decided."""

    machines: tuple[int | None, ...]
    lives: tuple[int, ...]
    net: frozenset[tuple[int, int, Act]]
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


def key_of(index: int) -> Key:
    """Members in the order of their keys."""
    return bytes([index + 1]) * 32


def nonce_of(index: int, life: int) -> bytes:
    """Of an incarnation."""
    return bytes([index + 1, life]) * 4


def digest_at(key: Key, nonce: bytes, slot: Slot) -> bytes:
    """Of the payload that an incarnation has for a slot."""
    return digest_of(key, nonce, bytes([slot.round]))


class Explorer:
    """One search."""

    def __init__(self, case: Case, make: Callable[[Key, bytes], Machine] = Machine) -> None:
        self.case, self.make = case, make
        self.found = Found()
        self._table: list[Entry] = []
        self._ids: dict[int, int] = {}
        self._inputs: dict[tuple[int | None, Act], tuple[int, tuple[Effect, ...]]] = {}

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

    def _input(self, at: int | None, act: Act) -> tuple[int, tuple[Effect, ...]]:
        """What an input makes of a machine."""
        known = self._inputs.get((at, act))
        if known is None:
            machine = self.make(*act[1:3]) if at is None else pickle.loads(self._table[at].packed)
            effects = tuple(_give(machine, act, 0.0))
            known = self._inputs[at, act] = self._enter(machine), effects
        return known

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
                world = self._do(world, i, ("up", keys[j])) if i != j else world
        return world

    def _do(self, world: World, index: int, act: Act) -> World:
        """An input, and what follows from it at once."""
        machines, net, decided = list(world.machines), set(world.net), world.decided
        queue = deque([(index, act)])
        while queue:
            i, act = queue.popleft()
            before = machines[i]
            if before is None and act[0] != "follow":
                continue
            at, effects = self._input(None if act[0] == "follow" else before, act)
            machines[i] = at
            entry = self._table[at]
            for effect in effects:
                if isinstance(effect, Decided):
                    d = effect.decision
                    decided |= {(d.epoch.digest, d.slot.round, d.chain)}
                elif isinstance(effect, Send) and (self.case.epochs or not isinstance(effect.message, Beat)):
                    said = ("receive", key_of(i), entry.nonce, effect.message)
                    for key in effect.to:
                        if isinstance(effect.message, (Ready, Have)):
                            queue.append((key[0] - 1, said))
                        else:
                            net.add((i, key[0] - 1, said))
                elif isinstance(effect, Push):
                    queue.extend((key[0] - 1, ("holds", effect.slot, effect.key, effect.digest)) for key in effect.to)
                elif isinstance(effect, Want) and any(machines[key[0] - 1] is not None for key in effect.holders):
                    queue.append((i, ("holds", effect.slot, effect.key, effect.digest)))
            if entry.flush:
                queue.append((i, ("fire", "flush")))
        kept = frozenset(item for item in net if self._matters(machines[item[1]], item[2]))
        return replace(world, machines=tuple(machines), net=kept, decided=decided)

    def _matters(self, at: int | None, act: Act) -> bool:
        """Whether an input can still change a machine."""
        if at is None:
            return False
        entry = self._table[at]
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
            i, j, act = item
            rest = replace(world, net=world.net - {item})
            what = type(act[3]).__name__ if act[0] == "receive" else act[0]
            if world.machines[j] is not None:
                yield f"{i}>{j} {what}", self._do(rest, j, act)
                if world.may("again") and act[0] == "receive":
                    yield f"{i}>{j} {what} (again)", self._do(world.less("again"), j, act)
        for i, at in enumerate(world.machines):
            if at is None:
                yield from self._births(world, i)
            elif not self._finished(self._table[at]):
                yield from self._acts(world, i, self._table[at])

    def _acts(self, world: World, i: int, entry: Entry) -> Iterator[tuple[str, World]]:
        slot = entry.standing.slot
        if not entry.started and not entry.leaving and slot.round < self.case.slots:
            yield f"{i} starts {slot.round}", self._do(world, i, ("start", slot, digest_at(key_of(i), entry.nonce, slot)))
        for name in entry.timers:
            if name != "ballot" or entry.ballot < self.case.ballots:
                if name != "bereaved" or self.case.epochs:
                    yield f"{i} {name}", self._do(world, i, ("fire", name))
        if world.may("crashes"):
            downs = {(i, j, ("down", key_of(i))) for j, at in enumerate(world.machines) if at is not None and j != i}
            machines = (*world.machines[:i], None, *world.machines[i + 1 :])
            rest = frozenset(item for item in world.net if item[1] != i)
            yield f"{i} crashes", replace(world.less("crashes"), machines=machines, net=rest | downs)
        if world.may("downs"):
            for j, at in enumerate(world.machines):
                if at is not None and j != i:
                    after = self._do(world.less("downs"), i, ("down", key_of(j)))
                    yield f"{i} loses {j}", replace(after, net=after.net | {(j, i, ("up", key_of(j)))})
        if world.may("leaves") and not entry.leaving:
            yield f"{i} leaves", self._do(world.less("leaves"), i, ("leave",))

    def _births(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        """A newcomer, or a crashed member that comes back when everybody knows that it was gone."""
        new = i >= self.case.members and not world.lives[i]
        if not world.may("joins" if new else "restarts") or any(a == i and act[0] == "down" for a, _, act in world.net):
            return
        lives = (*world.lives[:i], world.lives[i] + 1, *world.lives[i + 1 :])
        for donor, at in enumerate(world.machines):
            if at is not None:
                after = replace(world.less("joins" if new else "restarts"), lives=lives)
                after = self._do(after, i, ("follow", key_of(i), nonce_of(i, lives[i]), self._table[at].standing))
                for j, other in enumerate(world.machines):
                    if other is not None:
                        after = self._do(self._do(after, j, ("up", key_of(i))), i, ("up", key_of(j)))
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


class Fair:
    """A schedule that nothing disturbs."""

    def __init__(self, machines: dict[int, Machine], slots: int) -> None:
        self.machines, self.slots = machines, slots
        self.now = 0.0
        self.done: set[int] = set()  # those that have to follow others
        self.queue: deque[tuple[int, Act]] = deque()

    def run(self, dead: set[int]) -> str:
        """Why somebody waits for ever, or nothing."""
        for i in self.machines:
            for j in dead:
                self.give(i, ("down", key_of(j)))
            for j in self.machines:
                if i != j:
                    self.give(i, ("down", key_of(j)))  # what was under way is lost with the link
                    self.give(i, ("up", key_of(j)))
        while self.now < FAIR_S:
            self.settle()
            waiting = [i for i, m in self.machines.items() if i not in self.done and m.next_slot.round < self.slots and not m._seat.leaving]
            if not waiting:
                return ""
            self.now += STEP_S
            for i in self.machines:
                self.give(i, ("tick",))
        where = {i: (m.next_slot.round, m.is_member, m._round.ballots.promised) for i, m in self.machines.items()}
        return f"{waiting} wait for ever: {where}"

    def give(self, i: int, act: Act) -> None:
        """An input, with its effects queued."""
        machine = self.machines[i]
        nonce = machine._seat.nonce
        for effect in _give(machine, act, self.now):
            if isinstance(effect, Send):
                self.queue.extend((key[0] - 1, ("receive", key_of(i), nonce, effect.message)) for key in effect.to)
            elif isinstance(effect, Push):
                self.queue.extend((key[0] - 1, ("holds", effect.slot, effect.key, effect.digest)) for key in effect.to)
            elif isinstance(effect, Want) and any(key[0] - 1 in self.machines for key in effect.holders):
                self.queue.append((i, ("holds", effect.slot, effect.key, effect.digest)))
            elif isinstance(effect, Rejoin):
                self.done.add(i)

    def settle(self) -> None:
        """Everybody starts, and all that is under way arrives."""
        for i, machine in self.machines.items():
            seat = machine._seat
            if seat.slot.round < self.slots and seat.me not in machine._payloads.desk(seat.slot).announced and not seat.leaving:
                self.give(i, ("start", seat.slot, digest_at(seat.me, seat.nonce, seat.slot)))
        while self.queue:
            i, act = self.queue.popleft()
            if i in self.machines:
                self.give(i, act)


def _give(machine: Machine, act: Act, now: float) -> list[Effect]:
    kind, *args = act
    if kind == "fire":
        machine.fire(args[0], now)
        return machine._done(now)
    if kind == "follow":
        return machine.follow(args[2], now)
    if kind in ("holds", "start"):
        args.append(1)  # byte
    give: Callable[..., list[Effect]] = getattr(machine, kind)
    return give(*args, now)


def fingerprint(machine: Machine) -> int:
    """All that a machine remembers and that can matter, as one number."""
    seat, archive, lineage, round_ = machine._seat, machine._archive, machine._lineage, machine._round
    ballots = round_.ballots
    peers = frozenset((k, p.nonce, p.link, p.silent, p.left, p.elsewhere, p.bound, p.slot, p.unfit) for k, p in seat.peers.items())
    desks = tuple(
        (slot, frozenset((k, o.digest) for k, o in desk.announced.items()), frozenset(desk.held))
        for slot, desk in sorted(machine._payloads._desks.items())
    )
    return hash(
        (
            seat.me, seat.nonce, seat.standing, seat.leaving, seat.yielding, machine._replaced,
            frozenset(seat.due), peers, desks,
            tuple(archive._waiting), tuple(d.chain for d in archive._waiting.values()), tuple(archive.decisions),
            frozenset(archive._wanted),
            frozenset((k, o.nonce, o.slot) for k, o in machine._observers._observers.items()),
            lineage._lonely_since is None, min(lineage._tries, TRIES + 1), lineage._found, frozenset(lineage._consents),
            lineage.consented, lineage.base, lineage._yielded_at is None,
            frozenset((k, t.__name__, nonce, message) for (k, t), (nonce, message) in machine._stash.items()),
            round_.outcome, round_._announced, round_._held, frozenset(round_._haves.items()), round_._told, frozenset(round_._lacking),
            round_._first_at is None, round_._quorum_at is None, round_._overdue, round_._nudges > 0,
            ballots.promised, ballots.accepted, ballots.offered, ballots.proposed, frozenset(ballots._promises.items()),
            frozenset(ballots._accepts.items()),
        )
    )  # fmt: skip


def explore(case: Case, make: Callable[[Key, bytes], Machine] = Machine) -> Found:
    """Search a case to its end, or to the first thing that is broken."""
    return Explorer(case, make).run()
