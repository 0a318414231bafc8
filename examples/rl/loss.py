"""GRPO and its relatives on padded `(n, T)` tensors: one formula, and options that name the papers.

    A      = (R - mean) / (std + 1e-4)                           of the rewards in a group (DeepSeekMath, arXiv:2402.03300)
    r      = exp(logprobs - behaviour)                           per token: what was sampled by other weights counts as such
    L      = -min(min(r, delta) A, clip(r, 1 - low, 1 + high) A) + kl (exp(d) - d - 1), d = reference - logprobs

Behaviour log-probs are those of the weights that sampled. Without them foreign and stale rollouts ruin a policy; `ratio="own"` is for
showing that. `delta` bounds what a token with a negative advantage can do (INTELLECT-2, arXiv:2505.07291, section 3.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4  # trl's, under a standard deviation


@dataclass(frozen=True)
class GRPO:
    """What to optimise.

    - `scale`: divide advantages by the group's standard deviation ("std"), or not ("none": Dr.GRPO, arXiv:2503.20783).
    - `normalise`: a batch's loss is the mean over its tokens ("token": DAPO, arXiv:2503.14476), over sequences of their means ("sequence":
      GRPO), or the sum over `longest` tokens a sequence ("constant": Dr.GRPO).
    - `clip_low`, `clip_high`: r is clipped to [1 - low, 1 + high] (DAPO's clip-higher).
    - `delta`: no r counts for more, whatever its advantage; above 1 + clip_high. `math.inf` only to compare with others.
    - `dppo`: instead of the clip, drop tokens whose probability has moved by more than this in the direction of their advantage
      (prime-rl's DPPO mask; 0.2).
    - `kl`: weight of the k3 estimate of the divergence from a reference policy.
    - `drop_equal`: groups whose rewards are all the same are left out (DAPO's dynamic sampling); they would only shrink the step.
    - `ratio`: "behaviour", or "own": r is 1, as if this policy had sampled everything.
    """

    scale: Literal["std", "none"] = "std"
    normalise: Literal["token", "sequence", "constant"] = "token"
    longest: int = 0
    clip_low: float = 0.2
    clip_high: float = 0.28
    delta: float = 4.0
    dppo: float | None = None
    kl: float = 0.0
    drop_equal: bool = True
    ratio: Literal["behaviour", "own"] = "behaviour"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("scale", ("std", "none")),
            ("normalise", ("token", "sequence", "constant")),
            ("ratio", ("behaviour", "own")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if (self.normalise == "constant") != (self.longest > 0):
            raise ValueError(f"normalise={self.normalise!r} with longest={self.longest}; 'constant' needs longest, the others have none")
        if not 0 < self.clip_low < 1 or not self.clip_high > 0 or not self.delta > 1 + self.clip_high:
            raise ValueError(
                f"clip_low={self.clip_low}, clip_high={self.clip_high}, delta={self.delta}; "
                "choose 0 < clip_low < 1, clip_high > 0 and delta above 1 + clip_high"
            )
        if (self.dppo is not None and not 0 < self.dppo < 1) or not 0 <= self.kl < math.inf:
            raise ValueError(f"dppo={self.dppo}, kl={self.kl}; choose dppo in (0, 1) or None, and kl >= 0")


def advantages(rewards: Tensor, *, scale: Literal["std", "none"] = "std") -> Tensor:
    """Of one group: `(G,)` float32 rewards to `(G,)`; all zero when the rewards are equal.

    >>> advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), scale="none")
    tensor([ 0.5000, -0.5000, -0.5000,  0.5000])
    """
    centred = rewards - rewards.mean()
    if not informative(rewards):
        return torch.zeros_like(rewards)
    return centred / (rewards.std() + EPSILON) if scale == "std" else centred


def informative(rewards: Tensor) -> bool:
    """Whether the rewards of a group tell its completions apart."""
    return len(rewards) > 1 and bool((rewards != rewards[0]).any())


def sequence_weights(lengths: Tensor, options: GRPO) -> Tensor:
    """What each token of a sequence weighs, `(n,)`, from the lengths `(n,)` of a whole batch; micro-batches then simply add up."""
    count = len(lengths)
    if options.normalise == "token":
        return torch.ones(count) / lengths.sum()
    if options.normalise == "sequence":
        return 1 / (count * lengths.float())
    return torch.full((count,), 1 / (count * options.longest))


MEANS = ("mismatch", "entropy", "clipped", "capped", "divergence")


@dataclass
class Tally:
    """Sums over tokens, of which the numbers of a log are made; micro-batches add up."""

    tokens: float = 0.0
    loss: float = 0.0
    mismatch: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    capped: float = 0.0
    divergence: float = 0.0
    greatest: float = 0.0

    def add(self, other: Tally) -> None:
        """Count another micro-batch in."""
        for name in ("tokens", "loss", *MEANS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.greatest = max(self.greatest, other.greatest)

    def numbers(self) -> dict[str, float]:
        """`mismatch_kl`: of the behaviour from the policy, k3 in nats a token; `entropy` in nats a token; `clipped`, `capped`: shares of
        tokens whose gradient the clip (or the DPPO mask), and delta, took away; `kl`: from the reference; `ratio_max`."""
        means = {name: getattr(self, name) / max(self.tokens, 1.0) for name in MEANS}
        return {
            "loss": self.loss,
            "mismatch_kl": means["mismatch"],
            "entropy": means["entropy"],
            "clipped": means["clipped"],
            "capped": means["capped"],
            "kl": means["divergence"],
            "ratio_max": self.greatest,
        }


def policy_loss(
    logprobs: Tensor,
    behaviour: Tensor,
    mask: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    options: GRPO = GRPO(),
    entropy: Tensor | None = None,
    reference: Tensor | None = None,
) -> tuple[Tensor, Tally]:
    """The loss, a scalar with gradient to `logprobs`, and what there is to log.

    `logprobs`, `behaviour`, `mask`, `entropy`, `reference` are `(n, T)` float32; `advantages`, `weights` (of `sequence_weights`) `(n,)`.
    Raises `ValueError` when a divergence is asked for and there is no reference.
    """
    if options.kl and reference is None:
        raise ValueError(f"kl={options.kl} needs the log-probs of a reference policy; give reference, or kl=0")
    A = advantages[:, None]
    # Where there is no token the numbers are padding, and exp of them might be inf: inf * 0 is NaN.
    drift = torch.where(mask > 0, logprobs - behaviour, 0.0)
    ratio = torch.exp(drift) if options.ratio == "behaviour" else torch.exp(logprobs - logprobs.detach())
    capped = ratio.clamp(max=options.delta)
    outside: Tensor
    if options.dppo is None:
        each = -torch.min(capped * A, ratio.clamp(1 - options.clip_low, 1 + options.clip_high) * A)
        outside = ((A > 0) & (ratio > 1 + options.clip_high)) | ((A < 0) & (ratio < 1 - options.clip_low))
    else:
        moved = (logprobs.exp() - behaviour.exp()).detach()
        outside = ((A > 0) & (moved > options.dppo)) | ((A < 0) & (moved < -options.dppo))
        each = -torch.where(outside, 0.0, capped * A)
    divergence = torch.zeros_like(drift)
    if reference is not None:
        away = torch.where(mask > 0, reference - logprobs, 0.0)
        divergence = torch.exp(away) - away - 1
        each = each + options.kl * divergence
    loss = (each * mask * weights[:, None]).sum()
    with torch.no_grad():
        told = Tally(
            tokens=float(mask.sum()),
            loss=float(loss),
            mismatch=float(((torch.exp(drift) - drift - 1) * mask).sum()),
            entropy=float((entropy * mask).sum()) if entropy is not None else 0.0,
            clipped=float((outside * mask).sum()),
            capped=float(((ratio > options.delta) & (A < 0) & (mask > 0)).sum()),
            divergence=float((divergence * mask).sum()),
            greatest=float((torch.exp(drift) * mask).max()),
        )
    return loss, told
