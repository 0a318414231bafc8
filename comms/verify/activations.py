"""Proofs of activations: 258 bytes for 32 tokens say which weights read which tokens, and one prefill checks them.

    prove      the 128 largest of a chunk's last hidden states, (index, 16 bits) each, as one polynomial over GF(65497)
    measure    the verifier's own 128 largest: what the polynomial says of them, against what they are

A proof is the modulus and 128 coefficients, big-endian u16. The polynomial takes `index % modulus` to the raw bits of the value; the
modulus is the greatest that keeps the indices apart. Where prover and verifier select another value, or hold none of it, the polynomial
says something random. In the style of TOPLOC, arXiv:2501.16007.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinwire.comms.verify.field import PRIME, evaluate, interpolate
from thinwire.comms.wire import WireError

CHUNK = 32  # tokens
TOP = 128  # values of a chunk
WELL_ABOVE = 16  # units of the last place, a tenth of a value: honest provers select what lies so far above the least
FAR = 255  # units: more is no difference but another value
BURST = 4  # tokens in a row
PROOF_NBYTES = 2 + 2 * TOP
_LEAST = PRIME // 2  # modulus: with the width of the model as modulus one value a dimension would pass for every token
_TRIED = 256  # moduli at a time
_MANTISSA = 7  # bits of a bfloat16


class ProofError(WireError):
    """Bytes that no prover can have made."""


class UnprovableError(ValueError):
    """Hidden states that have no proof; `reason` is "short", "few", "not finite" or "no modulus"."""

    def __init__(self, reason: str, told: str) -> None:
        super().__init__(told)
        self.reason = reason


def cut(tokens: int, width: int, chunk: int = CHUNK) -> tuple[slice, ...]:
    """The rows of each chunk of `(tokens, width)` states; a rest of less than half a chunk, or with too few values, goes to the one before.

    Raises `UnprovableError` "short" when there are fewer than 128 values at all.

    >>> cut(70, 576)
    (slice(0, 32, None), slice(32, 70, None))
    """
    if tokens * width < TOP:
        raise UnprovableError("short", f"{tokens} tokens of {width} states are {tokens * width} values; a proof needs {TOP}")
    chunk = max(chunk, -(-TOP // width))
    starts = [start for start in range(0, tokens, chunk) if start == 0 or (tokens - start) * width >= TOP]
    if len(starts) > 1 and 2 * (tokens - starts[-1]) < chunk:
        starts.pop()
    return tuple(slice(start, end) for start, end in zip(starts, [*starts[1:], tokens], strict=True))


def prove(hidden: Tensor) -> tuple[bytes, ...]:
    """A proof of 258 bytes for each chunk of `hidden (tokens, width)` bfloat16, on any device; the same bytes for the same bits.

    Raises `ValueError` for another shape or type, and `UnprovableError` when there are too few values ("short"), too few other than zero
    in a chunk ("few"), NaN or Inf ("not finite"), or no modulus ("no modulus").
    """
    if hidden.ndim != 2 or hidden.dtype != torch.bfloat16:
        raise ValueError(f"hidden states are {tuple(hidden.shape)} {hidden.dtype}; give (tokens, width) bfloat16")
    return prove_chunks([hidden[rows] for rows in cut(*hidden.shape)])


def prove_chunks(chunks: Sequence[Tensor]) -> tuple[bytes, ...]:
    """A proof for each of `chunks`, `(tokens, width)` bfloat16 as `cut` makes them; many together cost little more than one.

    Raises what `prove` raises.
    """
    if not chunks:
        return ()
    index, bits = _selected(chunks)
    modulus = _moduli(index)
    coefficients = interpolate(index % modulus[:, None], bits)
    words = torch.cat([modulus[:, None], coefficients], 1).numpy().astype(">u2")
    return tuple(row.tobytes() for row in words)


@dataclass(frozen=True)
class Measurement:
    """How far a proof is from the verifier's own states, over the 128 largest of them.

    - `exponents`: those whose sign or exponent differ; `mean`, `median`: of the difference of mantissas over the others, in units of the
      last place (0 where there are none: then all exponents differ). The median is interpolated within its unit. Source: TOPLOC, section 4.
    - `burst`: of 1 to 4 tokens in a row the greatest sum of log2(1 + difference) - 1, divided by the root of how many values it sums: bits
      beyond a difference of one unit. One token that was read as another one shows here, and hardly in the averages. Of values that lie
      `WELL_ABOVE` the least of the 128, and differences of the whole value, sign and exponent with it, up to `FAR` units.
    """

    exponents: float
    mean: float
    median: float
    burst: float


def measure(proofs: Sequence[bytes], chunks: Sequence[Tensor]) -> tuple[Measurement, ...]:
    """Compare proofs with the verifier's own states of the same chunks, each `(tokens, width)` bfloat16.

    Raises `ProofError` for bytes that are no proof and for another number of proofs; what `prove` raises for the verifier's own states.
    """
    modulus, coefficients = read(proofs)
    if len(chunks) != len(modulus):
        raise ProofError(f"{len(modulus)} proofs for {len(chunks)} chunks")
    if not chunks:
        return ()
    for i, chunk in enumerate(chunks):
        if chunk.numel() <= PRIME and int(modulus[i]) != PRIME:
            raise ProofError(f"the proof of chunk {i} has modulus {int(modulus[i])}, where {PRIME} keeps all indices apart")
    index, own = _selected(chunks)
    claimed = evaluate(coefficients, index % modulus[:, None])
    same = claimed >> _MANTISSA == own >> _MANTISSA
    apart = (claimed - own).abs().double()
    bursts = [_burst(*each) for each in zip(claimed, own, index, chunks, strict=True)]
    return tuple(
        Measurement(float(TOP - kept.sum()), float(row[kept].mean()) if kept.any() else 0.0, _median(row[kept]), burst)
        for row, kept, burst in zip(apart, same, bursts, strict=True)
    )


def _median(values: Tensor) -> float:
    """Of differences in whole units, as if those of one unit were spread evenly over it: it moves with every value, not in steps."""
    if not len(values):
        return 0.0
    middle = values.median()
    below, within = float((values < middle).sum()), float((values == middle).sum())
    return max(0.0, float(middle) - 0.5 + (len(values) / 2 - below) / within)


def _burst(claimed: Tensor, own: Tensor, index: Tensor, chunk: Tensor) -> float:
    magnitude = own & 0x7FFF
    above = magnitude >= magnitude.min() + WELL_ABOVE
    apart = (_ordered(claimed) - _ordered(own)).abs().clamp(max=FAR).double()
    tokens, token = len(chunk), index // chunk.shape[1]
    bits = torch.zeros(tokens + 1, dtype=torch.float64).index_add_(0, token + 1, ((apart + 1).log2() - 1) * above).cumsum(0)
    values = torch.zeros(tokens + 1, dtype=torch.float64).index_add_(0, token + 1, above.double()).cumsum(0)
    windows = [(bits[n:] - bits[:-n]) / (values[n:] - values[:-n]).clamp(min=1).sqrt() for n in range(1, min(BURST, tokens) + 1)]
    return max(0.0, *(float(window.max()) for window in windows))


def _ordered(bits: Tensor) -> Tensor:
    """Integers in the order of the values: one more is the next greater bfloat16."""
    return torch.where(bits >= 0x8000, -(bits & 0x7FFF), bits)


def read(proofs: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """`modulus (chunks,)` and `coefficients (chunks, 128)`, int64. Raises `ProofError` with the first chunk that is no proof, and why."""
    for i, proof in enumerate(proofs):
        if not isinstance(proof, bytes) or len(proof) != PROOF_NBYTES:
            given = f"{len(proof)} bytes" if isinstance(proof, bytes) else type(proof).__name__
            raise ProofError(f"the proof of chunk {i} is {given}, not {PROOF_NBYTES} bytes")
    if not proofs:
        return torch.zeros(0, dtype=torch.int64), torch.zeros((0, TOP), dtype=torch.int64)
    words = torch.from_numpy(np.frombuffer(b"".join(proofs), ">u2").astype(np.int64)).view(-1, 1 + TOP)
    modulus, coefficients = words[:, 0], words[:, 1:]
    for unsound, what in (
        ((modulus <= _LEAST) | (modulus > PRIME), f"has a modulus that is not in {_LEAST + 1}..{PRIME}"),
        ((coefficients >= PRIME).any(1), f"has a coefficient that is no residue of {PRIME}"),
    ):
        if unsound.any():
            raise ProofError(f"the proof of chunk {int(unsound.nonzero()[0])} {what}")
    return modulus, coefficients


def _selected(chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`index` and raw `bits`, both `(chunks, 128)` int64 on the CPU, of the largest values by magnitude, the lower index first."""
    for chunk in chunks:
        if chunk.dtype != torch.bfloat16 or chunk.numel() < TOP:
            raise UnprovableError("short", f"a chunk is {tuple(chunk.shape)} {chunk.dtype}; a proof needs {TOP} values of bfloat16")
    pairs = [_largest(chunk.detach().reshape(-1).contiguous().view(torch.int16)) for chunk in chunks]
    index, bits = (torch.stack(each).cpu() for each in zip(*pairs, strict=True))
    magnitude = (bits & 0x7FFF).amax(1), (bits & 0x7FFF).amin(1)
    if int(magnitude[0].max()) >= 0x7F80:
        raise UnprovableError("not finite", f"chunk {int(magnitude[0].argmax())} has NaN or Inf; a model that makes them cannot be proved")
    if int(magnitude[1].min()) == 0:
        raise UnprovableError("few", f"chunk {int(magnitude[1].argmin())} has fewer than {TOP} values other than zero")
    return index, bits


def _largest(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Of one chunk's raw bits `(n,)` int16: bfloat16 magnitudes order as their bits do, and a key with the index in it has no ties."""
    magnitude = (raw & 0x7FFF).long()
    n = len(raw)
    key = (magnitude * n + torch.arange(n - 1, -1, -1, device=raw.device)).topk(TOP).values
    index = n - 1 - key % n
    return index, raw[index].long() & 0xFFFF


def _moduli(index: Tensor) -> Tensor:
    """`(chunks,)`: the greatest modulus up to 65497 that keeps each row's indices apart."""
    return torch.tensor([_modulus(row) for row in index])


def _modulus(index: Tensor) -> int:
    if int(index.max()) < PRIME:
        return PRIME
    for greatest in range(PRIME, _LEAST, -_TRIED):
        tried = torch.arange(greatest, max(greatest - _TRIED, _LEAST), -1)
        rests = (index % tried[:, None]).sort(1).values
        apart = (rests[:, 1:] != rests[:, :-1]).all(1)
        if apart.any():
            return int(tried[int(apart.int().argmax())])
    raise UnprovableError("no modulus", f"no modulus from {_LEAST + 1} to {PRIME} keeps these indices apart")
