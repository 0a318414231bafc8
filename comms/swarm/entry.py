"""How a newcomer finds the members of a run, is let in or refused, and gets the state; and what a member answers at the door.

    hello   {hash of the lines, key}  -> refused: why  |  the state on offer: where it stands, its manifest, who else is a member
            with a round: that one, which is kept for a while; said again and again while it is fetched
    lines                             -> the settings of the member, so that the newcomer can name the first difference
    fate    {slot, digest}            -> whether that payload counted

A state is taken when two members name the same one (one member, when there is no other). The chunks come from all who hold it.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import Struct

from thinwire.comms.door import RefusedError, Snapshot, first_difference
from thinwire.comms.swarm.access import Access
from thinwire.comms.swarm.decision import Standing
from thinwire.comms.swarm.driver import Driver
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.offers import LEASE_S, Offers
from thinwire.comms.swarm.transfer import MANIFEST_NBYTES, read_manifest, unpack
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, PeerError, Transport
from thinwire.comms.swarm.view import Key, Slot, number_of
from thinwire.comms.wire import WireError

log = logging.getLogger("thinwire")

ASKED = 8  # members at a time
LINES_NBYTES = 4 << 20
TOGETHER = 4  # chunks under way


class Hello(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """May I come in? `lines` is the sha256 of my settings, `proof` the pass of an invitation, `round` the state that I am about to take."""

    lines: bytes
    proof: bytes
    round: int | None = None


class Known(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member and where it is reached."""

    key: bytes
    addresses: tuple[str, ...]


