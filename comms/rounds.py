"""One round of any kind, written as plain steps over equal-size moves: frame, move, check, agree on what counts.

A round sees only bytes, so members that saw the same bytes reach the same `Exchange`; `Outcome.fingerprint` is how a transport
that may deliver different bytes on different paths finds out before anybody applies anything.
"""

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import torch
import xxhash
from torch import Tensor

from thinwire.comms.wire import (
    ABSTAIN,
    HEADER_NBYTES,
    SHARD,
    Header,
    RoundKey,
    WireError,
    bytes_of,
    frame,
    peek,
    unframe,
)
from thinwire.kernels.vector import LARGEST, all_finite

LATE = "is alive, but had not begun this exchange"
MAX_BLOB_NBYTES = 64 << 20  # of control data from one member: hashes and settings, never weights
_CONTROL_PLAN = 0x7468696E77697265  # "thinwire": control frames belong to no model
_CONTROL = 0xFFFFFFFE  # fragment number of their sizes; the data follow as the next one
_DIGEST = struct.Struct("<Q")
_SIZE = struct.Struct("<Q")
_SIZES = struct.Struct("<Q?7x")  # what a member is about to send: payload bytes, and whether they are to be summed

T = TypeVar("T", covariant=True)


class TransportError(RuntimeError):
    """A move failed: somebody died, left, or did not answer by the deadline (`late`)."""

    def __init__(self, why: str, *, late: bool = False) -> None:
        super().__init__(why)
        self.late = late


@dataclass(frozen=True)
class Note:
    """What a member says beside its payload: wire flags, inner steps behind it, a hash of its state (0: none)."""

    flags: int = 0
    steps: int = 0
    state: int = 0


@dataclass(frozen=True, eq=False)
class Exchange:
    """What the group agreed on in one round; the same on every member but for `seconds`.

    - `members`: whose payload counts, ascending; empty when nobody's does (then nothing may be averaged).
    - `payloads`: (len(members), nbytes) uint8, or (1, nbytes) with the rank-ordered fp32 sum when `reduced`.
    - `skipped`: everybody else and why, perhaps this member itself.
    - `notes`: of every member heard from, also of those that abstain.
    - `sent_nbytes`, `received_nbytes`: frames as they were handed to the transport and came out of it.
    - `seconds`: from start to end, set by the group.
    """

    key: RoundKey
    members: tuple[int, ...]
    payloads: Tensor
    skipped: dict[int, str]
    notes: dict[int, Note]
    sent_nbytes: int
    received_nbytes: int
    seconds: float
    reduced: bool = False


Arrivals = Mapping[int, Tensor | str]  # by member, ascending: its frame, or why there is none


class Link(Protocol):
    """What one attempt at a round may use; every call blocks with the attempt's deadline and raises `TransportError`."""

    @property
    def rank(self) -> int: ...
    @property
    def members(self) -> tuple[int, ...]: ...
    @property
    def sharded(self) -> bool:
        """Whether sums go by shards; where bytes cost nothing, whole payloads are simpler."""
        ...

    def all_gather(self, message: Tensor) -> Arrivals:
        """Give everybody `message` (1-D uint8, the same size on all members)."""
        ...

    def all_to_all(self, messages: Tensor) -> Arrivals:
        """Give the i-th member row i of `messages`, (members, nbytes) uint8."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a round ended for everybody: a result, or an error and whom it is about."""

    result: T | None
    error: str | None = None
    fingerprint: int = 0  # of the frames that decided it: equal on all members, or nothing may be applied
    missing: dict[int, str] = field(default_factory=dict)
    members: tuple[int, ...] | None = None  # of the group from now on, when known


