"""What a worker may do instead of running these weights over these tokens."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.verify.model import Decoder

GROUP = 64  # weights that share a scale, as such formats have it
INTS = {"int4": 7, "int8": 127}  # the greatest integer


@contextmanager
def other_weights(model: Decoder, kind: str, seed: int) -> Iterator[None]:
    """The model with other weights, within the block: "int4" or "int8" (symmetric, a scale a group of 64), or each weight times 1 + x * a
    normal number: "noise 0.01" is x = 1 %."""
    honest = [weight.detach().clone() for weight in model.weights()]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for weight in model.weights():
                weight.copy_(_rounded(weight, INTS[kind]) if kind in INTS else _noisy(weight, float(kind.split()[1]), generator))
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(model.weights(), honest, strict=True):
                weight.copy_(before)


@contextmanager
def in_float32(model: Decoder) -> Iterator[None]:
    """The model with the same weights as float32, within the block: no lie, but an honest worker of another kind."""
    honest = [weight.data for weight in model.weights()]
    try:
        for weight in model.weights():
            weight.data = weight.data.float()
        yield
    finally:
        for weight, before in zip(model.weights(), honest, strict=True):
            weight.data = before


def _noisy(weight: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return weight.float() * (1 + share * torch.randn(weight.shape, generator=generator))


def _rounded(weight: Tensor, most: int) -> Tensor:
    if weight.ndim < 2 or weight.numel() % GROUP:
        return weight
    groups = weight.float().view(-1, GROUP)
    scale = groups.abs().amax(1, keepdim=True).clamp(min=1e-30) / most
    return ((groups / scale).round().clamp(-most, most) * scale).view_as(weight)


def swapped(tokens: Tensor, first: int, last: int, vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    """Copies of `tokens (batch, n)` with one of first..last-1 replaced by any other one, in each row; and `(batch,)` where."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(tokens))
    at = torch.randint(first, last, (len(tokens),), generator=generator)
    other, changed = torch.randint(1, vocabulary, (len(tokens),), generator=generator), tokens.clone()
    changed[rows, at] = (tokens[rows, at] + other) % vocabulary
    return changed, at


@torch.inference_mode()
def resampled(model: Decoder, tokens: Tensor, hidden: Tensor, prompt: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same within the completion, but for its first token: replaced by one that the model might have said there (`hidden` is that of
    the completion)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(tokens))
    at = torch.randint(prompt + 1, tokens.shape[1], (len(tokens),), generator=generator)
    likely = model.logits(hidden[rows, at - prompt - 1]).float().softmax(-1)
    likely[rows, tokens[rows, at]] = 0
    changed = tokens.clone()
    changed[rows, at] = torch.multinomial(likely, 1, generator=generator)[:, 0]
    return changed, at


def invented(kind: str, honest: Tensor, seed: int) -> Tensor:
    """States that no model computed, from `honest (rollouts, tokens, width)`: "random", "another rollout", or the "mean" of all, which one
    could prepare once for ever."""
    match kind:
        case "random":
            noise = torch.randn(honest.shape, generator=torch.Generator().manual_seed(seed))
            return (noise * honest.float().std()).bfloat16()
        case "another rollout":
            return honest.roll(1, 0)
        case "mean":
            return honest.float().mean((0, 1), keepdim=True).expand(honest.shape).bfloat16()
    raise ValueError(f"nobody invents {kind!r}; give random, another rollout or mean")