class Welcome(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a member answers. `refused` is empty, or "lines", or a sentence. Without `standing` a state is being prepared: ask again.

    Who is no member itself says so: it is "new", or "seeks" to come in again with the state that it has.
    """

    refused: str
    standing: Standing | None = None
    manifest: bytes = b""
    manifest_nbytes: int = 0
    meta: bytes = b""
    others: tuple[Known, ...] = ()
    outside: Literal["", "new", "seeks"] = ""


class Fate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Has this payload of mine counted?"""

    slot: Slot
    digest: bytes


@dataclass(frozen=True)
class Nobody:
    """What came of an attempt without a state: whether anybody answered, and who seeks as well, if that is all that can be reached."""

    answered: bool
    seekers: frozenset[Key] | None


@dataclass(frozen=True, eq=False)
class Found:
    """What a newcomer got: the state, where it stands, and where members are reached."""

    snapshot: Snapshot
    standing: Standing
    addresses: dict[Key, tuple[str, ...]]


def hash_of(lines: Sequence[str]) -> bytes:
    """What members compare first."""
    return hashlib.sha256("\n".join(lines).encode()).digest()


class Doorkeeper:
    """Answers newcomers on behalf of one member."""

    def __init__(self, transport: Transport, lines: Sequence[str], offers: Offers, access: Access) -> None:
        self._transport, self._offers, self._access = transport, offers, access
        self._lines, self._hash = "\n".join(lines).encode(), hash_of(lines)
        self.driver: Driver | None = None
        self.addresses: dict[Key, tuple[str, ...]] = {}
        transport.serve |= {"hello": self._hello, "lines": self._tell_lines, "fate": self._fate}

    async def _hello(self, peer: Key, request: bytes) -> bytes:
        return msgspec.msgpack.encode(self._answer(peer, request))

    def _answer(self, peer: Key, request: bytes) -> Welcome:
        try:
            hello = msgspec.msgpack.decode(request, type=Hello)
        except msgspec.DecodeError:
            self._transport.refused["hello"] += 1
            return Welcome("unreadable")
        driver = self.driver
        if not self._access.admits(peer, hello.proof):
            self._transport.refused["key not allowed"] += 1
            return Welcome(f"its key {peer.hex()} is not on the list of this run, and it has no invitation (thinwire invite) to it")
        if hello.lines != self._hash:
            self._transport.refused["other settings"] += 1
            return Welcome("lines")
        if driver is None:
            return Welcome("", outside="new")
        if driver.closed:
            return Welcome("", outside="seeks")
        if not driver.machine.is_member:
            return Welcome("")
        members = driver.machine.view.members
        if any(number_of(key) == number_of(peer) and key != peer for key in members):
            return Welcome("its member number is taken by another key: make another key (thinwire keygen)")
        if hello.round is None:
            self._offers.want()
        offer = self._offers.newest() if hello.round is None else self._offers.lease(hello.round)
        standing = None if offer is None else driver.machine.standing(Slot(offer.manifest.round))
        if offer is None or standing is None:
            if offer is not None:
                self._offers.release(offer.manifest.round)
            return Welcome("")
        others = tuple(Known(key, self.addresses.get(key, ())) for key in members[:64])
        return Welcome("", standing, offer.digest, offer.nbytes, offer.meta, others)

    async def _tell_lines(self, peer: Key, request: bytes) -> bytes:
        return self._lines[:LINES_NBYTES]

    async def _fate(self, peer: Key, request: bytes) -> bytes:
        try:
            fate = msgspec.msgpack.decode(request, type=Fate)
        except msgspec.DecodeError:
            return b""
        decision = self.driver.machine.decisions.get(fate.slot) if self.driver is not None else None
        if decision is None:
            return b""
        return b"yes" if any((key, digest) == (peer, fate.digest) for key, digest, _ in decision.counted) else b"no"


async def ask_at_doors(
    transport: Transport,
    doors: dict[Key, tuple[str, ...]],
    lines: Sequence[str],
    expected: Snapshot,
    *,
    proof: bytes,
    alone_is_enough: bool,
    one_may_refuse: bool,
) -> Found | Nobody:
    """One attempt to get in at these members. Raises `RefusedError` when the run refuses this member.

    `expected` says which tensors there have to be. Where some refuse and some do not, most of them are right, and of two halves those that
    let this member in: one that lies keeps nobody out.
    """
    up = [key for key in doors if transport.is_up(key)]  # who is gone may be announced for another minute
    answers = await _ask_all(transport, up[:ASKED], Hello(hash_of(lines), proof))
    refusals = {key: answer.refused for key, answer in answers.items() if answer.refused}
    if len(refusals) > len(answers) / 2 and (len(refusals) > 1 or one_may_refuse):
        key, refused = next(iter(refusals.items()))
        raise RefusedError(await _why(transport, key, refused, lines))
    welcomes = {key: answer for key, answer in answers.items() if answer.standing is not None}
    rounds = {answer.standing.slot.round for answer in welcomes.values() if answer.standing is not None}
    if len(rounds) > 1:  # members are a round apart: ask for what all of them still have
        again = await _ask_all(transport, list(welcomes), Hello(hash_of(lines), proof, min(rounds)))
        welcomes = {key: answer for key, answer in again.items() if answer.standing is not None}
    named: dict[tuple[bytes, bytes], list[Key]] = defaultdict(list)
    for key, answer in welcomes.items():
        for other in answer.others:
            if len(other.key) == 32:
                doors.setdefault(other.key, other.addresses)
        named[msgspec.msgpack.encode(answer.standing), answer.manifest].append(key)
    outside = len(answers) == len(up) and all(answer.outside for answer in answers.values())
    seekers = frozenset(key for key, answer in answers.items() if answer.outside == "seeks")
    nobody = Nobody(bool(answers), seekers if outside else None)
    if not named:
        return nobody
    givers = max(named.values(), key=len)
    answer = welcomes[givers[0]]
    assert answer.standing is not None
    if len(givers) < 2 and not alone_is_enough and len(set(answer.standing.members) - {transport.key}) > 1:
        return nobody
    held = asyncio.ensure_future(_hold(transport, givers, Hello(hash_of(lines), proof, answer.standing.slot.round)))
    try:
        snapshot = await _download(transport, answer, givers, expected)
    except (PeerError, WireError) as error:
        log.info("the state could not be had (%s): asking again", error)
        return nobody
    finally:
        await end([held])
    return Found(snapshot, answer.standing, dict(doors))


async def knock(transport: Transport, key: Key, lines: Sequence[str], proof: bytes) -> None:
    """Make oneself known to a member, without taking anything."""
    await _welcome(transport, key, msgspec.msgpack.encode(Hello(hash_of(lines), proof)))


async def has_counted(transport: Transport, members: Sequence[Key], slot: Slot, digest: bytes) -> bool:
    """Whether this member's payload of a slot counted, as far as one of these members knows."""
    for key in [key for key in members if transport.is_up(key)][:3]:
        try:
            answer = await transport.ask(key, "fate", msgspec.msgpack.encode(Fate(slot, digest)))
        except PeerError:
            continue
        if answer in (b"yes", b"no"):
            return answer == b"yes"
    return False


async def _hold(transport: Transport, givers: Sequence[Key], hello: Hello) -> None:
    """Have the givers keep a state for as long as this runs."""
    while True:
        await _ask_all(transport, givers, hello)
        await asyncio.sleep(LEASE_S / 4)


async def _download(transport: Transport, answer: Welcome, givers: Sequence[Key], expected: Snapshot) -> Snapshot:
    if not 0 < answer.manifest_nbytes <= MANIFEST_NBYTES:
        raise WireError(f"manifest of {answer.manifest_nbytes} bytes")
    manifest = read_manifest(await transport.fetch(answer.manifest, answer.manifest_nbytes, givers), expected)
    assert answer.standing is not None
    if Slot(manifest.round) != answer.standing.slot:
        raise WireError(f"a state before round {manifest.round} for {answer.standing.slot}")
    gate = asyncio.Semaphore(TOGETHER)

    async def get(digest: bytes, nbytes: int) -> bytes:
        async with gate:
            return await transport.fetch(digest, nbytes, givers)

    return await unpack(manifest, answer.meta, get)


async def _ask_all(transport: Transport, keys: Sequence[Key], hello: Hello) -> dict[Key, Welcome]:
    """The answers of those that answer."""
    request = msgspec.msgpack.encode(hello)
    answers = await asyncio.gather(*(_welcome(transport, key, request) for key in keys))
    return {key: answer for key, answer in zip(keys, answers, strict=True) if answer is not None}


async def _welcome(transport: Transport, key: Key, hello: bytes) -> Welcome | None:
    try:
        answer = await transport.ask(key, "hello", hello, limit_nbytes=2 * MAX_MESSAGE_NBYTES)
        return msgspec.msgpack.decode(answer, type=Welcome)
    except PeerError as error:
        log.debug("member %s: %s", key.hex()[:8], error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        transport.refused["welcome"] += 1
    return None


async def _why(transport: Transport, key: Key, refused: str, lines: Sequence[str]) -> str:
    who = f"member {number_of(key)} of the run refuses this one: "
    if refused != "lines":
        return who + refused[:500]
    try:
        theirs = (await transport.ask(key, "lines", b"", limit_nbytes=LINES_NBYTES)).decode(errors="replace").split("\n")
    except PeerError as error:
        return f"{who}other settings, which it did not tell ({error})"
    return who + _difference(lines, theirs) + "; start every member with the same settings and model"


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    mine, other = first_difference(ours, theirs) or (None, None)
    if mine is None:
        return f"only the run has `{other}`"
    return f"only this member has `{mine}`" if other is None else f"this member has `{mine}`, the run has `{other}`"
