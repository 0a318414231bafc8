"""Rollouts that learners share (SAPO, arXiv:2509.08721): each offers what it trained on last, and takes some of the others'.

Foreign groups come with the log-probs of those who sampled them, so that importance weights hold; rewards are computed again here; those of
another tokenizer are re-encoded when they are trained on. A group goes out as its worker signed it: a learner in between cannot change it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from examples.rl.checks import Checked, Checks
from examples.rl.messages import MAX_LISTED, SHARED, Sample, Samples
from examples.rl.network import Network
from examples.rl.rollout import LIMITS, Limits, RolloutError, unseal
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.transport import MAX_MESSAGE_NBYTES, Key, PeerError

log = logging.getLogger("thinwire")

POLL_S = 0.5
KEPT = 64
TAKEN = 4096  # digests of groups that were looked at


class Sharing:
    """Answers `SHARED` with the last `KEPT` groups; a thread collects what others offer. `checks` is its own: other learners count versions
    of their own, which `check` compares with the newest that this learner has seen of that worker."""

    def __init__(self, network: Network, run: str, checks: Callable[[], Checks], *, wanted: int, limits: Limits = LIMITS) -> None:
        self._network, self._run, self._limits, self._wanted = network, run, limits, wanted
        self._make_checks = checks
        self._checks: dict[Key, Checks] = {}
        self._heads: dict[Key, int] = {}
        self._offered: OrderedDict[bytes, Sample] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._found: deque[Checked] = deque(maxlen=max(1, 4 * wanted))
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="thinwire-rl-sharing", daemon=True)
        self.refused = 0
        network.serve(SHARED, self._list)
        if wanted:
            self._thread.start()

    def offer(self, data: bytes, digest: bytes, worker: Key) -> None:
        """Let others have a sealed group; from any thread."""
        self._network.loop.call(self._put, Blob(digest, data), worker)

    def take(self, n: int, timeout_s: float) -> list[Checked]:
        """Up to `n` foreign groups, the newest first; waits until there are so many, or for `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._found) >= n, timeout_s)
            return [self._found.pop() for _ in range(min(n, len(self._found)))]

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(15.0)

    def _put(self, blob: Blob, worker: Key) -> None:
        if blob.digest in self._offered:
            return
        self._network.hold(blob)
        self._offered[blob.digest] = Sample(blob.digest, blob.nbytes, worker, 0)
        while len(self._offered) > KEPT:
            digest, _ = self._offered.popitem(last=False)
            self._network.release(digest)

    async def _list(self, peer: Key, request: bytes) -> bytes:
        return Samples(tuple(self._offered.values())[-MAX_LISTED:]).encode()

    def _collect(self) -> None:
        while not self._ended.wait(POLL_S):
            for learner in self._network.peers("trainer"):
                try:
                    self._collect_from(learner)
                except PeerError as error:
                    log.debug("learner %s: %s", learner.hex()[:8], error)

    def _collect_from(self, learner: Key) -> None:
        answer = self._network.ask(learner, SHARED, b"", limit_nbytes=MAX_MESSAGE_NBYTES)
        for sample in Samples.decode(answer).samples[-MAX_LISTED:]:
            if sample.digest in self._seen or len(sample.digest) != 32 or not 0 < sample.nbytes <= self._limits.nbytes:
                continue
            self._seen[sample.digest] = None
            while len(self._seen) > TAKEN:
                self._seen.popitem(last=False)
            self._look(self._network.fetch(sample.digest, sample.nbytes, [learner]), learner)

    def _look(self, data: bytes, learner: Key) -> None:
        try:
            group = unseal(data, run=self._run, limits=self._limits)
            head = self._heads[learner] = max(self._heads.get(learner, 0), group.version)
            checked = self._checks.setdefault(learner, self._make_checks()).check(group, head=head)
        except RolloutError as error:
            self.refused += 1
            log.debug("a shared group was refused: %s", error)
            return
        with self._changed:
            self._found.append(checked)
            self._changed.notify_all()
