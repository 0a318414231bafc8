"""What members say of themselves, asked by somebody who looks on: once, or again and again."""

import asyncio
import random
import time
from collections.abc import Iterable

from thinwire.comms.swarm.status import MAX_NBYTES, QUESTION, Status, decode
from thinwire.comms.swarm.transport import Key, PeerError, Transport

ANSWER_S = 3.0
LOOK_S = 2.0  # from one look at the notice board to the next
REMEMBERED_S = 300.0  # for which who has answered and is announced no more is still asked
MOST = 256  # members that are asked


async def ask_all(node: Transport, run: str) -> dict[Key, Status | str]:
    """What every announced member says of itself, or why it says nothing."""
    found = sorted(key for key in await node.lookup(run) if key != node.key)[:MOST]
    return dict(zip(found, await asyncio.gather(*(ask(node, key) for key in found)), strict=True))


async def ask(node: Transport, key: Key) -> Status | str:
    """What a member says of itself, or why it says nothing."""
    try:
        return decode(await asyncio.wait_for(node.ask(key, QUESTION, b"", MAX_NBYTES), ANSWER_S))
    except asyncio.TimeoutError:
        return "does not answer"
    except (PeerError, ValueError) as error:
        return str(error)


class Watch:
    """Asks the members of a run again and again, each by itself: one that hangs keeps nobody waiting.

    `announced` are those that the notice board has had last. Of more than 256 those that have answered before go first.
    """

    def __init__(self, node: Transport, run: str) -> None:
        self.announced: frozenset[Key] = frozenset()
        self._node, self._run = node, run
        self._heard: dict[Key, float] = {}
        self._asking: dict[Key, asyncio.Task[Status | str]] = {}
        self._search: asyncio.Task[dict[Key, bytes]] | None = None
        self._searched = float("-inf")

    async def look(self, patience_s: float) -> dict[Key, Status | str | None]:
        """What was said within `patience_s`; None of those who may still answer."""
        await self._find(patience_s)
        for key in self._chosen(time.monotonic()):
            if key not in self._asking:
                self._asking[key] = asyncio.create_task(ask(self._node, key))
        asked = list(self._asking)
        if asked:
            await asyncio.wait(self._asking.values(), timeout=patience_s)
        return {key: self._taken(key) for key in asked}

    def close(self) -> None:
        """Ask nobody any more."""
        for task in (*self._asking.values(), self._search):
            if task is not None:
                task.cancel()

    def _taken(self, key: Key) -> Status | str | None:
        if not self._asking[key].done():
            return None
        answer = self._asking.pop(key).result()
        if isinstance(answer, Status):
            self._heard[key] = time.monotonic()
        return answer

    async def _find(self, patience_s: float) -> None:
        """A search may take longer than a look: only the first is waited for."""
        if self._search is None and time.monotonic() - self._searched >= LOOK_S:
            self._search = asyncio.create_task(self._node.lookup(self._run))
        if self._search is not None:
            await asyncio.wait([self._search], timeout=0.0 if self._heard else patience_s)
            if self._search.done():
                search, self._search, self._searched = self._search, None, time.monotonic()
                if not isinstance(search.exception(), PeerError):  # else it is looked again
                    self.announced = frozenset(search.result()) - {self._node.key}

    def _chosen(self, now: float) -> Iterable[Key]:
        for key, heard in list(self._heard.items()):
            if now - heard > REMEMBERED_S and key not in self.announced:
                del self._heard[key]
        first = sorted(self._heard, key=lambda key: -self._heard[key])[:MOST]
        others = sorted(self.announced - self._heard.keys())
        room = max(MOST - len(first), MOST // 16)  # somebody new is always asked
        return (*first[: MOST - min(room, len(others))], *random.sample(others, min(room, len(others))))
