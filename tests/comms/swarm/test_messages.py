"""Control messages: what goes through, what is refused, and a million bad ones."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.comms.swarm.bus import Bus, key_of, nonce_of
from thinwire.comms.swarm import messages as m
from thinwire.comms.swarm.archive import AHEAD as MAX_WAITING
from thinwire.comms.swarm.archive import KEPT
from thinwire.comms.swarm.decision import Newcomer, Standing, Value
from thinwire.comms.swarm.effects import Send, Want
from thinwire.comms.swarm.machine import MAX_STASHED, Machine
from thinwire.comms.swarm.observers import MAX_OBSERVERS
from thinwire.comms.swarm.payloads import AHEAD, MAX_HELD
from thinwire.comms.swarm.peers import MAX_PEERS
from thinwire.comms.swarm.view import Slot

EPOCH, KEY, NONCE, HASH = b"e" * 16, b"k" * 32, b"n" * 8, b"h" * 32
VALUE = Value(bytes([1, 0]), HASH, (7,), (Newcomer(KEY, NONCE),))
STANDING = Standing(1, EPOCH, Slot(2), HASH, 3, (KEY,), (NONCE,), (EPOCH,))
SLOT = Slot(5, 1)
ALL: list[m.Message] = [
    m.Ready(EPOCH, SLOT, HASH, 9, KEY),
    m.Have(EPOCH, SLOT, 3, b"\x05"),
    m.Propose(EPOCH, SLOT, 3, VALUE, VALUE.check),
    m.Accept(EPOCH, SLOT, 3, VALUE.check),
    m.Commit(EPOCH, SLOT, 3, VALUE.check),
    m.Prepare(EPOCH, SLOT, 3),
    m.Promise(EPOCH, SLOT, 3, m.Accepted(1, VALUE), b"\x01"),
    m.CatchUp(EPOCH, SLOT),
    m.Rulings(EPOCH, (m.Ruling(SLOT, 0, VALUE, HASH),)),
    m.Beat(EPOCH, 1, SLOT, 10, True, False, (EPOCH,)),
    m.Where(EPOCH, 7),
    m.Here(EPOCH, 1, SLOT, 10, True, False, (EPOCH,), 7),
    m.Join(EPOCH, SLOT),
    m.Leave(EPOCH),
    m.Found(EPOCH, STANDING),
    m.Consent(EPOCH, EPOCH),
    m.Begun(EPOCH, STANDING),
]


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_message_arrives_as_it_was(message: m.Message) -> None:
    assert m.unpack(m.pack(message)) == message
    assert m.unpack(memoryview(m.pack(message))) == message


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_every_truncation_and_every_longer_message_is_refused(message: m.Message) -> None:
    packed = m.pack(message)
    for cut in range(len(packed)):
        with pytest.raises(m.RefusedMessage):
            m.unpack(packed[:cut])
    for more in (b"\0", b"\xc0", packed):
        with pytest.raises(m.RefusedMessage):
            m.unpack(packed + more)


def spoilt(name: str, **fields: Any) -> bytes:
    message = next(message for message in ALL if type(message).__name__ == name)
    raw = msgspec.msgpack.decode(m.pack(message))
    names = ["tag", *message.__struct_fields__]
    for field, value in fields.items():
        raw[names.index(field)] = value
    return msgspec.msgpack.encode(raw)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        bytes(m.MAX_MESSAGE_NBYTES + 1),
        b"\x91" * 60_000,  # nested, as deep as the message is long
        b"\x81\xa1a" * 20_000,
        b"\xdd\xff\xff\xff\xff",  # an array that claims 4 billion entries
        b"\xc6\xff\xff\xff\xff",
        spoilt("Ready", epoch=b"e" * 15),
        spoilt("Ready", digest=b"h" * 33),
        spoilt("Ready", nbytes=-1),
        spoilt("Ready", nbytes=2**60),
        spoilt("Ready", nbytes=1.5),
        spoilt("Ready", slot=[-1, 0]),
        spoilt("Ready", slot=[0, 70_000]),
        spoilt("Ready", slot=[0, 0, 0]),
        spoilt("Ready", tag="reedy"),
        spoilt("Ready", via=b""),
        spoilt("Have", held=bytes(129)),
        spoilt("Have", ballot=2**41),
        spoilt("Propose", value=[bytes(1025), b"", [], []]),
        spoilt("Propose", value=[b"\1", b"", [0] * 1025, []]),
        spoilt("Propose", value=[b"\1", HASH, [1], [[KEY, NONCE]] * 65]),
        spoilt("Beat", ancestors=[EPOCH] * 9),
        spoilt("Beat", quorate=1),
        spoilt("Rulings", rulings=[[[0, 0], 0, [b"\1", b"", [], []], HASH]] * 65),
        spoilt("Promise", accepted=[0, [b"\1", b"", [], []], 0]),
    ],
)
def test_what_no_sound_member_sends_is_refused(packed: bytes) -> None:
    with pytest.raises(m.RefusedMessage):
        m.unpack(packed)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(packed: bytes) -> None:
    with pytest.raises(m.RefusedMessage):
        m.unpack(packed)


def test_message_that_is_too_large_is_a_mistake_of_the_sender() -> None:
    ruling = m.Ruling(SLOT, 0, Value(bytes([1]) * 1024, bytes(32 * 1024), (1,) * 1024), HASH)
    with pytest.raises(ValueError, match="at most"):
        m.pack(m.Rulings(EPOCH, (ruling, ruling)))


# -- fuzz: members that send anything ----------------------------------------------------------------------------------------------


class Fuzz:
    """Messages of a sound group, spoilt in their fields and in their bytes, for one machine of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        bus = Bus(4)
        for _ in range(3):
            bus.round()
        bus.kill(3)
        bus.round()
        bus.join(3, life=1)
        bus.round()
        bus.wait(1.0)
        self.machine, self.bus, self.now = bus.machines[0], bus, bus.now
        self.corpus = [msgspec.msgpack.decode(m.pack(message)) for _, _, message in bus.sent]
        self.corpus += [msgspec.msgpack.decode(m.pack(message)) for message in ALL]
        self.pool = [
            self.machine.epoch, EPOCH, KEY, key_of(1), key_of(2), NONCE, HASH, b"", b"\xff", 0, 1, 2, -1, 255, 2**40, 2**53, None, True,
            [], [0, 0], [2**53, 0], [self.machine.next_slot.round, 0], [self.machine.next_slot.round + 1, 0],
        ]  # fmt: skip

    def message(self) -> bytes:
        choose = self.random
        packed = msgspec.msgpack.encode(choose.choice(self.corpus))
        raw = msgspec.msgpack.decode(packed)
        for _ in range(choose.randrange(3)):
            raw[choose.randrange(1, len(raw))] = choose.choice(self.pool)
        if choose.random() < 0.5:  # of now, so that it is not only refused as old
            raw[1] = self.machine.epoch
            if len(raw) > 2 and isinstance(raw[2], list) and len(raw[2]) == 2 and choose.random() < 0.7:
                raw[2] = [self.machine.next_slot.round + choose.randrange(-1, 3), 0]
        packed = msgspec.msgpack.encode(raw)
        if choose.random() < 0.1:
            spoilt = bytearray(packed)
            for _ in range(choose.randrange(1, 4)):
                spoilt[choose.randrange(len(spoilt))] = choose.randrange(256)
            packed = bytes(spoilt)
        return choose.randbytes(choose.randrange(64)) if choose.random() < 0.02 else packed

    def run(self, count: int) -> int:
        """Feed so many; returns how many were understood."""
        understood = 0
        machine, choose = self.machine, self.random
        senders = [(key_of(i), nonce_of(i)) for i in (1, 2)] + [(key_of(3), nonce_of(3, 1)), (key_of(3), nonce_of(3)), (KEY, NONCE)]
        for i in range(count):
            try:
                message = m.unpack(self.message())
            except m.RefusedMessage:
                continue
            understood += 1
            sender, nonce = choose.choice(senders)
            self.take(machine.receive(sender, nonce, message, self.now))
            if i % 64 == 0:
                self.now += 0.05
                self.take(machine.tick(self.now))
            if i % 256 == 0:
                self.go_on()
            if i % 1024 == 0:
                self.check()
        self.check()
        return understood

    def go_on(self) -> None:
        """What it takes for slots to be decided in between."""
        machine, slot = self.machine, self.machine.next_slot
        self.take(machine.start(slot, HASH, 1, self.now))
        for key, offered in list(machine._payloads.desk(slot).announced.items()):
            self.take(machine.holds(slot, key, offered.digest, 1, self.now))
        ballots = machine._round.ballots
        ballot, leader = ballots.promised, ballots.leader()
        if leader != key_of(0) and (ballots.offered is None or ballots.offered.ballot < ballot):
            value = Value(bytes(key == key_of(0) for key in machine.view.members), HASH, (1,))
            nonce = machine.view.nonces[machine.view.members.index(leader)]
            self.take(machine.receive(leader, nonce, m.Propose(machine.epoch, slot, ballot, value, value.check), self.now))
        for i in (1, 2):
            if leader == key_of(0) and ballot and machine.next_slot == slot:
                self.take(machine.receive(key_of(i), nonce_of(i), m.Promise(machine.epoch, slot, ballot, None, b""), self.now))
            if ballots.offered is not None and machine.next_slot == slot:
                accept = m.Accept(machine.epoch, slot, ballots.promised, ballots.offered.value.check)
                self.take(machine.receive(key_of(i), nonce_of(i), accept, self.now))

    def take(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                m.pack(effect.message)
            elif isinstance(effect, Want):
                self.take(self.machine.holds(effect.slot, effect.key, effect.digest, effect.nbytes, self.now))

    def check(self) -> None:
        """Sound, and within its bounds."""
        machine: Machine = self.machine
        view = machine.view
        assert list(view.members) == sorted(set(view.members))
        assert len(view.nonces) == len(view.members) >= 1
        rounds = [decision.slot.round for decision in machine.decisions.values()]
        assert rounds == list(range(rounds[0], rounds[0] + len(rounds)))
        assert machine.next_slot.round == rounds[-1] + 1
        assert len(machine._seat.peers.items()) <= MAX_PEERS
        assert len(machine._observers._observers) <= MAX_OBSERVERS
        assert len(machine._stash) <= MAX_STASHED
        assert len(machine._payloads._desks) <= AHEAD + 1 + 4
        assert all(len(desk.held) <= MAX_HELD and len(desk.announced) <= MAX_HELD for desk in machine._payloads._desks.values())
        assert len(machine._archive.decisions) <= KEPT
        assert len(machine._archive._waiting) <= MAX_WAITING
        assert len(machine._round.ballots._accepts) <= len(view.members)
        assert len(machine._round._haves) <= len(view.members) + 1
        assert len(machine.counts) < 40
        assert machine._seat.take() == []


@pytest.mark.parametrize("seed", range(10))
def test_a_million_fuzzed_messages_leave_machines_sound(seed: int) -> None:
    fuzz = Fuzz(seed)
    assert fuzz.run(100_000) > 25_000
    assert fuzz.machine.next_slot.round > 3  # among it slots are decided
