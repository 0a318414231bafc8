"""Epochs: how those who have lost their quorum go on, and which of two lineages gives way when they meet.

Bereaved members make a new epoch: the lowest key of those who reach each other asks the rest (`Found`), all of them consent, and it
begins. A consent binds nobody: until it begins, votes in the old epoch go on as ever, and whoever has begun the new epoch never votes in
the old one again. Inside every epoch the rules of the view hold; between epochs nothing is promised but that one of them gives way.

Which one: an epoch that has kept its quorum never gives way to one that left it; else the lineage that has counted fewer payloads does,
and between equals the one with the higher digest.

What a heartbeat says may be long past: what was sent into a cut arrives when that is mended. Two lineages that believed such words would
give way to what both of them were before, and both be gone. So whoever would give way asks (`Where`), and believes the answer (`Here`).
"""

from dataclasses import dataclass

from thinwire.comms.swarm.archive import Archive
from thinwire.comms.swarm.decision import Standing
from thinwire.comms.swarm.effects import Rejoin
from thinwire.comms.swarm.messages import Beat, Begun, Consent, Found, Here, Where
from thinwire.comms.swarm.seat import Seat
from thinwire.comms.swarm.view import EpochId, Key, Nonce, Slot, digest_of

KEPT_ANCESTORS = 8
TRIES = 3


@dataclass(frozen=True)
class Claim:
    """What a lineage puts forward when it meets another."""

    epoch: EpochId
    ancestors: tuple[EpochId, ...]
    work: int
    quorate: bool


def gives_way(mine: Claim, theirs: Claim) -> str:
    """Why `mine` gives way to `theirs`, or nothing. Never says so on both sides."""
    if not theirs.quorate:
        return ""
    if theirs.epoch in mine.ancestors:
        return "the others have kept their quorum"
    if mine.epoch in theirs.ancestors:
        return "" if mine.quorate else "the others have gone on without this member"
    if (theirs.work, mine.epoch) > (mine.work, theirs.epoch):
        return "another lineage of this run has more work in it"
    return ""


def founding(slot: Slot, me: Key, nonce: Nonce) -> Standing:
    """The first member of a run, alone."""
    digest = digest_of(b"root", me, nonce)[:16]
    return Standing(0, digest, slot, digest_of(b"root chain", digest), 0, (me,), (nonce,))


def successor(before: Standing, members: tuple[Key, ...], nonces: tuple[Nonce, ...]) -> Standing:
    """The epoch in which these members go on from `before`."""
    number = before.number + 1
    digest = digest_of(b"epoch", before.epoch, before.chain, number.to_bytes(8, "big"), *members, *nonces)[:16]
    ancestors = (before.epoch, *before.ancestors)[:KEPT_ANCESTORS]
    return Standing(number, digest, before.slot, before.chain, before.work, members, nonces, ancestors)


