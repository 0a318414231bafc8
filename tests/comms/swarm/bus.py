"""Machines that talk at once, hop by hop: what a message needs to get there is one hop, and no time passes unless a test says so."""

import hashlib
from typing import Any

from thinwire.comms.swarm.decision import Decision
from thinwire.comms.swarm.effects import Decided, Effect, Push, Record, Rejoin, Send, Want
from thinwire.comms.swarm.machine import Machine
from thinwire.comms.swarm.messages import Message, pack, unpack
from thinwire.comms.swarm.view import Key, Slot

NBYTES = 100


def key_of(index: int) -> Key:
    return bytes([index + 1]) * 32


def nonce_of(index: int, life: int = 0) -> bytes:
    return bytes([index + 1, life]) * 4


class Bus:
    """`members[i]` founds or follows; messages go by `hop`; `lost` are links (from, to) that deliver nothing."""

    def __init__(self, n: int, **options: Any) -> None:
        self.options = options
        self.now = 0.0
        self.machines: dict[int, Machine] = {}
        self.decided: dict[int, list[Decision]] = {}
        self.rejoins: dict[int, list[Rejoin]] = {}
        self.wants: list[tuple[int, Want]] = []
        self.pushes: list[tuple[int, Push]] = []
        self.records: list[tuple[int, Record]] = []
        self.sent: list[tuple[int, int, Message]] = []
        self.lost: set[tuple[int, int]] = set()
        self.held: set[tuple[int, bytes]] = set()
        self.frozen: tuple[int, ...] = ()
        self._queue: list[tuple[int, Any]] = []
        self.make(0)
        self.do(0, self.machines[0].found(self.now))
        for i in range(1, n):
            self.join(i)
        while len(self.machines[0].view.members) < n:
            self.round()

    def make(self, i: int, life: int = 0) -> Machine:
        self.machines[i] = Machine(key_of(i), nonce_of(i, life), **self.options)
        self.decided[i], self.rejoins[i] = [], []
        return self.machines[i]

    def join(self, i: int, donor: int = 0, life: int = 0) -> None:
        standing = self.machines[donor].standing()
        assert standing is not None
        self.do(i, self.make(i, life).follow(standing, self.now))
        for j in list(self.machines):
            if j != i:
                self.link(i, j)
        self.settle()

    def link(self, i: int, j: int) -> None:
        self.do(i, self.machines[i].up(key_of(j), self.now, process=self.machines[j]._seat.nonce))
        self.do(j, self.machines[j].up(key_of(i), self.now, process=self.machines[i]._seat.nonce))

    def unlink(self, i: int, j: int) -> None:
        for a, b in ((i, j), (j, i)):
            if a in self.machines:
                self.do(a, self.machines[a].down(key_of(b), self.now))

    def kill(self, i: int) -> None:
        del self.machines[i]
        self._queue = [item for item in self._queue if item[0] != i]
        for j in list(self.machines):
            self.do(j, self.machines[j].down(key_of(i), self.now))

    def payload(self, i: int, slot: Slot) -> bytes:
        return hashlib.sha256(f"{i} {slot}".encode()).digest()

    def start(self, i: int, **options: Any) -> None:
        slot = self.machines[i].next_slot
        self.held.add((i, self.payload(i, slot)))
        self.do(i, self.machines[i].start(slot, self.payload(i, slot), NBYTES, self.now, **options))

    def do(self, i: int, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                message = unpack(pack(effect.message))
                assert message == effect.message
                for key in effect.to:
                    self.sent.append((i, key[0] - 1, message))
                    self._say(i, key[0] - 1, message)
            elif isinstance(effect, Push):
                self.pushes.append((i, effect))
                for key in effect.to:
                    self._land(i, key[0] - 1, effect)
            elif isinstance(effect, Want):
                self.wants.append((i, effect))
                if any((key[0] - 1, effect.digest) in self.held and key[0] - 1 in self.machines for key in effect.holders):
                    self._land(i, i, effect)
            elif isinstance(effect, Decided):
                self.decided[i].append(effect.decision)
            elif isinstance(effect, Rejoin):
                self.rejoins[i].append(effect)
            else:
                self.records.append((i, effect))

    def _say(self, i: int, j: int, message: Message) -> None:
        nonce = self.machines[i]._seat.nonce
        self._later(i, j, lambda machine: machine.receive(key_of(i), nonce, message, self.now))

    def _land(self, i: int, j: int, what: Push | Want) -> None:
        def arrive(machine: Machine) -> list[Effect]:
            self.held.add((j, what.digest))
            return machine.holds(what.slot, what.key, what.digest, NBYTES, self.now)

        self._later(i, j, arrive)

    def _later(self, i: int, j: int, act: Any) -> None:
        if j in self.machines and (i, j) not in self.lost:
            self._queue.append((j, act))

    def hop(self) -> bool:
        """Everything under way arrives; whether there was anything."""
        queue, self._queue = self._queue, []
        for j, act in queue:
            if j in self.machines and j not in self.frozen:
                self.do(j, act(self.machines[j]))
        return bool(queue)

    def settle(self) -> int:
        """Until nothing is under way; how many hops that took."""
        hops = 0
        while self.hop():
            hops += 1
            assert hops < 1000
        return hops

    def wait(self, seconds: float, *frozen: int) -> None:
        """Time passes, except for who is frozen."""
        until, self.frozen = self.now + seconds, frozen
        while self.now < until:
            self.now = min(self.now + 0.05, until)
            for i in sorted(self.machines):
                if i not in frozen:
                    self.do(i, self.machines[i].tick(self.now))
            self.settle()
        self.frozen = ()

    def round(self) -> int:
        """Everybody starts and the slot is decided, with no time passing; how many hops it took."""
        self.now += 1.0
        for i in sorted(self.machines):
            if self.machines[i].is_member:
                self.start(i)
        return self.settle()

    def members(self, i: int) -> list[int]:
        return [key[0] - 1 for key in self.machines[i].view.members]

    def slots(self) -> list[int]:
        return [machine.next_slot.round for _, machine in sorted(self.machines.items())]
