"""What a worker proves of its groups and a verifier checks: activations of the weights that it was told to use, bound by a commitment.

A group is proved as a whole: the chunks of all its completions in one row, of which the challenge draws some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from examples.rl.checks import drift
from examples.rl.policy import Policy
from examples.rl.rollout import Completion, RolloutGroup
from thinwire.comms.verify.activations import PROOF_NBYTES, UnprovableError, cut, prove_chunks
from thinwire.comms.verify.challenge import Challenge, Rollout, commitment
from thinwire.comms.verify.thresholds import Limit, Thresholds, check

DRAWN = 4  # chunks of a group
_SAID = "proofs: "  # before the names of thresholds
# Prefills of the same weights on machines and batches of other kinds (docs/verify.md); a trainer may publish others with its weights.
THRESHOLDS = Thresholds(
    exponents=Limit(2.0, 1.0, 1.0), mean=Limit(0.47, 0.1, 0.1), median=Limit(0.31, 0.1, 0.1), burst=Limit(1.6, 0.5, 0.6)
)


@dataclass(frozen=True)
class Finding:
    """Of one group; `reason` is empty when all was well."""

    reason: str = ""
    detail: str = ""


def prove(group: RolloutGroup, policy: Policy, weights_sha256: bytes, *, proofs: bool = True) -> RolloutGroup:
    """The group with its proofs and the commitment to all of it; completions that are too short to prove have none."""
    if not proofs:
        return msgspec.structs.replace(group, commitment=committed(group, weights_sha256))
    states = _all_states(group, policy)
    chunks = [[own[rows] for rows in _cut(own)] for own in states]
    made_proofs = iter(prove_chunks([chunk for each in chunks for chunk in each]))
    proved = [
        msgspec.structs.replace(one, proof=b"".join(next(made_proofs) for _ in each))
        for one, each in zip(group.completions, chunks, strict=True)
    ]
    made = msgspec.structs.replace(group, completions=tuple(proved))
    return msgspec.structs.replace(made, commitment=committed(made, weights_sha256))


def committed(group: RolloutGroup, weights_sha256: bytes) -> bytes:
    """What the group's worker commits to: every token, log-prob and proof, the weights, itself, the run and the group's number."""
    told = hashlib.sha256(b"thinwire rl group commitment 1" + group.version.to_bytes(8, "little"))
    for i, one in enumerate(group.completions):
        n = (group.n << 16) + i
        rollout = Rollout([*group.prompt_tokens.tolist(), *one.tokens.tolist()], one.behaviour.tolist(), _split(one.proof))
        told.update(commitment(rollout, weights_sha256=weights_sha256, worker=group.worker, run=group.run.encode(), n=n))
    return told.digest()


def examine(
    group: RolloutGroup,
    policy: Policy,
    weights_sha256: bytes,
    randomness: bytes,
    *,
    drift_nats: float,
    temperature: float,
    proofs: bool = True,
    thresholds: Thresholds = THRESHOLDS,
) -> Finding:
    """One prefill of what the challenge draws: are proofs (in a run that has them) and log-probs those of `policy`, with its weights?"""
    if len(group.commitment) != 32:
        return Finding("no proof", "the group commits to nothing")
    try:
        opened = committed(group, weights_sha256)
    except (ValueError, TypeError) as error:
        return Finding("malformed", str(error))
    if opened != group.commitment:
        return Finding("commitment", "tokens, log-probs, proofs or weights are not those that it commits to")
    chunks = [(one, rows, proof) for one in group.completions for rows, proof in _chunks(one, policy)]
    if proofs and any(len(proof) != PROOF_NBYTES for _, _, proof in chunks):
        return Finding("no proof", "a completion without the proofs of its length")
    drawn = Challenge.draw(randomness, group.commitment, group.worker, chunks=len(chunks), count=DRAWN)
    chosen = [chunks[i] for i in drawn.chunks]
    if not chosen:
        return Finding()
    if proofs:
        states = [_states(group, one, policy)[rows] for one, rows, _ in chosen]
        verdict = check([proof for _, _, proof in chosen], states, thresholds)
        if not verdict.accepted:
            return Finding(verdict.reason, verdict.told)
    for one, _, _ in chosen:
        own = policy.logprobs([group.prompt_tokens.tolist()], [one.tokens.tolist()], temperature=temperature).logprobs[0]
        nats = drift(one.behaviour, own.detach().cpu().numpy())
        if nats > drift_nats:
            return Finding("drift", f"log-probs are {nats:.2f} nats off on average, at most {drift_nats}")
    return Finding()


def thresholds_from(extra: Mapping[str, Any]) -> Thresholds:
    """What a trainer has said beside its weights, else the thresholds of any machine. Raises `ValueError` for what cannot be."""
    told = {name.removeprefix(_SAID): values for name, values in extra.items() if name.startswith(_SAID)}
    return Thresholds.from_dict(told) if told else THRESHOLDS


def _cut(states: Tensor) -> tuple[slice, ...]:
    try:
        return cut(*states.shape)
    except UnprovableError:
        return ()


def _all_states(group: RolloutGroup, policy: Policy) -> list[Tensor]:
    """Of every completion; those of one length in one prefill."""
    found: dict[int, Tensor] = {}
    for length in {len(one.tokens) for one in group.completions}:
        rows = [i for i, one in enumerate(group.completions) if len(one.tokens) == length]
        tokens = torch.tensor([[*group.prompt_tokens.tolist(), *group.completions[i].tokens.tolist()] for i in rows])
        states = policy.hidden(tokens)[:, len(group.prompt_tokens) :].to(torch.bfloat16).cpu()
        found |= dict(zip(rows, states, strict=True))
    return [found[i] for i in range(len(group.completions))]


def _states(group: RolloutGroup, one: Completion, policy: Policy) -> Tensor:
    """`(tokens of the completion, width)` bfloat16: row i after token i was read."""
    tokens = torch.tensor([[*group.prompt_tokens.tolist(), *one.tokens.tolist()]])
    return policy.hidden(tokens)[0, len(group.prompt_tokens) :].to(torch.bfloat16).cpu()


def _chunks(one: Completion, policy: Policy) -> list[tuple[slice, bytes]]:
    """The rows of each chunk of a completion and the proof of it, empty where there is none."""
    try:
        rows = cut(len(one.tokens), _width(policy))
    except UnprovableError:
        return []
    proofs = [*_split(one.proof), *[b""] * len(rows)]
    return [*zip(rows, proofs, strict=False)]


def _split(proof: bytes) -> list[bytes]:
    return [proof[at : at + PROOF_NBYTES] for at in range(0, len(proof), PROOF_NBYTES)]


def _width(policy: Policy) -> int:
    return int(policy.hidden(torch.zeros(1, 1, dtype=torch.int64)).shape[-1])


def published(thresholds: Thresholds = THRESHOLDS) -> dict[str, Any]:
    """What a trainer says beside its weights."""
    return {_SAID + name: list(values) for name, values in thresholds.to_dict().items()}
