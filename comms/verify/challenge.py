"""Commit, then be challenged: what a worker says first, and what is drawn of it from randomness that came later.

commitment   32 bytes that bind tokens, log-probabilities, proofs, the weights' hash, the worker's key, the run and the number
Challenge    whether the rollout is checked, and which of its chunks: a function of a later round's randomness, the commitment and
             the worker's key, so that all verifiers draw the same and no worker draws its own
"""

import hashlib
import hmac
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thinwire.comms.verify.beacon import NBYTES

_COMMIT, _CONTENT, _DRAW = b"thinwire rollout commitment 1", b"thinwire rollout content 1", b"thinwire rollout challenge 1"
MAX_TOKEN = 1 << 32


class Rollout(NamedTuple):
    """What a worker reveals: tokens of prompt and completion, a log-probability for each token of the completion, and its proofs."""

    tokens: Sequence[int]
    logprobs: Sequence[float]
    proofs: Sequence[bytes]

    @property
    def prompt(self) -> int:
        """How many tokens the prompt has."""
        return len(self.tokens) - len(self.logprobs)


def commitment(rollout: Rollout, *, weights_sha256: bytes, worker: bytes, run: bytes, n: int) -> bytes:
    """The 32 bytes that a worker commits to as its n-th rollout of a run.

    Log-probabilities are taken as float32. Raises `ValueError` for tokens outside of 32 bits, log-probabilities that are no numbers or
    above zero, a hash or a key of another length, and more log-probabilities than tokens.
    """
    if len(weights_sha256) != NBYTES or len(worker) != NBYTES:
        raise ValueError(f"the weights' hash has {len(weights_sha256)} bytes and the worker's key {len(worker)}; both have {NBYTES}")
    if rollout.prompt < 0:
        raise ValueError(f"{len(rollout.logprobs)} log-probabilities for {len(rollout.tokens)} tokens; give one a token of the completion")
    with np.errstate(over="ignore"):
        logprobs = np.asarray(rollout.logprobs, "<f4")
    if logprobs.ndim != 1 or not (logprobs <= 0).all() or not np.isfinite(logprobs).all():
        raise ValueError("log-probabilities are finite and not above zero; one is not")
    parts = [run, worker, weights_sha256, _number(n), _packed(rollout.tokens), logprobs.tobytes(), _number(len(rollout.proofs))]
    return _hash(_COMMIT, [*parts, *rollout.proofs])


def content(tokens: Sequence[int]) -> bytes:
    """The 32 bytes by which copies are known: of the tokens alone, whoever sampled them."""
    return _hash(_CONTENT, [_packed(tokens)])


@dataclass(frozen=True)
class Challenge:
    """What is checked of one rollout; `chunks` ascend and are empty when it is not `checked`."""

    checked: bool
    chunks: tuple[int, ...]

    @classmethod
    def draw(cls, randomness: bytes, committed: bytes, worker: bytes, *, chunks: int, count: int, share: float = 1.0) -> "Challenge":
        """Check a rollout with probability `share`, and of its `chunks` any `count` (all, when it has no more).

        Whether it is checked depends on no other rollout, so that verifiers that have seen different ones agree. Raises `ValueError` for
        randomness of another length than 32 bytes, a share outside of 0..1 and a count below 1.
        """
        if len(randomness) != NBYTES or not 0 <= share <= 1 or count < 1 or chunks < 0:
            raise ValueError(
                f"{len(randomness)} bytes of randomness, share {share}, {count} of {chunks} chunks; give {NBYTES} bytes, 0..1, 1 or more"
            )
        words = _words(randomness, committed, worker)
        if next(words) >= math.floor(share * 2**64):
            return cls(False, ())
        return cls(True, _distinct(words, chunks, min(count, chunks)))


def _distinct(words: Iterator[int], of: int, count: int) -> tuple[int, ...]:
    """`count` of 0..of-1, each set equally likely. Floyd's algorithm: Bentley, Programming Pearls, CACM 30(9), 1987."""
    chosen = set[int]()
    for top in range(of - count, of):
        drawn = _below(words, top + 1)
        chosen.add(top if drawn in chosen else drawn)
    return tuple(sorted(chosen))


def _below(words: Iterator[int], bound: int) -> int:
    """A number of 0..bound-1, none likelier than another: words above the last whole multiple are dropped."""
    limit = 2**64 - 2**64 % bound
    return next(word for word in words if word < limit) % bound


def _words(randomness: bytes, committed: bytes, worker: bytes) -> Iterator[int]:
    """Endless 64-bit words: HMAC-SHA256 of a counter, keyed with the randomness."""
    bound = _joined(_DRAW, [committed, worker])
    for counter in range(2**64):
        block = hmac.digest(randomness, bound + _number(counter), "sha256")
        yield from (int.from_bytes(block[i : i + 8], "big") for i in range(0, len(block), 8))


def _hash(domain: bytes, parts: Sequence[bytes]) -> bytes:
    return hashlib.sha256(_joined(domain, parts)).digest()


def _joined(domain: bytes, parts: Sequence[bytes]) -> bytes:
    """Every part behind its length: nothing can move from one part to the next."""
    return b"".join(_number(len(part)) + part for part in (domain, *parts))


def _number(n: int) -> bytes:
    if not 0 <= n < 2**64:
        raise ValueError(f"{n} is no number of 0..2^64-1")
    return n.to_bytes(8, "big")


def _packed(tokens: Sequence[int]) -> bytes:
    found = np.asarray(tokens)
    if found.ndim != 1 or (found.size and (found.dtype.kind not in "iu" or int(found.min()) < 0 or int(found.max()) >= MAX_TOKEN)):
        raise ValueError("tokens are integers of 0..2^32-1; one is not")
    return found.astype("<u4").tobytes()
