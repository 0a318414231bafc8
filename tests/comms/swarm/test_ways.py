"""Ways around a hole, without a network: who sends what through whom, and what is not taken."""

from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest

from thinwire.comms.swarm import ways as w
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key
from thinwire.comms.swarm.ways import ASKED, LOOK_S, MAX_ENDS, MAX_ERRANDS, STANDS_S, Ways

PATIENCE_S = 1.0
GENUINE = b"envelope of "


def key_of(name: str) -> Key:
    return name.encode() * 32


class End:
    """One member: its transport, its ways, and what they told it. An envelope is genuine when it names its sender."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.key, self.refused = world, key_of(name), Counter[str]()
        self.banned: set[Key] = set()
        self.got: list[bytes] = []
        self.told: list[tuple[Key, bool]] = []
        self.blobs: set[bytes] = set()
        self.ways = Ways(
            self,  # type: ignore[arg-type]
            word=lambda: GENUINE + self.key + b"beat",
            deliver=self._deliver,
            push=self._push,
            turned=self._turned,
            patience_s=lambda: PATIENCE_S,
        )

    def admit(self, peer: Key) -> bool:
        return peer not in self.banned

    def is_up(self, peer: Key) -> bool:
        return frozenset((self.key, peer)) in self.world.links

    def send(self, peer: Key, data: bytes) -> None:
        self.world.sent.append((self.key, peer, data))
        other = self.world.ends[peer]
        if self.is_up(peer) and (self.key, peer) not in self.world.lost:
            other.ways.heard(self.key, self.world.now)
            if not other.ways.take(self.key, data, self.world.now):
                other._deliver(self.key, data)

    def say(self, peer: "End", text: bytes = b"hello") -> None:
        self.ways.send(peer.key, GENUINE + self.key + text, self.world.now)

    def _deliver(self, peer: Key, envelope: bytes, genuine: Callable[[], None] = lambda: None) -> None:
        if envelope.startswith(GENUINE + peer):
            genuine()
            self.got.append(envelope.removeprefix(GENUINE + peer))
        else:
            self.refused["bad signature"] += 1

    def _turned(self, peer: Key, up: bool) -> None:
        self.told.append((peer, up))
        if up and peer in self.world.ends:
            self.say(self.world.ends[peer], b"beat")

    def _push(self, peer: Key, digest: bytes) -> bool:
        if digest in self.blobs:
            assert self.is_up(peer)
            self.world.ends[peer].blobs.add(digest)
        return digest in self.blobs


class World:
    """All members have links to each other; everybody beats and looks every half second."""

    def __init__(self, names: str) -> None:
        self.now = 100.0
        self.ends = {key_of(name): End(self, name) for name in names}
        self.links = {frozenset(pair) for pair in combinations(self.ends, 2)}
        self.lost: set[tuple[Key, Key]] = set()
        self.sent: list[tuple[Key, Key, bytes]] = []
        for end in self.ends.values():
            for key in self.ends:
                end.ways.heard(key, self.now)

    def cut(self, a: End, b: End) -> None:
        """As a reset does."""
        self.links.discard(frozenset((a.key, b.key)))
        for one, other in ((a, b), (b, a)):
            if one.ways.down(other.key, self.now):
                one.told.append((other.key, False))
                one.ways.seek(other.key, self.ends, self.now)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += LOOK_S
            for end in self.ends.values():
                for other in self.ends.values():
                    if other is not end and (end.is_up(other.key) or end.ways.via(other.key, self.now)):
                        end.say(other, b"beat")
            for end in self.ends.values():
                end.ways.look([key for key in self.ends if key != end.key], self.now)

    def between(self, a: End, b: End) -> list[bytes]:
        """What the two exchange from now on, in one second."""
        a.got.clear()
        b.got.clear()
        a.say(b, b"ping")
        b.say(a, b"pong")
        return [*b.got, *a.got]


@pytest.fixture
def world() -> World:
    return World("abcd")


def test_where_all_hear_each_other_nobody_is_in_between(world: World) -> None:
    a, b, *_ = world.ends.values()
    world.run(5)
    assert not any(data.startswith(w.MAGIC) for _, _, data in world.sent)
    assert world.between(a, b) == [b"ping", b"pong"]


def test_two_whose_link_has_ended_talk_through_another_at_once(world: World) -> None:
    a, b, *_ = world.ends.values()
    world.cut(a, b)
    assert a.told[-1] == (b.key, True)
    assert b.told[-1] == (a.key, True)
    assert world.between(a, b) == [b"ping", b"pong"]
    world.run(20)
    assert world.between(a, b) == [b"ping", b"pong"]
    assert a.told == [(b.key, False), (b.key, True)]


@pytest.mark.parametrize("ways", [("ab", "ba"), ("ab",), ("ba",)], ids=["both", "there", "back"])
def test_a_link_that_loses_everything_is_gone_around(world: World, ways: tuple[str, ...]) -> None:
    a, b, *_ = world.ends.values()
    for way in ways:
        world.lost.add((key_of(way[0]), key_of(way[1])))
    world.run(PATIENCE_S + 2 * LOOK_S)
    assert sorted(set(world.between(a, b))) == [b"ping", b"pong"]
    assert (b.key, True) in a.told or (a.key, True) in b.told
    world.run(20)
    assert sorted(set(world.between(a, b))) == [b"ping", b"pong"]
    assert not any(up is False for _, up in a.told + b.told)


def test_when_the_link_is_back_nothing_goes_around_any_more(world: World) -> None:
    a, b, *_ = world.ends.values()
    world.lost |= {(a.key, b.key), (b.key, a.key)}
    world.run(10)
    world.lost.clear()
    world.run(2 * STANDS_S)
    world.sent.clear()
    world.run(10)
    assert not any(data.startswith(w.MAGIC) for _, _, data in world.sent)
    assert world.between(a, b) == [b"ping", b"pong"]


def test_when_the_one_in_between_goes_another_is_taken(world: World) -> None:
    a, b, c, d = world.ends.values()
    world.cut(a, b)
    world.run(3)
    first = a.ways.via(b.key, world.now)
    gone = c if first == c.key else d
    for other in (a, b, *({c, d} - {gone})):
        world.cut(gone, other)
    assert a.ways.via(b.key, world.now) in {c.key, d.key} - {gone.key}
    assert world.between(a, b) == [b"ping", b"pong"]
    assert (b.key, False) not in a.told[1:]


def test_when_nobody_is_left_in_between_the_other_is_down(world: World) -> None:
    a, b, c, d = world.ends.values()
    world.cut(a, b)
    for one in (c, d):
        for other in world.ends.values():
            if other is not one and frozenset((one.key, other.key)) in world.links:
                world.cut(one, other)
    assert a.told[-1] == (d.key, False)
    assert (b.key, False) in a.told[2:]
    assert a.ways.via(b.key, world.now) is None


def test_a_way_to_somebody_who_has_died_is_lost_with_the_first_message(world: World) -> None:
    a, b, c, d = world.ends.values()
    world.cut(a, b)
    for other in (c, d):
        world.cut(b, other)
    a.told.clear()
    a.say(b)
    a.say(b)
    assert a.told == [(b.key, False)]


def test_payloads_are_sent_on_by_the_one_in_between_also_those_that_it_has_not_yet(world: World) -> None:
    a, b, c, _ = world.ends.values()
    world.cut(a, b)
    via = world.ends[a.ways.via(b.key, world.now) or b""]
    via.blobs.add(b"1" * 32)
    assert a.ways.send_on(b.key, b"1" * 32, world.now)
    assert a.ways.send_on(b.key, b"2" * 32, world.now)
    assert b.blobs == {b"1" * 32}
    via.blobs.add(b"2" * 32)
    via.ways.holds(b"2" * 32)
    assert b.blobs == {b"1" * 32, b"2" * 32}
    assert not a.ways.send_on(c.key, b"1" * 32, world.now)


def test_a_few_are_asked_at_a_time_and_others_the_next_time() -> None:
    world = World("abcdefghijkl")
    a, b, *_ = world.ends.values()
    for other in list(world.ends.values())[2:]:
        world.cut(b, other)  # as if dead
    world.links.discard(frozenset((a.key, b.key)))
    a.ways.down(b.key, world.now)
    asked: set[Key] = set()
    for _ in range(4):
        world.sent.clear()
        a.ways.seek(b.key, world.ends, world.now)
        now = {to for _, to, data in world.sent if data[4] == w.SEEK}
        assert len(now) == ASKED
        asked |= now
    assert len(asked) > ASKED


# -- what is not taken ---------------------------------------------------------------------------------------------------------------


def frame(kind: int, key: Key, body: bytes = b"") -> bytes:
    return w.MAGIC + bytes([kind]) + key + body


A = key_of("a")
BAD = {
    "short": w.MAGIC + b"\0" + b"x" * 31,
    "nothing": w.MAGIC,
    "kind": frame(6, A),
    "kind 255": frame(255, A),
    "of this member itself": frame(w.FROM, key_of("b"), GENUINE + key_of("b")),
    "of the one in between": frame(w.SOUGHT, key_of("c"), GENUINE + key_of("c")),
    "no digest": frame(w.ONWARD, A, b"x" * 31),
    "a digest to nobody": frame(w.ONWARD, b"?" * 32, b"x" * 32),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_makes_no_sense_is_counted_and_opens_nothing(world: World, data: bytes) -> None:
    _, b, c, _ = world.ends.values()
    assert b.ways.take(c.key, data, world.now)
    assert b.refused == {"malformed": 1}
    assert not b.told
    assert not b.got


def test_words_in_anothers_name_open_nothing(world: World) -> None:
    a, b, c, _ = world.ends.values()
    world.links.discard(frozenset((a.key, b.key)))
    b.ways.down(a.key, world.now)
    b.ways.take(c.key, frame(w.SOUGHT, a.key, GENUINE + c.key + b"beat"), world.now)
    b.ways.take(c.key, frame(w.SOUGHT, a.key), world.now)
    assert b.refused == {"bad signature": 2}
    assert b.ways.via(a.key, world.now) is None
    assert not b.told


def test_who_is_not_admitted_does_not_come_in_through_another(world: World) -> None:
    a, b, c, _ = world.ends.values()
    b.banned.add(a.key)
    b.ways.take(c.key, frame(w.SOUGHT, a.key, GENUINE + a.key + b"beat"), world.now)
    assert not b.got
    assert not b.told


def test_memory_is_bounded_whoever_comes(world: World) -> None:
    _, b, c, _ = world.ends.values()
    for i in range(2 * MAX_ENDS):
        stranger = i.to_bytes(32, "big")
        b.ways.take(c.key, frame(w.SOUGHT, stranger, GENUINE + stranger), world.now)
    for i in range(2 * MAX_ERRANDS):
        b.ways.take(c.key, frame(w.ONWARD, c.key if i % 2 else A, i.to_bytes(32, "big")), world.now)
    assert b.refused == {"too many ways": MAX_ENDS}
    assert len(b.told) == MAX_ENDS
    assert len(b.ways._errands) == MAX_ERRANDS
    world.now += 2 * STANDS_S
    b.ways.look(list(world.ends)[:1], world.now)
    assert [up for _, up in b.told] == [True] * MAX_ENDS + [False] * MAX_ENDS
    assert not b.ways._ways
    assert not b.ways._sought


def test_a_message_that_does_not_fit_around_is_counted(world: World) -> None:
    a, b, *_ = world.ends.values()
    world.cut(a, b)
    a.say(b, b"x" * (MAX_MESSAGE_NBYTES - 80))
    assert a.refused == {"too large to pass on": 1}
