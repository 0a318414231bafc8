"""What a member says of itself is what happened to it."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from thinwire.comms.swarm.account import Account
from thinwire.comms.swarm.decision import Decision
from thinwire.comms.swarm.memory import Network
from thinwire.comms.swarm.peers import Peers
from thinwire.comms.swarm.status import MAX_NBYTES, Status, decode, encode
from thinwire.comms.swarm.view import Epoch, Slot
from thinwire.comms.wire import Header, RoundKey

ME, OTHER, NONCE = b"m" * 32, b"o" * 32, b"n" * 8


def account() -> Account:
    return Account(Network().node(ME))


def driver(*, member: bool, slot: int = 0, own: int | None = None, closed: bool = False, absent: dict[bytes, str] | None = None) -> Any:
    machine = SimpleNamespace(
        is_member=member, next_slot=Slot(slot), epoch=b"\xab" * 16, view=SimpleNamespace(members=(ME, OTHER)), counts=Counter(),
        absent=lambda: absent or {},
    )  # fmt: skip
    return SimpleNamespace(machine=machine, closed=closed, own=None if own is None else (Slot(own), b""))


def brought(round: int, *, state: int = 0, nbytes: int = 100) -> Header:
    return Header(1, 2, RoundKey(0, round, 0), member=0, flags=0, steps=1, state=state, nbytes=nbytes)


def decided(
    round: int, *, counted: tuple[bytes, ...], skipped: dict[bytes, str] | None = None, members: tuple[bytes, ...] = ()
) -> Decision:
    told = dict.fromkeys(Decision.__dataclass_fields__)
    told |= {"epoch": Epoch(0, b"e" * 16), "slot": Slot(round), "counted": tuple((key, b"d" * 32, 100) for key in counted)}
    return Decision(**(told | {"skipped": skipped or {}, "members": members, "nonces": (NONCE,) * len(members)}))  # type: ignore[arg-type]


def test_a_member_trains_syncs_and_heals() -> None:
    own = account()

    def state(**about: Any) -> str:
        astray = about.pop("astray", False)
        return own.status(driver(**about) if about else None, astray=astray).state

    own.enters()
    assert state() == "joining"
    assert state(member=False) == "joining"
    assert state(member=True, slot=3, own=2) == "training"
    assert state(member=True, slot=3, own=3) == "syncing"
    assert state(member=True, slot=3, own=3, astray=True) == "healing"
    own.enters()
    assert state(member=True, slot=3, closed=True) == "healing"
    assert state(member=False) == "healing"
    assert state(member=True, slot=3) == "training"


def test_rounds_and_payloads_that_counted_are_told_apart_from_those_that_did_not() -> None:
    own = account()
    own.enters()
    for round, who in enumerate([(ME, OTHER), (OTHER,), (OTHER,), (ME,)]):
        own.brings(brought(round, state=0xF0 + round if round % 2 else 0))
        own.settles(decided(round, counted=who, skipped={} if ME in who else {ME: "late"}), ME, NONCE)
    told = own.status(driver(member=True, slot=4), astray=False)
    assert (told.counted, told.payload, told.skipped) == (2, 200, {"late": 2})
    assert told.hashes == {1: f"{0xF1:016x}", 3: f"{0xF3:016x}"}


def test_it_is_a_member_from_the_decision_on_that_says_so() -> None:
    own = account()
    own.enters()
    own.settles(decided(0, counted=(OTHER,), members=(OTHER,)), ME, NONCE)
    assert own.status(driver(member=False), astray=False).member_s == 0
    own.settles(decided(1, counted=(OTHER,), members=(OTHER, ME)), ME, b"before " + b"!")
    assert own.status(driver(member=False), astray=False).member_s == 0
    own.settles(decided(1, counted=(OTHER,), members=(OTHER, ME)), ME, NONCE)
    first = own.status(driver(member=True), astray=False)
    later = own.status(driver(member=True), astray=False)
    assert first.entering_s == later.entering_s > 0
    assert 0 < first.member_s < later.member_s


def test_whatever_peers_have_made_it_count_fits_and_is_read_again() -> None:
    own = account()
    own.enters()
    for i in range(100):
        own._transport.refused[f"{i} \x1b[2J<script>" + "é" * 100] += i
        own.brings(brought(i, state=(1 << 64) - 1 - i))
    absent = {bytes([i]) * 32: "down" for i in range(200)}
    blob = encode(own.status(driver(member=True, absent=absent), astray=False))
    assert len(blob) <= MAX_NBYTES
    told = decode(blob)
    assert told.rejected == sum(range(100))
    assert list(told.absent) == [(bytes([i]) * 8).hex() for i in range(168, 200)]
    assert list(told.hashes) == list(range(92, 100))
    assert all("\x1b" not in why and len(why) <= 64 for why in told.reasons)


def test_what_came_too_late_is_not_held_against_anybody() -> None:
    own = account()
    own.enters()
    own._transport.refused.update({"unwanted blob": 5, "unreachable": 2, "bad signature": 1})
    taking_part = driver(member=True)
    taking_part.machine.counts = Counter({"decided": 7, "second payload": 3})
    told = own.status(taking_part, astray=False)
    assert (told.late, told.rejected, told.reasons) == (14, 4, {"second payload": 3, "bad signature": 1})
    assert own._transport.refused["unreachable"] == 2


def test_who_is_absent_is_told_with_what_is_known_of_it() -> None:
    peers = Peers()
    for i, nonce in enumerate([NONCE, NONCE, NONCE, NONCE, None]):
        peer = peers.find(bytes([i]) * 32, now=0.0)
        assert peer is not None
        peer.nonce = nonce
    one, two = peers.get(bytes([1]) * 32), peers.get(bytes([2]) * 32)
    assert one is not None
    assert two is not None
    one.silent, two.left = True, NONCE
    peers.end(bytes([4]) * 32)  # it has never spoken
    peers.end(bytes([3]) * 32)
    peers.end(bytes([2]) * 32)
    assert peers.absent() == {bytes([1]) * 32: "silent", bytes([3]) * 32: "down", bytes([2]) * 32: "left"}


def test_before_there_is_anything_to_tell_it_tells_that() -> None:
    async def asked() -> Status:
        return decode(encode(account().status(None, astray=False)))

    told = asyncio.run(asked())
    assert (told.state, told.round, told.hashes) == ("joining", 0, {})