class Lineage:
    """This member's part in both."""

    def __init__(self, seat: Seat, archive: Archive, split: str) -> None:
        self._seat, self._archive, self._split = seat, archive, split
        self._lonely_since: float | None = None
        self._tries = 0  # to go on without a quorum
        self._found: Standing | None = None  # asked of others by this member
        self._consents: set[Key] = set()
        self.consented: Standing | None = None
        self.base: Standing | None = None  # where this member's epoch has begun
        self._yielded_at: float | None = None
        self._asked: dict[Key, tuple[int, float]] = {}  # where they are now: token, and when
        self._tokens = 0
        self._left_behind: EpochId | None = None  # by this epoch, which has begun from an earlier round than this member's

    # -- bereavement -------------------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Somebody came or went: is there still a quorum?"""
        if self._seat.is_member and self._seat.quorate():
            self._lonely_since, self._found, self._tries = None, None, 0
            self._seat.disarm("bereaved")
            return
        if self._lonely_since is None:
            self._lonely_since = now
        delay = self._delay()
        if delay is None:
            self._seat.disarm("bereaved")
        else:
            self._seat.arm("bereaved", max(self._lonely_since + delay, now))

    def _delay(self) -> float | None:
        """Seconds without a quorum after which to go on without; None: never."""
        seat, timing = self._seat, self._seat.timing
        presence = seat.presence
        missing = ~presence.present_bits & (1 << len(seat.view.members)) - 1
        if not seat.is_member:  # follows a group: only if nobody of it is there at all, and not for a moment's cut
            if self._split != "continue" or any(seat.reachable(key) for key in seat.others):
                return None
            speaks = [(key, peer.elsewhere) for key, peer in seat.peers.items() if peer.up and peer.bound]
            for_good = self._orphaned and not any(elsewhere for _, elsewhere in speaks)  # those may be members that have gone over
            could = any(key < seat.me and not elsewhere for key, elsewhere in speaks)  # the lowest key goes first, and the rest follows it
            return (0.0 if for_good else 1.5 * timing.bereaved_s) + (0.5 * timing.bereaved_s if could else 0.0)
        if not missing & ~presence.gone_bits:
            return 0.0  # they never come back as who they were
        if self._split != "continue":
            return None
        linked = missing & presence.linked_bits & ~presence.gone_bits
        return timing.bereaved_s if linked else timing.bereaved_down_s

    def bereaved(self, now: float) -> Standing | None:
        """No quorum for too long: ask those who are there; returns the new epoch if that is nobody else."""
        seat = self._seat
        seat.arm("bereaved", now + seat.timing.bereaved_down_s)  # somebody may have gone meanwhile
        self._tries += 1
        if self._waits():
            return None
        there = [(k, n) for k, n in zip(seat.view.members, seat.view.nonces, strict=True) if k in seat.presence.present]
        if not seat.is_member:
            there = [(seat.me, seat.nonce)]
        if there[0][0] != seat.me:
            return None
        members, nonces = zip(*there, strict=True)
        self._found = successor(seat.standing, members, nonces)
        self._consents = {seat.me}
        if len(members) == 1:
            return self._found
        seat.send(members, Found(seat.epoch, self._found))
        return None

    def _waits(self) -> bool:
        """Whether to wait for payloads of what is decided: they may still come, but not for ever, and not if all who had them have died."""
        seat = self._seat
        lost = self._orphaned and not seat.peers.further(seat.slot) and (seat.is_member or self._tries > 1)  # other followers may have them
        return self._archive.behind and self._tries <= TRIES and not lost

    @property
    def _orphaned(self) -> bool:
        """Whether no other member ever comes back as who it was."""
        gone = self._seat.presence.gone_bits
        return all(gone >> at & 1 for at, key in enumerate(self._seat.view.members) if key != self._seat.me)

    def on_found(self, sender: Key, message: Found) -> None:
        """A member asks to go on in a new epoch."""
        seat, asked = self._seat, message.standing
        if asked.slot > seat.slot:
            self._archive.ask(sender)
            return
        sound = not asked.why_not and asked.view.has(seat.me, seat.nonce) and asked.view.index(sender) is not None
        if not sound or asked != self._again(asked) or not all(map(seat.view.has, asked.members, asked.nonces)):
            seat.refuse("epoch to found")
        elif self._waits() or (seat.is_member and seat.quorate()):
            seat.refuse("no need of a new epoch")
        else:
            self.consented = asked
            seat.send((sender,), Consent(seat.epoch, asked.epoch))

    def on_consent(self, sender: Key, message: Consent) -> Standing | None:
        """A member goes on; returns the new epoch when all do."""
        found = self._found
        if found is None or found.epoch != message.founded or sender not in found.members:
            self._seat.refuse("consent")
            return None
        self._consents.add(sender)
        if len(self._consents) < len(found.members) or found != self._again(found) or self._waits():
            return None
        self._seat.send(found.members, Begun(self._seat.epoch, found))
        return found

    def on_begun(self, sender: Key, begun: Standing, now: float) -> Standing | None:
        """An epoch has begun that follows on this one; returns it if this member can go on there as it stands."""
        seat = self._seat
        if begun.why_not or begun.ancestors[:1] != (seat.epoch,) or (seat.is_member and seat.quorate() and begun != self.consented):
            seat.refuse("begun")
        elif begun == self._again(begun) and not self._waits():
            return begun
        elif begun.slot <= seat.slot:  # this member has gone on where they have not, or has another past
            self._left_behind = begun.epoch
            self._ask(sender, now)
        else:
            self._archive.ask(sender)
        return None

    def _again(self, asked: Standing) -> Standing:
        return successor(self._seat.standing, asked.members, asked.nonces)

    def begin(self, base: Standing) -> None:
        """Another epoch has begun here."""
        self._lonely_since = self._found = self.consented = self._yielded_at = self._left_behind = None
        self._asked = {}
        self._tries, self.base, self._seat.yielding = 0, base, False

    # -- meeting -----------------------------------------------------------------------------------------------------------------

    def meet(self, sender: Key, beat: Beat, now: float) -> None:
        """A member of another lineage says where it stands."""
        seat = self._seat
        if self.base is not None and self.base.ancestors[:1] == (beat.epoch,):
            seat.send((sender,), Begun(beat.epoch, self.base))  # it may have missed the beginning, and be able to follow as it stands
        mine = Claim(seat.epoch, seat.ancestors, seat.work, seat.quorate())
        why = gives_way(mine, Claim(beat.epoch, beat.ancestors, beat.work, beat.quorate and not beat.yielding))
        if not why or (self._yielded_at is not None and now - self._yielded_at < seat.timing.want_s):
            return
        asked, _ = self._asked.get(sender, (None, 0.0))
        fresh = isinstance(beat, Here) and beat.token == asked
        if beat.ancestors[:1] == (seat.epoch,) and beat.epoch != self._left_behind:
            seat.send((sender,), seat.beat())  # the answer says from where they have gone on
        elif fresh:
            self._give_way(why, sender, now)
        else:
            self._ask(sender, now)

    def stay(self, now: float) -> None:
        """Those to whom this member wanted to give way have not been heard of for a while: it stays where it is."""
        if self._yielded_at is not None and now - self._yielded_at > 2 * self._seat.timing.want_s:
            self._yielded_at, self._seat.yielding = None, False

    def _ask(self, sender: Key, now: float) -> None:
        """Whether what was heard still holds; again only after a while, since the answer may take its time."""
        wait_s = self._seat.timing.want_s
        self._asked = {key: (token, at) for key, (token, at) in self._asked.items() if now - at < wait_s}
        if sender not in self._asked:
            self._tokens += 1
            self._asked[sender] = self._tokens, now
            self._seat.send((sender,), Where(self._seat.epoch, self._tokens))

    def _give_way(self, why: str, sender: Key, now: float) -> None:
        self._yielded_at, self._seat.yielding = now, True
        self._seat.emit(Rejoin(why, (sender,)))
