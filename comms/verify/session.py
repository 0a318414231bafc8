"""One verifier: it hears commitments, and later judges what was revealed, by one prefill of what the challenge asks for.

    hear     a commitment arrives, while nobody can know the round that will challenge it
    judge    the rollout is revealed: does it open the commitment, with the weights it was asked for; was it there before; and do the
             chunks that were drawn come from these weights and tokens

Cheap checks come first; what fails one costs no prefill. The transport has shown who a commitment comes from. Verdicts name one of
`REASONS`. Memory is bounded: at most `PENDING` commitments wait of each of `WORKERS` workers.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from thinwire.comms.verify.activations import ProofError, UnprovableError, cut, read
from thinwire.comms.verify.beacon import Beacon
from thinwire.comms.verify.challenge import Challenge, Rollout, commitment, content
from thinwire.comms.verify.ledger import Ledger
from thinwire.comms.verify.thresholds import Thresholds, Verdict, check

HiddenStates = Callable[[Sequence[int]], Tensor]
PENDING, WORKERS = 1024, 4096
AHEAD = 64  # rounds that a commitment may wait for its challenge
MAX_TOKENS = 1 << 17
REASONS = (
    "accepted",
    "not drawn",  # accepted without a prefill
    "no commitment",  # none was heard, or it was refused
    "known challenge",  # its round may have been known when the commitment arrived, or lies too far ahead
    "malformed",
    "other weights",
    "not what was committed",
    "replay",
    "copy",
    "short",  # too few values for a proof
    "activations",
)


@dataclass(frozen=True)
class Committed:
    """What a worker says before its challenge exists: `digest` is the `commitment`, `round` the beacon's that will challenge it."""

    worker: bytes
    n: int
    round: int
    digest: bytes
    weights_sha256: bytes


@dataclass
class _Heard:
    """A commitment that came as the `order`-th; `opened` when its rollout was in the ledger already, and only the prefill failed."""

    order: int
    committed: Committed
    opened: bool = False


