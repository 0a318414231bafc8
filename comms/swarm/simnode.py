"""A simulated process: its machine, and around it what a driver would do. Part of `simulate`."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from thinwire.comms.swarm.decision import Decision, Standing
from thinwire.comms.swarm.effects import Decided, Effect, Push, Record, Rejoin, Send, Want
from thinwire.comms.swarm.machine import Machine
from thinwire.comms.swarm.view import Key, Slot

if TYPE_CHECKING:
    from thinwire.comms.swarm.simulate import World

KEPT_STATES = 512


class Node:
    """A process: its machine, and what a driver would do around it."""

    def __init__(self, world: "World", index: int) -> None:
        self.world, self.index = world, index
        self.key: Key = hashlib.sha256(f"member {index}".encode()).digest()
        self.offset = world.random.uniform(-3600, 3600)  # no two clocks agree
        self.machine: Machine | None = None
        self.alive = self.paused = self.leaving = False
        self.slowness = 1.0
        self.via: Key | None = None
        self.incarnation = 0
        self.process = self.nonce
        self.backlog: list[Callable[[], None]] = []
        self.blobs: set[bytes] = set()
        self.states: dict[Slot, bytes] = {}
        self.started: dict[tuple[Slot, int], bytes] = {}
        self.woken = float("inf")
        self.idle_since = 0.0
        self.adopting = False
        self.uplink = 0.0
        self.seq = 0
        self.computing = object()
        self.last: Slot | None = None  # applied by this machine
        self.lived = world.now  # since when it has decided nothing

    @property
    def now(self) -> float:
        """By its own clock."""
        return self.world.now + self.offset

    @property
    def nonce(self) -> bytes:
        """Of its incarnation."""
        return hashlib.sha256(f"{self.index} {self.incarnation}".encode()).digest()[:8]

    # -- the driver --------------------------------------------------------------------------------------------------------------

    def feed(self, act: Callable[[Machine, float], list[Effect]]) -> None:
        """Give the machine an input, now or when the process goes on."""
        if self.paused:
            self.backlog.append(lambda: self.feed(act))
        elif self.alive and self.machine is not None:
            effects = act(self.machine, self.now)
            self.perform(effects)
            self.schedule()

    def schedule(self) -> None:
        """Be woken when the machine is due."""
        due = self.machine.wake_at() if self.machine else None
        if due is not None and due - self.offset < self.woken:
            self.woken = max(due - self.offset, self.world.now)
            self.world.at(self.woken, self.wake)

    def wake(self) -> None:
        """A timer may be due."""
        if self.paused:
            self.backlog.append(self.wake)
        elif self.world.now >= self.woken - 1e-9:
            self.woken = float("inf")
            self.feed(lambda machine, now: machine.tick(now + 1e-9))

    def perform(self, effects: list[Effect]) -> None:
        """Do what the machine asks for."""
        machine = self.machine
        for effect in effects:
            if not self.alive or self.machine is not machine:
                return
            if isinstance(effect, Send):
                self.world.send(self, effect)
            elif isinstance(effect, Push):
                for key in effect.to:
                    self.world.push(self, self.world.by_key[key], effect)
            elif isinstance(effect, Want):
                self.world.fetch(self, effect)
            elif isinstance(effect, Decided):
                self.apply(effect.decision)
            elif isinstance(effect, Rejoin):
                self.rejoin(effect)
            elif isinstance(effect, Record):
                self.record(effect.kind, effect.fields)

    def record(self, kind: str, fields: dict[str, Any]) -> None:
        """A line of its history."""
        world = self.world
        line = {"kind": kind, "seq": self.seq, "member": self.key.hex(), "nonce": self.nonce.hex(), "wall": world.now, "mono": world.now}
        self.seq += 1
        line |= _plain(fields)
        world.trace.update(json.dumps(line, sort_keys=True).encode())
        if world.keep:
            world.report.lines.setdefault(f"{self.key.hex()}-{self.nonce.hex()}", []).append(line)

    def apply(self, decision: Decision) -> None:
        """Change the state by a decision, and begin to compute for the next round."""
        world, slot = self.world, decision.slot
        before = self.states.get(slot, b"")
        after = hashlib.sha256(before + b"".join(digest for _, digest, _ in decision.counted)).digest()
        self.states[Slot(slot.round + 1)] = after
        if len(self.states) > KEPT_STATES:
            del self.states[next(iter(self.states))]
        counted = {key: digest for key, digest, _ in decision.counted}
        world.judge(self, decision)
        told = {"epoch": decision.epoch.number, "digest": decision.epoch.digest, "round": slot.round}
        self.record("apply", told | {"counted": counted, "before": before, "after": after})
        self.compute()

    def compute(self) -> None:
        """Train, then start the round that is then the next."""
        world, incarnation = self.world, self.incarnation
        seconds = world.compute_s * self.slowness * world.random.uniform(0.9, 1.1)
        token = self.computing = object()
        world.after(seconds, lambda: self.ready(incarnation, token))

    def ready(self, incarnation: int, token: object) -> None:
        """Its payload is ready."""
        if self.paused:
            self.backlog.append(lambda: self.ready(incarnation, token))
            return
        machine = self.machine
        if not self.alive or machine is None or incarnation != self.incarnation or token is not self.computing or self.leaving:
            return
        slot = machine.next_slot
        if (slot, self.incarnation) in self.started:
            return
        digest = hashlib.sha256(self.key + self.nonce + str(slot).encode()).digest()
        self.started[slot, self.incarnation] = digest
        self.blobs.add(digest)
        self.idle_since = self.world.now
        self.world.last_start[slot, self.key] = self.world.now
        self.feed(lambda m, now: m.start(slot, digest, self.world.nbytes, now, via=self.via))
        if not machine.is_member:  # nobody waits for it: it trains on and tries the next round
            self.world.after(self.world.compute_s, lambda: self.ready(incarnation, token))

    # -- life --------------------------------------------------------------------------------------------------------------------

    def found(self) -> None:
        """Be the first."""
        if not self.alive:
            self.live()
        self.states = {Slot(0): b"state 0"}
        self.record("join", {"digest": b"", "round": 0, "after": self.states[Slot(0)]})
        self._run(lambda machine, now: machine.found(now))

    def join(self) -> None:
        """Adopt the state of a member, and follow."""
        self.live()
        self.adopt(())

    def live(self) -> None:
        """Begin another incarnation, that has nothing yet."""
        self.incarnation += 1
        self.process = self.nonce  # another incarnation may follow in the same process
        self.alive, self.paused, self.leaving, self.machine, self.adopting, self.seq = True, False, False, None, False, 0
        self.backlog, self.blobs, self.woken = [], set(), float("inf")
        self.world.stand(self)

    def adopt(self, toward: Sequence[Key]) -> None:
        """Take the state of somebody else, which takes a while, then follow with a new machine."""
        if self.paused:
            self.backlog.append(lambda: self.adopt(toward))
            return
        donors = [self.world.by_key[key] for key in toward] or [n for n in self.world.nodes if n.is_there and n is not self]
        donors = [d for d in donors if d.is_there and self.world.connected(d, self) and self.world.connected(self, d)]
        donor = max(donors, key=lambda d: (d.machine.standing().work, d.index), default=None) if donors else None  # type: ignore[union-attr]
        incarnation = self.incarnation
        if donor is None:
            self.adopting = False
            if self.machine is None and self.world.nobody_before(self):
                self.found()
            elif self.machine is None:
                self.world.after(1.0, lambda: self.adopt(()) if self.alive and self.incarnation == incarnation else None)
            return
        assert donor.machine is not None
        standing = donor.machine.standing()
        assert standing is not None
        state = donor.states[standing.slot]
        self.adopting = True
        self.world.after(self.world.adopt_s, lambda: self.adopted(incarnation, standing, state))

    def adopted(self, incarnation: int, standing: Standing, state: bytes) -> None:
        """The state is here."""
        if self.paused:
            self.backlog.append(lambda: self.adopted(incarnation, standing, state))
            return
        if not self.alive or incarnation != self.incarnation:
            return
        self.adopting = False
        if self.machine is not None:
            self.feed(lambda machine, now: machine.leave(now))
            self.incarnation += 1
            self.seq = 0
            self.woken = float("inf")
        self.states = {standing.slot: state}
        self.record("join", {"epoch": standing.number, "digest": standing.epoch, "round": standing.slot.round, "after": state})
        self._run(lambda machine, now: machine.follow(standing, now))

    def _run(self, begin: Callable[[Machine, float], list[Effect]]) -> None:
        self.machine = Machine(self.key, self.nonce, split=self.world.split, timing=self.world.timing)
        self.last, self.lived = None, self.world.now
        self.feed(begin)
        for other in self.world.nodes:
            if other is not self and self.world.linked(self, other):
                self.meet(other)
        self.compute()

    def meet(self, other: "Node") -> None:
        """A link to another stands."""
        process = other.process  # now: the message may wait
        self.feed(lambda machine, now: machine.up(other.key, now, process=process))

    @property
    def is_there(self) -> bool:
        """Whether it could be a donor."""
        return self.alive and not self.paused and self.machine is not None and self.machine.is_member

    def rejoin(self, effect: Rejoin) -> None:
        """The machine cannot go on in its lineage."""
        if not self.adopting:
            self.world.report.rejoins += 1
            self.adopt(effect.toward)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
