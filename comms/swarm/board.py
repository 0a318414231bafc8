"""Where members of a run find each other: the peers that were named, the notice board of the DHT, and whoever those tell of."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from thinwire.comms.door import Snapshot
from thinwire.comms.swarm.access import Access
from thinwire.comms.swarm.entry import Found, ask_at_doors
from thinwire.comms.swarm.p2pd import key_in
from thinwire.comms.swarm.transport import MAX_RECORD_NBYTES, PeerError, Transport
from thinwire.comms.swarm.view import Key

log = logging.getLogger("thinwire")

ANNOUNCE_S = 20.0  # a notice is read for 60 s
LOOK_S = 2.0
LONELY_S = 5.0  # of looking for members before a run is founded though peers were named
ALONE_S = 10.0  # of waiting for a second member to confirm a state, where there should be one
AGAIN_S = 0.1
MET = 32  # members that are looked up at a time


class Board:
    """The notice board of one run as one member sees it."""

    def __init__(self, transport: Transport, run_id: str, initial_peers: Sequence[str], access: Access) -> None:
        self._transport, self._run_id, self._access = transport, run_id, access
        self._named = {key: (address,) for address in initial_peers for key in [key_in(address)] if key not in (None, transport.key)}

    async def announce(self) -> None:
        """Let others find this member for the next minute."""
        record = b""
        for address in self._transport.addresses():
            longer = record + b"\n" * bool(record) + address.encode()
            if len(longer) > MAX_RECORD_NBYTES - 128:
                break
            record = longer
        try:
            await self._transport.announce(self._run_id, record)
        except PeerError as error:
            log.debug("notice board: %s", error)

    async def announced(self) -> dict[Key, tuple[str, ...]]:
        """Members that have announced themselves, and where they are reached."""
        try:
            records = await self._transport.lookup(self._run_id)
        except PeerError as error:
            log.debug("notice board: %s", error)
            return {}
        return {key: tuple(record.decode(errors="replace").split("\n")) for key, record in records.items() if key != self._transport.key}

    async def keep(self, entered: Callable[[], bool]) -> None:
        """Stay announced, and meet those who may have founded the same run elsewhere."""
        while True:
            await asyncio.sleep(ANNOUNCE_S)
            if entered():
                await self.announce()
                for key, addresses in list((await self.announced()).items())[:MET]:
                    if not self._transport.is_up(key):
                        self._transport.connect(key, addresses)

    async def seek(self, lines: Sequence[str], expected: Snapshot, known: Sequence[Key], *, give_up_s: float | None) -> Found | None:
        """The state of the run from its members, or None when there are none.

        Named peers that cannot be reached, and members that cannot let this one in yet, are waited for: a second run of the same name
        would help nobody. Raises `RefusedError` when the members refuse this one.
        """
        began, looked, told = time.monotonic(), float("-inf"), False
        doors: dict[Key, tuple[str, ...]] = self._named | dict.fromkeys(known, ())
        while True:
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                doors |= await self.announced()
            for key, addresses in doors.items():
                if not self._transport.is_up(key):
                    self._transport.connect(key, addresses)
            waited = time.monotonic() - began
            alone = waited > ALONE_S
            found = await ask_at_doors(self._transport, doors, lines, expected, proof=self._access.proof(), alone_is_enough=alone)
            if found is not None:
                return found
            if give_up_s is not None and waited > give_up_s:
                return None
            if waited > LONELY_S and not doors.keys() - self._named.keys():
                if not self._named or any(self._transport.is_up(key) for key in self._named):
                    return None  # the peers to start from are there, and nobody has begun the run
            if waited > LONELY_S and not told:
                told = True
                log.warning("run %r: %d peers are known, none is reached and lets this member in yet; trying on", self._run_id, len(doors))
            await asyncio.sleep(AGAIN_S)
