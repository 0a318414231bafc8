"""What a worker sends: one prompt, G completions with their behaviour log-probs, rewards and proofs; signed, and checked before it is read.

A group is msgpack of arrays, strict: unknown fields, other types and sizes above the limits are refused. Token ids travel as uint32,
log-probs as float16: 2 bytes a token buy the importance weights without which foreign rollouts ruin a policy (0.12 instead of 0.77).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from thinwire.comms.swarm.identity import Identity, verify

DOMAIN = b"thinwire rl group 1\n"
MAX_NAME_NBYTES = 64


class RolloutError(ValueError):
    """A group that may not be used; `reason` is a word or two to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What a group may be at most; everything is compared with it before it is used."""

    nbytes: int = 4 << 20
    completions: int = 64
    prompt_tokens: int = 4096
    completion_tokens: int = 4096
    proof_nbytes: int = 258 * 128
    vocabulary: int = 1 << 20
    text_nbytes: int = 64 << 10


LIMITS = Limits()


class Completion(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One answer. `ids` are the tokens (uint32 little-endian), with the end token when `finished`; `logprobs` float16, one each."""

    ids: bytes
    logprobs: bytes
    finished: bool
    text: str
    proof: bytes = b""

    @classmethod
    def of(cls, ids: NDArray[np.integer], logprobs: NDArray[np.floating], *, finished: bool, text: str, proof: bytes = b"") -> Completion:
        """From arrays of the same length."""
        return cls(ids.astype("<u4").tobytes(), logprobs.astype("<f2").tobytes(), finished, text, proof)

    @property
    def tokens(self) -> NDArray[np.int64]:
        return np.frombuffer(self.ids, "<u4").astype(np.int64)

    @property
    def behaviour(self) -> NDArray[np.float32]:
        """Log-probs under the weights that sampled."""
        return np.frombuffer(self.logprobs, "<f2").astype(np.float32)


class RolloutGroup(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """G completions of one task. `version` is that of the oldest weights that sampled a token of it; the task's seed follows from
    (run, worker, version, n). `rewards` are what the worker says: whoever trains computes them again."""

    run: str
    worker: bytes
    version: int
    n: int
    environment: str
    tokenizer: bytes  # sha256 of the vocabulary: who has another one reads the texts
    prompt: str
    prompt_ids: bytes
    completions: tuple[Completion, ...]
    rewards: tuple[float, ...]
    commitment: bytes = b""  # to tokens, log-probs, proofs and weights, from before the challenge was known

    @property
    def prompt_tokens(self) -> NDArray[np.int64]:
        return np.frombuffer(self.prompt_ids, "<u4").astype(np.int64)


class Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bytes, and who answers for them."""

    key: bytes
    body: bytes
    signature: bytes


_PLAIN = msgspec.msgpack.Encoder()
_SIGNED = msgspec.msgpack.Decoder(Signed)
_GROUP = msgspec.msgpack.Decoder(RolloutGroup)


def seal(group: RolloutGroup, identity: Identity) -> bytes:
    """The group as its worker sends it."""
    body = _PLAIN.encode(group)
    return _PLAIN.encode(Signed(identity.key, body, identity.sign(DOMAIN + body)))


def unseal(data: bytes, *, run: str, limits: Limits = LIMITS) -> RolloutGroup:
    """The group in bytes of a stranger; raises `RolloutError` unless it is whole, within limits, of this run, and signed by its worker."""
    if len(data) > limits.nbytes:
        raise RolloutError("oversized", f"{len(data)} bytes, at most {limits.nbytes}")
    try:
        signed = _SIGNED.decode(data)
        group = _GROUP.decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RolloutError("schema", str(error)) from None
    if group.worker != signed.key:
        raise RolloutError("signature", "signed by another key than the worker's")
    if group.run != run:
        raise RolloutError("other run", repr(group.run[:MAX_NAME_NBYTES]))
    check_bounds(group, limits)
    if not verify(signed.key, DOMAIN + signed.body, signed.signature):
        raise RolloutError("signature", "wrong")
    return group


def check_bounds(group: RolloutGroup, limits: Limits) -> None:
    """Raise `RolloutError` unless every size, id and number is one that an honest worker can send."""
    if len(group.worker) != 32 or len(group.tokenizer) != 32 or len(group.commitment) not in (0, 32):
        raise RolloutError("bounds", "a key, tokenizer or commitment of another length")
    if not (0 <= group.version < 1 << 62 and 0 <= group.n < 1 << 62):
        raise RolloutError("bounds", f"version {group.version}, group {group.n}")
    if len(group.environment.encode()) > MAX_NAME_NBYTES or len(group.prompt.encode()) > limits.text_nbytes:
        raise RolloutError("bounds", "a name or prompt that is too long")
    if not 1 <= len(group.completions) <= limits.completions or len(group.rewards) != len(group.completions):
        raise RolloutError("bounds", f"{len(group.completions)} completions with {len(group.rewards)} rewards")
    if not all(0.0 <= reward <= 1.0 for reward in group.rewards):  # NaN is neither
        raise RolloutError("bounds", "a reward outside [0, 1]")
    _check_ids(group.prompt_ids, limits.prompt_tokens, limits.vocabulary)
    for completion in group.completions:
        count = _check_ids(completion.ids, limits.completion_tokens, limits.vocabulary)
        if count == 0 or len(completion.logprobs) != 2 * count:
            raise RolloutError("bounds", f"{count} tokens with {len(completion.logprobs)} bytes of log-probs")
        if not bool(np.all((completion.behaviour <= 0) & np.isfinite(completion.behaviour))):
            raise RolloutError("log-probs", "NaN, infinite or above 0")
        if len(completion.proof) > limits.proof_nbytes or len(completion.text.encode()) > limits.text_nbytes:
            raise RolloutError("bounds", "a proof or text that is too long")


def _check_ids(ids: bytes, at_most: int, vocabulary: int) -> int:
    count, rest = divmod(len(ids), 4)
    if rest or count > at_most:
        raise RolloutError("bounds", f"{len(ids)} bytes of token ids, at most {at_most} tokens of 4")
    if count and int(np.frombuffer(ids, "<u4").max()) >= vocabulary:
        raise RolloutError("bounds", f"a token id that is not below {vocabulary}")
    return count