class Verifier:
    """Judges the rollouts of a run.

    `width` is that of the hidden states; `count` chunks are compared of a rollout that is checked, and the share `share` of them is.
    Raises `ValueError` for shares and counts that cannot be drawn.
    """

    def __init__(
        self,
        run: bytes,
        beacon: Beacon,
        thresholds: Thresholds,
        *,
        width: int,
        count: int = 4,
        share: float = 1.0,
        ledger: Ledger | None = None,
    ) -> None:
        if not 0 < share <= 1 or count < 1 or width < 1:
            raise ValueError(f"share is {share}, count {count}, width {width}; give a share of 0..1, and 1 or more")
        self._run, self._beacon, self._thresholds = run, beacon, thresholds
        self._width, self._count, self._share = width, count, share
        self._ledger = ledger if ledger is not None else Ledger()
        self._heard = OrderedDict[bytes, OrderedDict[int, _Heard]]()
        self._order = 0

    def hear(self, committed: Committed) -> Verdict | None:
        """Note a commitment that arrives now; a verdict when it is refused.

        The first commitment of a number counts. One that arrives when its round is known, or may be, could have been made to fit.
        """
        if not _is_sound(committed):
            return Verdict(False, "malformed", "a commitment has a key, a digest and a hash of 32 bytes, and numbers of 64 bits")
        open_from = self._beacon.first_unknown()
        if not open_from <= committed.round <= open_from + AHEAD:
            return Verdict(
                False, "known challenge", f"it waits for round {committed.round}; those from {open_from} to {open_from + AHEAD} are unknown"
            )
        waiting = self._heard.setdefault(committed.worker, OrderedDict())
        self._heard.move_to_end(committed.worker)
        if committed.n in waiting:
            return Verdict(False, "replay", f"the worker has committed to its rollout {committed.n} before")
        self._order += 1
        waiting[committed.n] = _Heard(self._order, committed)
        if len(waiting) > PENDING:
            waiting.popitem(last=False)
        if len(self._heard) > WORKERS:
            self._heard.popitem(last=False)
        return None

    def judge(self, committed: Committed, rollout: Rollout, weights_sha256: bytes, hidden_states: HiddenStates) -> Verdict:
        """The verdict on a rollout that was revealed.

        `weights_sha256` and `hidden_states` are of the version that the worker was to use; `hidden_states(tokens)` is called at most once
        and returns `(len(tokens), width)` bfloat16: row i after token i was read. Raises `NotYetError` while there is no challenge, and
        what the beacon, `hidden_states` or the verifier's own states raise: none of these is the worker's fault, judge it again later.
        """
        waiting = self._heard.get(committed.worker)
        heard = waiting.get(committed.n) if waiting is not None else None
        if waiting is None or heard is None or heard.committed != committed:
            return Verdict(False, "no commitment", "no such commitment was heard in time")
        randomness = self._beacon.randomness(committed.round)
        verdict = self._unopened(committed, rollout, weights_sha256)
        if verdict is None:  # what opens nothing may be another's: the worker's own is still awaited
            verdict = self._again(heard, rollout) or self._compared(randomness, committed, rollout, hidden_states)
            waiting.pop(committed.n, None)
        return verdict

    def _again(self, heard: _Heard, rollout: Rollout) -> Verdict | None:
        """Whether this rollout was there before; None when it was not."""
        if heard.opened:
            return None
        heard.opened = True
        bits = -float(sum(rollout.logprobs)) / math.log(2)
        worker, n = heard.committed.worker, heard.committed.n
        seen = self._ledger.see(worker, n, content(rollout.tokens), order=heard.order, bits=bits)
        if seen.fresh:
            return None
        told = {"replay": "its number or its tokens were there before", "old": "its number is below the window"}
        return Verdict(
            False, "copy" if seen.kind == "copy" else "replay", told.get(seen.kind, f"{seen.other.hex()} had committed to the same tokens")
        )

    def _compared(self, randomness: bytes, committed: Committed, rollout: Rollout, hidden_states: HiddenStates) -> Verdict:
        """Of the chunks that are drawn, the proofs against the verifier's own states."""
        try:
            rows = cut(len(rollout.logprobs), self._width)
            read(rollout.proofs)
            if len(rollout.proofs) != len(rows):
                raise ProofError(f"{len(rollout.proofs)} proofs for {len(rows)} chunks")
        except UnprovableError as error:
            return Verdict(False, error.reason, str(error))
        except ProofError as error:
            return Verdict(False, "malformed", str(error))
        chunks, count, share = len(rows), self._count, self._share
        drawn = Challenge.draw(randomness, committed.digest, committed.worker, chunks=chunks, count=count, share=share)
        if not drawn.checked:
            return Verdict(True, "not drawn", "the challenge does not ask for this rollout")
        end = rollout.prompt + rows[drawn.chunks[-1]].stop
        own = hidden_states(rollout.tokens[:end])
        if own.shape != (end, self._width):
            raise ValueError(f"hidden_states returned {tuple(own.shape)}, expected ({end}, {self._width})")
        own = own[rollout.prompt :]
        return check([rollout.proofs[i] for i in drawn.chunks], [own[rows[i]] for i in drawn.chunks], self._thresholds)

    def _unopened(self, committed: Committed, rollout: Rollout, weights_sha256: bytes) -> Verdict | None:
        """Why this rollout is not the one of the commitment; None when it is."""
        if committed.weights_sha256 != weights_sha256:
            return Verdict(
                False, "other weights", f"it was made with {committed.weights_sha256.hex()[:16]}, not {weights_sha256.hex()[:16]}"
            )
        try:
            if max(map(len, rollout)) > MAX_TOKENS:
                return Verdict(False, "malformed", f"more than {MAX_TOKENS} tokens, log-probabilities or proofs")
            opened = commitment(rollout, weights_sha256=weights_sha256, worker=committed.worker, run=self._run, n=committed.n)
        except (ValueError, TypeError) as error:
            return Verdict(False, "malformed", str(error))
        if opened != committed.digest:
            return Verdict(False, "not what was committed", "tokens, log-probabilities, proofs, weights, worker, run or number are others")
        return None


def _is_sound(committed: Committed) -> bool:
    fixed = (committed.worker, committed.digest, committed.weights_sha256)
    numbers = (committed.n, committed.round)
    return all(isinstance(each, bytes) and len(each) == 32 for each in fixed) and all(
        isinstance(each, int) and 0 <= each < 2**64 for each in numbers
    )
