"""What verifiers are to look at, and what becomes of their verdicts.

A group that was accepted is put on the docket at the rate of its worker's reputation. It names the round of the beacon that will say what
is looked at, one that is not yet drawn: nobody can have prepared for it. A refusal drops what its worker has waiting.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection

from examples.rl.beacon import Ticker
from examples.rl.messages import MAX_LISTED, PENDING, VERDICT, Look, Sample, Samples, Verdict
from examples.rl.network import Network
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.transport import Key, PeerError

KEPT = 256  # groups that wait for a verdict; the oldest go without


class Docket:
    """Answers `PENDING` and `VERDICT` of the pinned `verifiers`; all of it runs in the network's event loop but `consider`.

    `on_verdict(verifier, worker, verdict)` is told of the first verdict of each verifier on each group.
    """

    def __init__(
        self,
        network: Network,
        verifiers: Collection[Key],
        *,
        ticker: Ticker,
        on_verdict: Callable[[Key, Key, Verdict], None],
        seed: int = 0,
    ) -> None:
        self._network, self._verifiers, self._ticker, self._on_verdict = network, frozenset(verifiers), ticker, on_verdict
        self._open: OrderedDict[bytes, tuple[Sample, set[Key]]] = OrderedDict()  # and who has spoken
        self._random = random.Random(seed)
        network.serve(PENDING, self._list)
        network.serve(VERDICT, self._hear)

    def consider(self, data: bytes, digest: bytes, worker: Key, rate: float) -> None:
        """Put a sealed group on the docket with probability `rate`; from any thread."""
        if self._verifiers and self._random.random() < rate:
            self._network.loop.call(self._put, Blob(digest, data), worker)

    def _put(self, blob: Blob, worker: Key) -> None:
        if blob.digest in self._open:
            return
        self._network.hold(blob)
        self._open[blob.digest] = (Sample(blob.digest, blob.nbytes, worker, self._ticker.next_round()), set())
        while len(self._open) > KEPT:
            self._close(next(iter(self._open)))

    def _close(self, digest: bytes) -> None:
        del self._open[digest]
        self._network.release(digest)

    async def _list(self, peer: Key, request: bytes) -> bytes:
        if peer not in self._verifiers:
            raise PeerError("refused", "only the verifiers of this run are told")
        look = Look.decode(request)
        waiting = [sample for sample, spoken in self._open.values() if peer not in spoken]
        return Samples(tuple(waiting[:MAX_LISTED]), self._ticker.anchor, self._ticker.links(max(0, look.tick))).encode()

    async def _hear(self, peer: Key, request: bytes) -> bytes:
        if peer not in self._verifiers:
            raise PeerError("refused", "only the verifiers of this run are heard")
        verdict = Verdict.decode(request)
        sample, spoken = self._open.get(verdict.digest, (None, set()))
        if sample is not None and peer not in spoken:
            spoken.add(peer)
            if spoken == self._verifiers:
                self._close(verdict.digest)
            self._on_verdict(peer, sample.worker, verdict)
        return b""
