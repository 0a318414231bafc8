"""The notice board two ways at once: in the DHT, and from peer to peer.

The DHT finds members that nobody here knows. Asking peers that are known already takes one round trip, needs no right clock (a peer
counts the seconds since it heard a record itself), and still works when a DHT is full of garbage.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from thinwire.comms.swarm.dht import Board
from thinwire.comms.swarm.envelope import EnvelopeError, run_tag
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.records import LIFE_S, MAX_NBYTES, Record, read_many, read_record, write_record
from thinwire.comms.swarm.transport import Key, PeerError

QUESTION = "thinwire/board"
MAX_ASKED = 8  # peers
MAX_NOTES = 2048  # records that this member keeps for others, all runs together
MAX_ANSWERED = 256
_ANSWER_NBYTES = MAX_ANSWERED * (MAX_NBYTES + 2)
_ASK_S = 3.0

Ask = Callable[[Key, str, bytes, int, float], Awaitable[bytes]]


class Notices:
    """`peers()`: whom to ask, the best first."""

    def __init__(self, identity: Identity, board: Board, ask: Ask, peers: Callable[[], Iterable[Key]], refused: Counter[str]) -> None:
        self._identity, self._board, self._ask, self._peers, self._refused = identity, board, ask, peers, refused
        self._notes: OrderedDict[tuple[bytes, Key], tuple[Record, float]] = OrderedDict()  # and until when, monotonic
        self._last_expiry = 0.0

    async def announce(self, run: str, body: bytes) -> None:
        """Put up this member's record; raises `PeerError` when there are peers and none of them, nor the DHT, took it."""
        now = max(time.time(), self._last_expiry - LIFE_S + 0.001)  # later than the last one, also when the clock was set back
        record = write_record(self._identity, run_tag(run), body, now)
        self._last_expiry = record.expiry
        self._keep(record)
        asked = self._asked()
        results = await asyncio.gather(
            self._board.put(record),
            *(self._ask(peer, QUESTION, b"p" + record.raw, 16, _ASK_S) for peer in asked),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, PeerError):
                raise result
        if asked and results[0] is not True and all(isinstance(result, PeerError) for result in results[1:]):
            raise PeerError("not announced", "neither the DHT nor a peer took the record")

    async def lookup(self, run: str) -> dict[Key, bytes]:
        """The records of a run, of members that are heard of here, at some peers, or in the DHT."""
        tag = run_tag(run)
        found, *answers = await asyncio.gather(self._board.get(run), *(self._listed(peer, tag) for peer in self._asked()))
        newest = {key: record for (of, key), (record, _) in self._fresh() if of == tag}
        for records in (found, *answers):
            for key, record in records.items():
                if key not in newest or record.expiry > newest[key].expiry:
                    newest[key] = record
        return {key: record.body for key, record in newest.items() if self._board.admit(key)}

    async def answer(self, peer: Key, request: bytes) -> bytes:
        """What others ask: to keep their own record, or which records of a run are here."""
        if request[:1] == b"p":
            try:
                record = read_record(request[1:])
                if record.key != peer:
                    raise EnvelopeError("record: wrong name")
            except EnvelopeError as error:
                self._refused[error.reason] += 1
                raise PeerError("refused", error.reason) from error
            self._keep(record)
            return b"ok"
        if request[:1] == b"g" and len(request) == 17:
            raws = [record.raw for (of, _), (record, _) in self._fresh() if of == request[1:]]
            return b"".join(len(raw).to_bytes(2, "little") + raw for raw in raws[-MAX_ANSWERED:])
        raise PeerError("refused", "no such question")

    async def _listed(self, peer: Key, tag: bytes) -> dict[Key, Record]:
        try:
            answer = await self._ask(peer, QUESTION, b"g" + tag, _ANSWER_NBYTES, _ASK_S)
        except PeerError:
            return {}
        raws: list[object] = []
        while answer and len(raws) < MAX_ANSWERED:
            size = int.from_bytes(answer[:2], "little")
            raws.append(answer[2 : 2 + size])
            answer = answer[2 + size :]
        return await read_many(raws, run=tag, now=None, refused=self._refused)

    def _keep(self, record: Record) -> None:
        place = (record.run, record.key)
        older = self._notes.get(place)
        if older is not None and older[0].expiry > record.expiry:
            return  # a replay
        self._notes[place] = record, time.monotonic() + LIFE_S
        self._notes.move_to_end(place)
        while len(self._notes) > MAX_NOTES:
            self._notes.popitem(last=False)

    def _fresh(self) -> list[tuple[tuple[bytes, Key], tuple[Record, float]]]:
        """What has not run out; the order is that of hearing, so the oldest go first."""
        now = time.monotonic()
        while self._notes and next(iter(self._notes.values()))[1] < now:
            self._notes.popitem(last=False)
        return list(self._notes.items())

    def _asked(self) -> list[Key]:
        return [peer for peer in dict.fromkeys(self._peers()) if peer != self._identity.key][:MAX_ASKED]
