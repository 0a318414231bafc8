"""The randomness that challenges workers: a hash chain of the trainer, revealed link by link, a tick after groups were taken in.

It is the trainer who would be cheated, so it alone has to be trusted not to tell workers the next link; all its verifiers draw alike. A run
that does not trust its trainer takes `thinwire.comms.verify.HashChainBeacon` with several parties, or drand.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from thinwire.comms.swarm.transport import Key
from thinwire.comms.verify.beacon import BeaconError, HashChain, HashChainBeacon

TICK_S = 1.0
LINKS = 1 << 16  # 18 hours; then another chain begins, with its anchor
SHOWN = 64  # links that are told at a time


class Ticker:
    """The trainer's side: a link is shown for every `TICK_S`, none before its time."""

    def __init__(self, run: str, *, tick_s: float = TICK_S, links: int = LINKS) -> None:
        self._chain, self._tick_s, self._links = HashChain(run.encode(), links), tick_s, links
        self._began = time.monotonic()

    @property
    def anchor(self) -> bytes:
        return self._chain.anchor

    def now(self) -> int:
        """The last tick whose link is shown."""
        return min(int((time.monotonic() - self._began) / self._tick_s), self._links)

    def next_round(self) -> int:
        """The first round that nobody can know of yet."""
        return self.now() + 1

    def links(self, after: int) -> tuple[bytes, ...]:
        """The links of the ticks after `after` that are shown, at most `SHOWN` of them."""
        return tuple(self._chain.link(tick) for tick in range(after + 1, min(self.now(), after + SHOWN) + 1))


class Chain:
    """A verifier's side: every link is checked against the anchor that came with the first answer."""

    def __init__(self, run: str, trainer: Key) -> None:
        self._run, self._trainer = run, trainer
        self._beacon: HashChainBeacon | None = None

    @property
    def tick(self) -> int:
        """The last one that is known here."""
        return 0 if self._beacon is None else self._beacon.round

    def take(self, anchor: bytes, links: Sequence[bytes]) -> None:
        """Raises `BeaconError` for another anchor than before, and links that do not lead to it."""
        if self._beacon is None:
            try:
                self._beacon = HashChainBeacon(self._run.encode(), {self._trainer: anchor})
            except ValueError as error:
                raise BeaconError(str(error)) from None
            self._anchor = anchor
        if anchor != self._anchor:
            self._beacon = None  # the trainer has started again
            raise BeaconError("the trainer has another anchor than before: its chain begins anew")
        for link in links[:SHOWN]:
            self._beacon.reveal(self._trainer, link)

    def randomness(self, round_: int) -> bytes:
        """Raises `NotYetError` before its link is here."""
        if self._beacon is None:
            raise BeaconError("no anchor yet")
        return self._beacon.randomness(round_)
