"""What a worker proves of its groups and a verifier checks: activations of the weights that it was told to use, bound by a commitment.

A group is proved as a whole: the chunks of all its completions in one row, of which the challenge draws some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from examples.rl.checks import check_drift
from examples.rl.policy import Policy
from examples.rl.rollout import Completion, RolloutError, RolloutGroup
from thinwire.comms.verify.activations import PROOF_NBYTES, UnprovableError, cut, prove_chunks
from thinwire.comms.verify.challenge import Challenge, Rollout, commitment
from thinwire.comms.verify.thresholds import Limit, Thresholds, check

DRAWN = 4  # chunks of a group
_SAID = "proofs: "  # before the names of thresholds
# Prefills of the same weights on machines and batches of other kinds (docs/verify.md); a trainer may publish others with its weights.
THRESHOLDS = Thresholds(
    exponents=Limit(2.0, 1.0, 1.0), mean=Limit(0.47, 0.1, 0.1), median=Limit(0.31, 0.1, 0.1), burst=Limit(1.6, 0.5, 0.6)
)


def prove(group: RolloutGroup, policy: Policy, weights_sha256: bytes, *, proofs: bool = True) -> RolloutGroup:
    """The group with its proofs and the commitment to all of it; completions that are too short to prove have none."""
    if not proofs:
        return msgspec.structs.replace(group, commitment=committed(group, weights_sha256))
    states = _states(group, group.completions, policy)
    chunks = [[own[rows] for rows in _cut(*own.shape)] for own in states]
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
) -> None:
    """One prefill of what the challenge draws: are proofs (in a run that has them) and log-probs those of `policy`, with its weights?

    Raises `RolloutError` when they are not; "unprovable", which says nothing of the worker, when `policy` itself makes nothing that can be
    compared: NaN, or zeros.
    """
    if len(group.commitment) != 32:
        raise RolloutError("no proof", "the group commits to nothing")
    try:
        opened = committed(group, weights_sha256)
    except (ValueError, TypeError) as error:
        raise RolloutError("malformed", str(error)) from None
    if opened != group.commitment:
        raise RolloutError("commitment", "tokens, log-probs, proofs or weights are not those that it commits to")
    width = int(policy.hidden(torch.zeros(1, 1, dtype=torch.int64)).shape[-1])
    chunks = [(i, rows, proof) for i, one in enumerate(group.completions) for rows, proof in _chunks(one, width)]
    if proofs and any(len(proof) != PROOF_NBYTES for _, _, proof in chunks):
        raise RolloutError("no proof", "a completion without the proofs of its length")
    drawn = Challenge.draw(randomness, group.commitment, group.worker, chunks=len(chunks), count=DRAWN)
    chosen = [chunks[i] for i in drawn.chunks]
    looked_at = {i: group.completions[i] for i, _, _ in chosen}  # each once, however many of its chunks are drawn
    if proofs and chosen:
        states = dict(zip(looked_at, _states(group, list(looked_at.values()), policy), strict=True))
        try:
            verdict = check([proof for _, _, proof in chosen], [states[i][rows] for i, rows, _ in chosen], thresholds)
        except UnprovableError as error:
            raise RolloutError("unprovable", f"the verifier's own states of version {group.version} have no proof: {error}") from None
        if not verdict.accepted:
            raise RolloutError(verdict.reason, verdict.told)
    for one in looked_at.values():
        with torch.no_grad():
            own = policy.logprobs([group.prompt_tokens.tolist()], [one.tokens.tolist()], temperature=temperature).logprobs[0]
        if not bool(own.isfinite().all()):
            raise RolloutError("unprovable", f"the verifier's own log-probs of version {group.version} are not finite")
        check_drift(one.behaviour, own.cpu().numpy(), drift_nats)


def thresholds_from(extra: Mapping[str, Any]) -> Thresholds:
    """What a trainer has said beside its weights, else the thresholds of any machine. Raises `ValueError` for what cannot be."""
    told = {name.removeprefix(_SAID): values for name, values in extra.items() if name.startswith(_SAID)}
    return Thresholds.from_dict(told) if told else THRESHOLDS


def _cut(tokens: int, width: int) -> tuple[slice, ...]:
    """As `cut`; nothing of what is too short to prove."""
    try:
        return cut(tokens, width)
    except UnprovableError:
        return ()


def _states(group: RolloutGroup, completions: Sequence[Completion], policy: Policy) -> list[Tensor]:
    """Of each completion `(tokens, width)` bfloat16: row i after token i was read. Those of one length in one prefill."""
    prompt = group.prompt_tokens.tolist()
    found: dict[int, Tensor] = {}
    for length in {len(one.tokens) for one in completions}:
        rows = [i for i, one in enumerate(completions) if len(one.tokens) == length]
        tokens = torch.tensor([[*prompt, *completions[i].tokens.tolist()] for i in rows])
        states = policy.hidden(tokens)[:, len(prompt) :].to(torch.bfloat16).cpu()
        found |= dict(zip(rows, states, strict=True))
    return [found[i] for i in range(len(completions))]


def _chunks(one: Completion, width: int) -> list[tuple[slice, bytes]]:
    """The rows of each chunk of a completion and the proof of it, empty where there is none."""
    rows = _cut(len(one.tokens), width)
    proofs = [*_split(one.proof), *[b""] * len(rows)]
    return [*zip(rows, proofs, strict=False)]


def _split(proof: bytes) -> list[bytes]:
    return [proof[at : at + PROOF_NBYTES] for at in range(0, len(proof), PROOF_NBYTES)]


def published(thresholds: Thresholds = THRESHOLDS) -> dict[str, Any]:
    """What a trainer says beside its weights."""
    return {_SAID + name: list(values) for name, values in thresholds.to_dict().items()}
