"""What an honest proof may be off by: learnt from honest rollouts of the same model, kept in the run's manifest, applied to every verdict.

A chunk alone is a small sample, and contexts differ in how much they amplify rounding: of honest chunks some are three times as far off as
others. That factor multiplies, so `mean` and `median` are averaged and limited by their logarithms. The chunks of one rollout are judged
together as well, where the same six standard deviations are less. Limits on logarithms let a chunk alone be further off than limits on the
values would, so one chunk convicts less surely than four (docs/verify.md):

    limit(k) = mean + 6 sqrt(between^2 + within^2 / k)        k = 1: a chunk alone; k: the average over k chunks of one rollout

`between` and `within` are the standard deviations between rollouts and between chunks of a rollout (one-way analysis of variance).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean

from torch import Tensor

from thinwire.comms.verify.activations import Measurement, ProofError, measure

SIGMAS = 6.0
LEAST = 30  # honest chunks that thresholds may be learnt from
NAMES = tuple(each.name for each in fields(Measurement))
OFFSET = 0.5  # units: proofs that are closer than that are equally close


@dataclass(frozen=True)
class Limit:
    """Of one statistic over honest chunks, on the scale of `scaled`."""

    mean: float
    between: float
    within: float

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("between", self.between), ("within", self.within)):
            if not math.isfinite(value) or (value < 0 and name != "mean"):
                raise ValueError(f"{name} is {value}; a limit is made of finite numbers, deviations are not below zero")

    def of(self, chunks: int) -> float:
        """What the average over so many chunks of a rollout may be."""
        return self.mean + SIGMAS * math.sqrt(self.between**2 + self.within**2 / chunks)


@dataclass(frozen=True)
class Thresholds:
    """The limits of a run, one for each number of a `Measurement`; they hold for the model, dtype and lengths they were learnt from."""

    exponents: Limit
    mean: Limit
    median: Limit
    burst: Limit

    def to_dict(self) -> dict[str, list[float]]:
        """For a manifest; `from_dict` makes the same thresholds of it."""
        return {name: [limit.mean, limit.between, limit.within] for name in NAMES for limit in (self[name],)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Sequence[float]]) -> "Thresholds":
        """Raises `ValueError` for anything that `to_dict` cannot have made."""
        if not isinstance(told, Mapping) or set(told) != set(NAMES):
            raise ValueError(f"thresholds have the limits {', '.join(NAMES)}, given {told!r:.200}")
        try:
            return cls(**{name: Limit(*map(float, told[name])) for name in NAMES})
        except TypeError as error:
            raise ValueError(f"a limit has three numbers: {error}") from None

    def __getitem__(self, name: str) -> Limit:
        limit: Limit = getattr(self, name)
        return limit


@dataclass(frozen=True)
class Verdict:
    """`reason` is one stable word or two, `told` a sentence for people, `numbers` what was measured: averages over the chunks judged."""

    accepted: bool
    reason: str
    told: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def scaled(name: str, measured: Measurement) -> float:
    """A statistic as it is averaged: `mean` and `median` by their logarithms."""
    value: float = getattr(measured, name)
    return math.log(value + OFFSET) if name in ("mean", "median") else value


def unscaled(name: str, value: float) -> float:
    """What `scaled` made, in the unit of the measurement."""
    return math.exp(value) - OFFSET if name in ("mean", "median") else value


def calibrate(rollouts: Sequence[Sequence[Measurement]]) -> Thresholds:
    """Limits from honest rollouts: proofs made while decoding, measured with one prefill, the chunks of each rollout together.

    Raises `ValueError` for fewer than 30 chunks (take a thousand), and when all are equally far off: then proofs were made by the very pass
    that checked them, and limits without slack would refuse every other machine.
    """
    groups = [group for group in rollouts if group]
    if sum(map(len, groups)) < LEAST:
        raise ValueError(f"{sum(map(len, groups))} honest chunks; give at least {LEAST}, better a thousand")
    if len({each for group in groups for each in group}) == 1:
        raise ValueError(f"all honest chunks measure {groups[0][0]}; prove while decoding, and calibrate with the machines that will work")
    return Thresholds(**{name: _limit([[scaled(name, each) for each in group] for group in groups]) for name in NAMES})


def _limit(groups: Sequence[Sequence[float]]) -> Limit:
    """One-way random effects; the variance of what comes from groups of one chunk each cannot be told apart, and all counts as between."""
    means, sizes = [fmean(group) for group in groups], [len(group) for group in groups]
    total, n = fmean([value for group in groups for value in group]), sum(sizes)
    inside, outside = n - len(groups), len(groups) - 1
    squares = sum((value - mean) ** 2 for group, mean in zip(groups, means, strict=True) for value in group)
    within = squares / inside if inside else 0.0
    spread = sum(size * (mean - total) ** 2 for mean, size in zip(means, sizes, strict=True)) / outside if outside else 0.0
    typical = (n - sum(size**2 for size in sizes) / n) / outside if outside else 1.0
    return Limit(total, math.sqrt(max(0.0, (spread - within) / typical)), math.sqrt(within))


def judge(measured: Sequence[Measurement], thresholds: Thresholds) -> Verdict:
    """A verdict on chunks of one rollout: each alone, and all of them together. Raises `ValueError` when there is none."""
    if not measured:
        raise ValueError("no chunk was measured; a verdict needs at least one")
    averages = {name: fmean(scaled(name, each) for each in measured) for name in NAMES}
    numbers = {name: unscaled(name, value) for name, value in averages.items()}
    for name in NAMES:
        greatest = max(scaled(name, each) for each in measured)
        for value, limit, whose in (
            (greatest, thresholds[name].of(1), "of a chunk"),
            (averages[name], thresholds[name].of(len(measured)), f"on average of {len(measured)} chunks"),
        ):
            if not value <= limit:
                found, most = unscaled(name, value), unscaled(name, limit)
                return Verdict(False, "activations", f"{name} {whose}: {found:.2f}, honest ones have at most {most:.2f}", numbers)
    return Verdict(True, "accepted", f"{len(measured)} chunks are those of an honest worker", numbers)


def check(proofs: Sequence[bytes], chunks: Sequence[Tensor], thresholds: Thresholds) -> Verdict:
    """A verdict on proofs, from the verifier's own states of the same chunks, each `(tokens, width)` bfloat16.

    Bytes that are no proof are refused as "malformed". Raises `UnprovableError` when the verifier's own states have no proof.
    """
    try:
        measured = measure(proofs, chunks)
    except ProofError as error:
        return Verdict(False, "malformed", str(error), {})
    return judge(measured, thresholds)
