"""A schedule that nothing disturbs, from any state of a search: who is left decides in finite time. And what a search sees of machines."""

from collections import deque
from collections.abc import Callable
from typing import Any

from thinwire.comms.swarm.effects import Effect, Push, Rejoin, Send, Want
from thinwire.comms.swarm.lineage import TRIES
from thinwire.comms.swarm.machine import Machine
from thinwire.comms.swarm.view import Key, Slot, digest_of

FAIR_S, STEP_S, LEAVING_S = 400.0, 0.25, 5.0
Act = tuple[Any, ...]


def key_of(index: int) -> Key:
    """Members in the order of their keys."""
    return bytes([index + 1]) * 32


def nonce_of(index: int, life: int) -> bytes:
    """Of an incarnation."""
    return bytes([index + 1, life]) * 4


def digest_at(key: Key, nonce: bytes, slot: Slot) -> bytes:
    """Of the payload that an incarnation has for a slot."""
    return digest_of(key, nonce, bytes([slot.round]))


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
                    self.give(i, ("up", key_of(j), self.machines[j]._seat.nonce))
        while self.now < FAIR_S:
            self.settle()
            waiting = [i for i, m in self.machines.items() if i not in self.done and m.next_slot.round < self.slots and not m._seat.leaving]
            if not waiting:
                return ""
            self.now += STEP_S
            for i in list(self.machines):
                if self.machines[i]._seat.leaving and self.now > LEAVING_S:
                    self.end(i)
                else:
                    self.give(i, ("tick",))
        where = {i: (m.next_slot.round, m.is_member, m._round.ballots.promised) for i, m in self.machines.items()}
        return f"{waiting} wait for ever: {where}"

    def end(self, i: int) -> None:
        """Who has left goes."""
        del self.machines[i]
        for j in self.machines:
            self.give(j, ("down", key_of(i)))

    def give(self, i: int, act: Act) -> None:
        """An input, with its effects queued."""
        machine = self.machines[i]
        nonce = machine._seat.nonce
        for effect in give(machine, act, self.now):
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


def give(machine: Machine, act: Act, now: float) -> list[Effect]:
    """An input, by its name."""
    kind, *args = act
    if kind == "up":
        return machine.up(args[0], now, process=args[1])
    if kind == "fire":
        machine.fire(args[0], now)
        return machine._done(now)
    if kind == "follow":
        return machine.follow(args[2], now)
    if kind in ("holds", "start"):
        args.append(1)  # byte
    take: Callable[..., list[Effect]] = getattr(machine, kind)
    return take(*args, now)


def fingerprint(machine: Machine) -> int:
    """All that a machine remembers and that can matter, as one number."""
    seat, archive, lineage, round_ = machine._seat, machine._archive, machine._lineage, machine._round
    ballots = round_.ballots
    known = seat.peers.items()
    peers = frozenset((k, p.nonce, p.process, p.link, p.silent, p.left, p.elsewhere, p.bound, p.slot, p.unfit) for k, p in known)
    desks = tuple(
        (slot, frozenset((k, o.digest) for k, o in desk.announced.items()), frozenset(desk.held))
        for slot, desk in sorted(machine._payloads._desks.items())
    )
    return hash(
        (
            seat.me, seat.nonce, seat.standing, seat.leaving, seat.yielding, seat.fresh, machine._replaced,
            frozenset(seat.due), peers, desks,
            tuple(archive._waiting), tuple(d.chain for d in archive._waiting.values()), tuple(archive.decisions),
            frozenset(archive._wanted),
            frozenset((k, o.nonce, o.slot) for k, o in machine._observers._observers.items()),
            lineage._lonely_since is None, min(lineage._tries, TRIES + 1), lineage._found, frozenset(lineage._consents),
            lineage.consented, lineage.base, lineage._yielded_at is None,
            frozenset((k, t.__name__, nonce, message) for (k, t), (nonce, message) in machine._stash.items()),
            round_.outcome, round_._announced, round_._held, frozenset(round_._haves.items()), round_._told, frozenset(round_._lacking),
            round_._first_at is None, round_._quorum_at is None, round_._overdue, round_._nudges > 0, round_._doubts,
            ballots.promised, ballots.accepted, ballots.offered, ballots.proposed, frozenset(ballots._promises.items()),
            frozenset(ballots._accepts.items()),
        )
    )  # fmt: skip
