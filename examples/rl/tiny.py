"""The built-in policy: a decoder over characters, 341,664 parameters (RoPE, RMSNorm, gated MLP, tied embedding), cached for sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.rl.policy import Sample, Scored, aligned, check_sampling, padded, sampled, scored, vocabulary_digest

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
THETA = 10_000.0  # RoFormer, arXiv:2104.09864


class Characters:
    """The end of a line and all printable ASCII; a line's end is the end of a completion, and part of its text.

    >>> Characters().decode(Characters().encode("1+1="))
    '1+1='
    """

    end = 0

    @cached_property
    def digest(self) -> bytes:
        return vocabulary_digest(CHARACTERS)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(CHARACTERS)}

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ValueError(f"the tiny policy has no character {error}; it knows printable ASCII and the end of a line") from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(CHARACTERS[i] for i in ids)


Cache = list[tuple[Tensor, Tensor]]  # keys and values (n, heads, t, width / heads) of each layer


class Block(nn.Module):
    """Attention and gated MLP, each on a normalised residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        inner = 8 * width // 3
        self.up, self.gate = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, turns: Tensor, seen: Tensor | None, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """`x (n, t, width)`; `turns (n, 1, t, width / heads / 2)` angles; `seen (n, 1, t, past + t)` bool, or None: causal."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = turned(q, turns), turned(k, turns)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), k, v


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the pairs (i, i + half) of `x (n, heads, t, size)` by angles `turns (n, 1, t, half)`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turns.cos(), turns.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Decoder(nn.Module):
    """Ids `(n, t)` to logits `(n, t, len(CHARACTERS))`."""

    def __init__(self, width: int = 96, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} with {heads} heads; RoPE turns pairs: choose a width that 2 x heads divides")
        self.embedding = nn.Embedding(len(CHARACTERS), width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.pairs = width // heads // 2

    def initialise(self, seed: int) -> None:
        """New weights that follow from the seed, and from nothing that other threads do with torch's own generator."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02, generator=generator)  # GPT-2's
            elif isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)

    def hidden(self, ids: Tensor, real: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """The states `(n, t, width)` that logits are made of. `real (n, past + t)` bool says which columns are no padding (None: all);
        `cache` holds the columns before `ids`, and is extended."""
        n, t = ids.shape
        before = cache[0][0].shape[2] if cache else 0
        if real is None:
            positions = torch.arange(before, before + t, device=ids.device).expand(n, t)
            seen = None if before == 0 else torch.ones(t, before + t, dtype=torch.bool, device=ids.device).tril(before).expand(n, 1, -1, -1)
        else:
            positions = (real.cumsum(1) - 1)[:, before:]
            causal = torch.ones(t, before + t, dtype=torch.bool, device=ids.device).tril(before)
            # Padding sees itself: a row of nothing would be NaN.
            seen = (causal & (real[:, None, :] | torch.eye(before + t, dtype=torch.bool, device=ids.device)[before:]))[:, None]
        speeds = THETA ** -(torch.arange(self.pairs, device=ids.device) / self.pairs)
        turns = (positions[:, :, None] * speeds)[:, None]
        x: Tensor = self.embedding(ids)
        kept: Cache = []
        for layer, block in enumerate(self.blocks):
            x, k, v = block(x, turns, seen, cache[layer] if cache else None)
            kept.append((k, v))
        if cache is not None:
            cache[:] = kept
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, ids: Tensor, real: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        return self.logits(self.hidden(ids, real, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embedding.weight.T


class Tiny:
    """The policy "tiny"; the same weights for the same seed and sizes, whatever the global generator is at.

    >>> [[sample]] = Tiny().sample([Characters().encode("52910=")], count=1, max_new=6)
    >>> sample.ids.shape == sample.logprobs.shape
    True
    """

    def __init__(self, *, seed: int = 0, width: int = 96, layers: int = 3, heads: int = 4) -> None:
        self.tokenizer = Characters()
        with torch.device("meta"):  # no default weights, which would take from torch's own generator
            self.module = Decoder(width, layers, heads)
        self.module.to_empty(device="cpu")
        self.module.initialise(seed)

    def logprobs(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0) -> Scored:
        batch = padded(prompts, completions)
        whole = bool(batch.real[:, : batch.start].all())  # padding behind a completion is seen by nothing that counts
        hidden = self.module.hidden(batch.tokens[:, :-1], None if whole else batch.real[:, :-1])
        logits = self.module.logits(hidden[:, batch.start - 1 :])
        return scored(logits, batch.targets, batch.mask, temperature=temperature)

    @torch.no_grad()
    def hidden(self, tokens: Tensor) -> Tensor:
        return self.module.hidden(tokens)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        count: int,
        max_new: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[list[Sample]]:
        check_sampling(prompts, count, max_new, temperature)
        tokens, real = aligned(prompts)
        whole = bool(real.all())
        cache: Cache = []
        hidden = self.module.hidden(tokens, None if whole else real, cache)[:, -1]
        cache = [(k.repeat_interleave(count, 0), v.repeat_interleave(count, 0)) for k, v in cache]
        hidden, real = hidden.repeat_interleave(count, 0), real.repeat_interleave(count, 0)

        def following(drawn: Tensor | None) -> Tensor:
            nonlocal hidden, real
            if drawn is not None:
                real = torch.cat([real, torch.ones(len(real), 1, dtype=torch.bool)], dim=1)
                hidden = self.module.hidden(drawn[:, None], None if whole else real, cache)[:, -1]
            return self.module.logits(hidden)

        return sampled(following, tokenizer=self.tokenizer, count=count, max_new=max_new, temperature=temperature, generator=generator)


def weights_sha256(module: nn.Module) -> str:
    """The sha256 of all parameters' bytes: equal on two replicas exactly when they hold the same bits."""
    digest = hashlib.sha256()
    for p in module.parameters():
        digest.update(p.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
