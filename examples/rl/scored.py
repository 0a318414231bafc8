"""Groups of scored sequences as Atropos environments post them: the schema on the wire, and what a learner takes.

The shape is that of Nous Research's Atropos (`ScoredData` in `atroposlib/api/server.py`, names only): for G sequences of any lengths

    tokens               [G][T]  token ids, prompt and answer
    masks                [G][T]  labels: -100 where a token is not trained on, else its id (so 0 and 1 both train)
    scores               [G]
    advantages           [G][T]  optional
    inference_logprobs   [G][T]  optional: of the sampling policy; at most 0 where a token is trained on, anything finite elsewhere
    ref_logprobs         [G][T]  optional, anything finite
    env_id, group_overrides, overrides, messages, images, generation_params, distill_*   optional, handed on unread

Everything is checked before it is used: a group is whole or it is refused with `ScoredError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

NOTHING = Raw(b"null")
IGNORED = -100  # label of a token that is not trained on


class ScoredError(ValueError):
    """A group that cannot be; says what is wrong with it."""


@dataclass(frozen=True)
class ScoredLimits:
    """What a group may be at most."""

    sequences: int = 256
    tokens: int = 32768  # in a sequence
    vocabulary: int = 1 << 20


class ScoredData(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of /scored_data; what nobody here reads stays as it came."""

    tokens: list[list[int]]
    masks: list[list[int]]
    scores: list[float]
    advantages: list[list[float]] | None = None
    ref_logprobs: list[list[float]] | None = None
    inference_logprobs: list[list[float]] | None = None
    messages: Raw = NOTHING
    generation_params: Raw = NOTHING
    overrides: Raw = NOTHING
    group_overrides: Raw = NOTHING
    images: Raw = NOTHING
    distill_token_ids: Raw = NOTHING
    distill_logprobs: Raw = NOTHING
    env_id: int | None = None


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """What a learner takes, a list entry a sequence: tokens int64, masks bool (trained on?), scores float32, the others float32 or None.

    `environment` is the number that its environment was registered under, None for one that did not say.
    """

    tokens: tuple[NDArray[np.int64], ...]
    masks: tuple[NDArray[np.bool_], ...]
    scores: NDArray[np.float32]
    advantages: tuple[NDArray[np.float32], ...] | None
    inference_logprobs: tuple[NDArray[np.float32], ...] | None
    ref_logprobs: tuple[NDArray[np.float32], ...] | None
    environment: int | None

    def __len__(self) -> int:
        return len(self.tokens)


class Sink(Protocol):
    """Where groups go; a learner's buffer."""

    def put(self, group: ScoredGroup) -> None:
        """May be called from any thread, and does not block for long."""
        ...


def convert(data: ScoredData, limits: ScoredLimits = ScoredLimits()) -> ScoredGroup:
    """The arrays of a group; raises `ScoredError` unless all have the same shape and hold what they may."""
    sizes = [len(sequence) for sequence in data.tokens]
    if not 1 <= len(sizes) <= limits.sequences or len(data.scores) != len(sizes):
        raise ScoredError(f"{len(sizes)} sequences with {len(data.scores)} scores; 1 to {limits.sequences} and as many scores")
    if not all(1 <= size <= limits.tokens for size in sizes):
        raise ScoredError(f"a sequence of {min(sizes)} or {max(sizes)} tokens; 1 to {limits.tokens}")
    tokens = _arrays("tokens", data.tokens, sizes, np.int64)
    if any(bool((row < 0).any() or (row >= limits.vocabulary).any()) for row in tokens):
        raise ScoredError(f"a token id outside [0, {limits.vocabulary})")
    labels = _arrays("masks", data.masks, sizes, np.int64)
    if any(bool(((label != IGNORED) & ((label < 0) | (label >= limits.vocabulary))).any()) for label in labels):
        raise ScoredError(f"a mask that is neither {IGNORED} nor a token id")
    masks = tuple(label != IGNORED for label in labels)
    logprobs = _optional("inference_logprobs", data.inference_logprobs, sizes)
    if logprobs is not None and any(bool((row[mask] > 0).any()) for row, mask in zip(logprobs, masks, strict=True)):
        raise ScoredError("inference_logprobs above 0 where the mask trains")
    (scores,) = _arrays("scores", [data.scores], [len(sizes)], np.float32)
    return ScoredGroup(
        tokens=tokens,
        masks=masks,
        scores=scores,
        advantages=_optional("advantages", data.advantages, sizes),
        inference_logprobs=logprobs,
        ref_logprobs=_optional("ref_logprobs", data.ref_logprobs, sizes),
        environment=data.env_id,
    )


def _optional(name: str, rows: Sequence[Sequence[float]] | None, sizes: list[int]) -> tuple[NDArray[np.float32], ...] | None:
    return None if rows is None else _arrays(name, rows, sizes, np.float32)


def _arrays(name: str, rows: Sequence[Sequence[float]], sizes: list[int], dtype: Any) -> tuple[NDArray[Any], ...]:
    if [len(row) for row in rows] != sizes:
        raise ScoredError(f"{name} are not of the shape of the tokens")
    try:
        with np.errstate(over="raise"):
            arrays = tuple(np.asarray(row, np.float64).astype(dtype) if dtype == np.float32 else np.asarray(row, dtype) for row in rows)
    except (OverflowError, FloatingPointError):
        raise ScoredError(f"{name} hold a number that is too large") from None
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise ScoredError(f"{name} hold a number that is not finite")
    return arrays


def decode(body: bytes) -> ScoredData:
    """A group from JSON; raises `ScoredError`. NaN and Infinity are no JSON."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ScoredError(str(error)) from None


_DECODER = msgspec.json.Decoder(ScoredData)