@dataclass(frozen=True, eq=False)
class Ask:
    """What this member brings to a round."""

    run: int
    plan: int
    key: RoundKey
    note: Note
    payload: Tensor

    def framed(self, member: int, payload: Tensor, flags: int = 0) -> Tensor:
        """`payload` in a frame of this round."""
        note = self.note
        return frame(
            Header(
                self.run, self.plan, self.key, member, note.flags | flags, note.steps, note.state, payload.numel()
            ),
            payload,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a set of frames amounts to: a function of their bytes alone."""

    identity: tuple[int, RoundKey] | None  # plan and key that most sound frames carry; None on a draw
    payloads: dict[int, Tensor]  # that count, by member
    heard: dict[int, Tensor]  # payloads of sound frames, also of those that abstain
    skipped: dict[int, str]
    notes: dict[int, Note]
    fingerprint: int

    def why_not(self, ask: Ask) -> str | None:
        """Why this member may not use the verdict: it is somewhere else than the group."""
        if self.identity == (ask.plan, ask.key):
            return None
        if self.identity is None:
            return f"members disagree about the round: {self.skipped}; this member is at {_named(ask.plan, ask.key)}"
        return f"out of step: this member is at {_named(ask.plan, ask.key)}, the group at {_named(*self.identity)}"


def judge(arrivals: Arrivals, ask: Ask, nbytes: int, *, summed: bool = False) -> Verdict:
    """Check every frame (payload of `nbytes`, of sound float32 where it is to be `summed`); the members of the larger number decide
    which round and plan it is about."""
    identity: tuple[int, RoundKey] | None = (ask.plan, ask.key)
    verdict = _read(arrivals, ask.run, (ask.plan, ask.key), nbytes, summed)
    if verdict.skipped:
        votes = Counter(filter(None, (_identity(message, ask.run, member, nbytes) for member, message in arrivals.items())))
        ranked = votes.most_common(2)
        if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
            identity = None
            verdict = _read(arrivals, ask.run, min(votes, key=_order), nbytes, summed)
        elif ranked and ranked[0][0] != identity:
            identity = ranked[0][0]
            verdict = _read(arrivals, ask.run, identity, nbytes, summed)
    return replace(verdict, identity=identity)


def gather(ask: Ask, link: Link, *, reduce: bool = False, heads_first: bool = False) -> Outcome[Exchange]:
    """Every member gets every payload; with `reduce`, their fp32 sum in member order.

    With `heads_first` members tell each other the size of what they bring before any of it moves: gloo ends the process that is sent
    more than it waits for, and what nobody has need not be sent. All members must do so in the same exchanges.
    """
    nbytes, moved = ask.payload.numel(), 0
    if heads_first:
        mine = torch.frombuffer(bytearray(_SIZES.pack(nbytes, reduce)), dtype=torch.uint8)
        message = ask.framed(link.rank, mine)
        heads = judge(link.all_gather(message), ask, _SIZES.size)
        moved = (len(link.members) - 1) * message.numel()
        brought = {member: _SIZES.unpack(bytes_of(size)) for member, size in heads.heard.items()}
        if heads.identity is None or len(set(brought.values())) > 1:
            told = ", ".join(f"member {m} brings {size} bytes{' to sum' * summed}" for m, (size, summed) in brought.items())
            return Outcome(None, heads.why_not(ask) or f"members bring different payloads: {told}", heads.fingerprint, dict(heads.skipped))
        if not heads.payloads:
            return _outcome(ask, heads, torch.empty(0, nbytes, dtype=torch.uint8), moved, reduce, heads.fingerprint)
        nbytes, reduce = next(iter(brought.values()))
        if nbytes != ask.payload.numel():  # this member is somewhere else than the group: it takes part so that the others can go on
            ask = replace(ask, payload=torch.zeros(nbytes, dtype=torch.uint8))
    if reduce and link.sharded and len(link.members) > 2:
        return _reduce(ask, link, moved)
    message = ask.framed(link.rank, ask.payload)
    verdict = judge(link.all_gather(message), ask, nbytes, summed=reduce)
    counted = list(verdict.payloads.values())
    if reduce:
        payloads = rank_ordered_sum(counted, nbytes).unsqueeze(0)
    else:
        payloads = torch.stack(counted) if counted else torch.empty(0, nbytes, dtype=torch.uint8)
    moved += (len(link.members) - 1) * message.numel()
    return _outcome(ask, verdict, payloads, moved, reduce, verdict.fingerprint)


def _reduce(ask: Ask, link: Link, moved: int) -> Outcome[Exchange]:
    """Owner i sums shard i of all members, then everybody gets all sums: each sends 2 (n - 1) / n payloads."""
    n, nbytes = len(link.members), ask.payload.numel()
    shard = 4 * -(-nbytes // (4 * n))
    padded = torch.zeros(n * shard, dtype=torch.uint8)
    padded[:nbytes] = ask.payload
    messages = torch.stack([ask.framed(link.rank, part, SHARD) for part in padded.view(n, shard)])
    shards = judge(link.all_to_all(messages), ask, shard, summed=True)
    # Owners must have counted the same members for the same reasons, or the sums do not belong together.
    digest = xxhash.xxh3_64_intdigest(repr((shards.identity, list(shards.payloads), shards.skipped, shards.notes)).encode())
    sums = torch.empty(_DIGEST.size + shard, dtype=torch.uint8)
    bytes_of(sums)[: _DIGEST.size] = _DIGEST.pack(digest)
    sums[_DIGEST.size :] = rank_ordered_sum(list(shards.payloads.values()), shard)
    plan, key = shards.identity or (ask.plan, ask.key)
    message = Ask(ask.run, plan, key, Note(), sums).framed(link.rank, sums, SHARD)
    parts = judge(link.all_gather(message), Ask(ask.run, plan, key, Note(), sums), sums.numel())
    told = {bytes(bytes_of(part)[: _DIGEST.size]) for part in parts.payloads.values()}
    if parts.skipped or len(told) != 1:
        why = f"sums refused: {parts.skipped}" if parts.skipped else "members did not receive the same shards"
        return Outcome(None, why, parts.fingerprint, dict(parts.skipped))
    total = torch.cat([part[_DIGEST.size :] for part in parts.payloads.values()])[:nbytes]
    if not all_finite(total.view(torch.float32), limit=n * LARGEST):
        return Outcome(None, "sums refused: an owner sent NaN, Inf or more than the members can have brought", parts.fingerprint)
    moved += (n - 1) * (messages.shape[1] + message.numel())
    return _outcome(ask, shards, total.unsqueeze(0), moved, True, parts.fingerprint)


def gather_blobs(blob: bytes, link: Link, *, run: int, seq: int) -> Outcome[list[bytes]]:
    """Every member's bytes, of different sizes: sizes first, then padded to the largest; `seq` tells control exchanges apart."""
    size = torch.frombuffer(bytearray(_SIZE.pack(len(blob))), dtype=torch.uint8)
    first = Ask(run, _CONTROL_PLAN, RoundKey(0, seq, _CONTROL), Note(), size)
    heard = judge(link.all_gather(first.framed(link.rank, size)), first, _SIZE.size)
    sizes = [_SIZE.unpack(bytes_of(payload))[0] for payload in heard.payloads.values()]
    why = heard.why_not(first)
    if why or heard.skipped:
        return Outcome(None, why or f"control data refused: {heard.skipped}", heard.fingerprint, dict(heard.skipped))
    if max(sizes) > MAX_BLOB_NBYTES:
        return Outcome(None, f"a member claims {max(sizes)} bytes of control data, above {MAX_BLOB_NBYTES}", heard.fingerprint)
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    bytes_of(padded)[: len(blob)] = blob
    second = Ask(run, _CONTROL_PLAN, RoundKey(0, seq, _CONTROL + 1), Note(), padded)
    told = judge(link.all_gather(second.framed(link.rank, padded)), second, padded.numel())
    fingerprint = _hash((heard.fingerprint, told.fingerprint))
    if told.skipped:
        return Outcome(None, f"control data refused: {told.skipped}", fingerprint, dict(told.skipped))
    blobs = [bytes(bytes_of(payload)[:n]) for payload, n in zip(told.payloads.values(), sizes, strict=True)]
    return Outcome(blobs, None, fingerprint, members=link.members)


def rank_ordered_sum(payloads: Sequence[Tensor], nbytes: int) -> Tensor:
    """The fp32 sum ((p0 + p1) + p2) ..., unfused, as (nbytes,) uint8; zeros when there is nothing to sum.

    >>> rank_ordered_sum([torch.tensor([1.5]).view(torch.uint8)] * 2, 4).view(torch.float32)
    tensor([3.])
    """
    if not payloads:
        return torch.zeros(nbytes, dtype=torch.uint8)
    total = payloads[0].clone().view(torch.float32)
    for payload in payloads[1:]:
        total = total + payload.clone().view(torch.float32)  # a clone, as a row of a frame need not be aligned
    return total.view(torch.uint8)


def _read(arrivals: Arrivals, run: int, identity: tuple[int, RoundKey], nbytes: int, summed: bool) -> Verdict:
    plan, key = identity
    payloads: dict[int, Tensor] = {}
    heard: dict[int, Tensor] = {}
    skipped: dict[int, str] = {}
    notes: dict[int, Note] = {}
    seen: list[tuple[int, str, bytes]] = []
    for member, message in arrivals.items():
        checksum = b""
        if isinstance(message, str):
            skipped[member] = message
        else:
            try:
                header, payload = unframe(message, run=run, plan=plan, key=key, member=member, nbytes=nbytes)
            except WireError as error:
                skipped[member] = str(error)
            else:
                checksum = bytes(bytes_of(message)[HEADER_NBYTES - 8 : HEADER_NBYTES])
                heard[member] = payload
                notes[member] = Note(header.flags & ~SHARD, header.steps, header.state)
                if header.flags & ABSTAIN:
                    skipped[member] = "abstained"
                elif summed and not all_finite(payload.clone().view(torch.float32)):
                    skipped[member] = "payload: NaN, Inf or numbers above 2^100, which no member may send"
                else:
                    payloads[member] = payload
        seen.append((member, skipped.get(member, ""), checksum))
    return Verdict(identity, payloads, heard, skipped, notes, _hash((identity, seen)))


def _identity(message: Tensor | str, run: int, member: int, nbytes: int) -> tuple[int, RoundKey] | None:
    """Plan and key of a frame that is sound but for them."""
    header = None if isinstance(message, str) else peek(message)
    if header is None or isinstance(message, str):
        return None
    try:
        unframe(message, run=run, plan=header.plan, key=header.key, member=member, nbytes=nbytes)
    except WireError:
        return None
    return header.plan, header.key


def _outcome(ask: Ask, verdict: Verdict, payloads: Tensor, moved: int, reduced: bool, fingerprint: int) -> Outcome[Exchange]:
    why = verdict.why_not(ask)
    if why:
        return Outcome(None, why, fingerprint, dict(verdict.skipped))
    members = tuple(verdict.payloads)
    exchange = Exchange(ask.key, members, payloads, verdict.skipped, verdict.notes, moved, moved, 0.0, reduced)
    return Outcome(exchange, None, fingerprint)


def _order(identity: tuple[int, RoundKey]) -> tuple[int, int, int, int]:
    plan, key = identity
    return key.epoch, key.round, key.fragment, plan


def _named(plan: int, key: RoundKey) -> str:
    return f"epoch {key.epoch}, round {key.round}, fragment {key.fragment}, plan {plan:016x}"


def _hash(value: object) -> int:
    return xxhash.xxh3_64_intdigest(repr(value).encode())
