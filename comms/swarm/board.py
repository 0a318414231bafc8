"""Where members of a run find each other: the peers that were named, the notice board of the DHT, and whoever those tell of."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thinwire.comms.door import Snapshot
from thinwire.comms.swarm.access import Access
from thinwire.comms.swarm.addressbook import AddressBook
from thinwire.comms.swarm.ending import end
from thinwire.comms.swarm.entry import Found, ask_at_doors, knock
from thinwire.comms.swarm.p2pd import key_in
from thinwire.comms.swarm.transport import MAX_RECORD_NBYTES, PeerError, Transport
from thinwire.comms.swarm.view import Key

log = logging.getLogger("thinwire")

ANNOUNCE_S = 20.0  # a notice is read for 60 s
LOOK_S = 2.0
SLOW_S = 0.5  # of waiting for the board before one goes on without what it will say: nodes that are gone are waited for there
LONELY_S = 2.0  # of looking for members before this one offers to found the run though peers were named
CLAIM_S = 3.0  # of looking for others who offer the same, once more in the second half of it: the lowest key founds it
ALONE_S = 10.0  # of waiting for a second member to confirm a state, where there should be one
AGAIN_S = 0.1
TOLD_S = 10.0
MET = 32  # members that are looked up at a time
RECALL_S = 3.0  # of trying the peers that were named before those of earlier days are tried too
CIRCLE_S, ISOLATED_S = 3.0, 6.0  # of finding nobody but others who seek as well; nobody at all
ASKED_S = 3.0  # of waiting for other members before the word of one counts that refuses


@dataclass(frozen=True)
class Notice:
    """What somebody has put on the board: whether it is a member (or offers to found the run), and where it is reached."""

    member: bool
    addresses: tuple[str, ...]


def write_notice(word: str, addresses: Iterable[str]) -> bytes:
    """A record for the board: a word, and as many addresses as there is room for."""
    record = word.encode()
    for address in addresses:
        longer = record + b"\n" + address.encode()
        if len(longer) > MAX_RECORD_NBYTES - 128:
            break
        record = longer
    return record


def read_notice(record: bytes) -> tuple[str, tuple[str, ...]]:
    """The word and the addresses of a record, whoever has written it."""
    word, *addresses = record.decode(errors="replace").split("\n")
    return word, tuple(addresses)


class Board:
    """The notice board of one run as one member sees it; `book` keeps where its members were."""

    def __init__(
        self, transport: Transport, run_id: str, initial_peers: Sequence[str], access: Access, book: AddressBook | None = None
    ) -> None:
        self._transport, self._run_id, self._access, self._book = transport, run_id, access, book
        self._named = self._doors_at(initial_peers)

    def _doors_at(self, addresses: Sequence[str]) -> dict[Key, tuple[str, ...]]:
        keyed = [(key, address) for address in addresses for key in [key_in(address)] if key is not None and key != self._transport.key]
        return {key: tuple(address for other, address in keyed if other == key) for key, _ in keyed}

    def _recall(self) -> dict[Key, tuple[str, ...]]:
        return self._doors_at(self._book.recall(self._access.run)) if self._book is not None else {}

    def _remember(self, places: Iterable[Sequence[str]]) -> None:
        if self._book is not None:
            everywhere = [*places, self._transport.addresses()]  # also where this member is: for the next process of this machine
            self._book.remember(self._access.run, [address for addresses in everywhere for address in addresses])

    async def announce(self, *, member: bool = True) -> None:
        """Let others find this member for the next minute; or say that this process would found the run."""
        record = write_notice("member" if member else "founding", self._transport.addresses())
        try:
            await self._transport.announce(self._run_id, record)
        except PeerError as error:
            log.debug("notice board: %s", error)

    async def announced(self) -> dict[Key, Notice]:
        """Who has announced itself."""
        try:
            records = await self._transport.lookup(self._run_id)
        except PeerError as error:
            log.debug("notice board: %s", error)
            return {}
        read = {key: read_notice(record) for key, record in records.items() if key != self._transport.key}
        return {key: Notice(word == "member", addresses) for key, (word, addresses) in read.items()}

    async def keep(self, lines: Callable[[], Sequence[str] | None]) -> None:
        """Stay announced, and meet those who have founded the same run elsewhere; `lines` are None before this member has entered."""
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            ours = lines()
            if ours is None:
                continue
            await self.announce()
            members = {key: notice for key, notice in (await self.announced()).items() if notice.member}
            self._remember(notice.addresses for key, notice in members.items() if self._transport.is_up(key))
            strangers = [(key, notice) for key, notice in members.items() if not self._transport.is_up(key)]
            for key, notice in strangers[:MET]:
                self._transport.connect(key, notice.addresses)
                await knock(self._transport, key, ours, self._access.proof())  # else it may not trust what this member says

    async def seek(self, lines: Sequence[str], expected: Snapshot, known: Sequence[Key], *, give_up_s: float | None) -> Found | None:
        """The state of the run from its members, or None when there are none.

        Named peers that cannot be reached, and members that cannot let this one in yet, are waited for: a second run of the same name
        would help nobody. Who has a state and comes back (`give_up_s`) waits for `give_up_s` at most, and less where nobody is a member
        any more: of those who all seek each other, the lowest key goes on. Raises `RefusedError` when the members refuse this one.
        """
        looking = _Looking(self.announced)
        try:
            return await self._seek(looking, lines, expected, known, give_up_s)
        finally:
            await looking.close()

    async def _seek(
        self, looking: "_Looking", lines: Sequence[str], expected: Snapshot, known: Sequence[Key], give_up_s: float | None
    ) -> Found | None:
        began, told = time.monotonic(), False
        claimed: float | None = None
        begun = False  # somebody has answered as a member does
        circle = _Circle(self._transport.key)
        doors: dict[Key, tuple[str, ...]] = self._named | dict.fromkeys(known, ())
        recalled: dict[Key, tuple[str, ...]] | None = None  # from other days; whoever is announced is of today
        while True:
            if await looking.look():
                members = {key: notice.addresses for key, notice in looking.notices.items() if notice.member}
                doors |= members
                recalled = recalled and {key: addresses for key, addresses in recalled.items() if key not in members}
            looked = looking.asked is not None
            for key, addresses in doors.items():
                if not self._transport.is_up(key):
                    self._transport.connect(key, addresses)
            waited = time.monotonic() - began
            found = await ask_at_doors(
                self._transport,
                doors,
                lines,
                expected,
                proof=self._access.proof(),
                alone_is_enough=waited > ALONE_S,
                one_may_refuse=waited > ASKED_S or (looked and all(map(self._transport.is_up, doors))),
            )
            if isinstance(found, Found):
                self._remember(found.addresses.values())
                for key in doors.keys() - set(found.standing.members):
                    if not self._transport.is_up(key):
                        self._transport.disconnect(key)  # of members that are gone: not dialled for ever
                return found
            begun = begun or found.answered
            if give_up_s is not None and (waited > give_up_s or circle.closed(found.seekers if looked else None)):
                return None
            reached = not self._named or any(map(self._transport.is_up, self._named))
            if waited > RECALL_S and not reached and recalled is None:
                recalled = {key: addresses for key, addresses in self._recall().items() if key not in doors}
                doors |= recalled
            nobody = looked and not begun and reached and not doors.keys() - self._named.keys() - (recalled or {}).keys()
            if waited > LONELY_S and nobody:  # the peers to start from are there, and nobody has begun the run
                if claimed is None:
                    await self.announce(member=False)
                    await looking.again()
                    claimed = time.monotonic()
                elif time.monotonic() - claimed > CLAIM_S and looking.since(claimed + CLAIM_S / 2) and self._is_first(looking.notices):
                    return None
            if waited > TOLD_S and not told:
                told = True
                log.warning("run %r: %d peers are known, none is reached and lets this member in yet; trying on", self._run_id, len(doors))
            await asyncio.sleep(AGAIN_S)

    def _is_first(self, notices: dict[Key, Notice]) -> bool:
        """Of all that offer to found the run."""
        return all(self._transport.key < key for key, notice in notices.items() if not notice.member)


class _Looking:
    """What the board says, asked every `LOOK_S`, by somebody who has more to do than to wait for that."""

    def __init__(self, announced: Callable[[], Coroutine[Any, Any, dict[Key, Notice]]]) -> None:
        self._announced = announced
        self._search: asyncio.Task[dict[Key, Notice]] | None = None
        self._began = float("-inf")
        self.notices: dict[Key, Notice] = {}
        self.asked: float | None = None  # when the search that has told them began

    async def look(self) -> bool:
        """Whether there are new notices: of a search that is over, or is within `SLOW_S` of its beginning."""
        if self._search is None and time.monotonic() - self._began > LOOK_S:
            self._began, self._search = time.monotonic(), asyncio.ensure_future(self._announced())
        if self._search is None:
            return False
        await asyncio.wait([self._search], timeout=max(0.0, self._began + SLOW_S - time.monotonic()))
        if not self._search.done():
            return False
        self.notices, self.asked, self._search = self._search.result(), self._began, None
        return True

    async def again(self) -> None:
        """The next look begins a search."""
        await self.close()
        self._search, self._began = None, float("-inf")

    def since(self, when: float) -> bool:
        """Whether the notices are of a search that began later."""
        return self.asked is not None and self.asked > when

    async def close(self) -> None:
        """Look no more."""
        if self._search is not None:
            await end([self._search])


class _Circle:
    """Whether this member should go on alone: for a while nobody has been reached but others who seek as well, with higher keys."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._since: float | None = None

    def closed(self, seekers: frozenset[Key] | None) -> bool:
        """`seekers`: see `Nobody`."""
        now = time.monotonic()
        if seekers is None or min(seekers, default=self._key) < self._key:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since > (CIRCLE_S if seekers else ISOLATED_S)
