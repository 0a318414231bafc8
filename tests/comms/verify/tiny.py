"""A small causal transformer with random bfloat16 weights and a cache of keys and values: enough to be proved, and to be lied about."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tiny(nn.Module):
    """`read(tokens, past)` returns the last hidden states, normalised, and the past with these tokens in it."""

    def __init__(self, seed: int = 0, *, vocabulary: int = 64, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.width, self.vocabulary, self.heads = width, vocabulary, heads
        self.embedding = nn.Parameter(torch.randn(vocabulary, width))
        self.places = nn.Parameter(torch.randn(512, width))
        self.qkv = nn.ParameterList(torch.randn(3 * width, width) * width**-0.5 for _ in range(layers))
        self.up = nn.ParameterList(torch.randn(4 * width, width) * width**-0.5 for _ in range(layers))
        self.down = nn.ParameterList(torch.randn(width, 4 * width) * width**-0.5 for _ in range(layers))
        self.to(torch.bfloat16)

    def read(self, tokens: Tensor, past: Any) -> tuple[Tensor, Any]:
        batch, n = tokens.shape
        before = 0 if past is None else past[0][0].shape[2]
        x, kept = self.embedding[tokens] + self.places[before : before + n], []
        for layer, (qkv, up, down) in enumerate(zip(self.qkv, self.up, self.down, strict=True)):
            q, k, v = (each.view(batch, n, self.heads, -1).transpose(1, 2) for each in F.linear(_normed(x), qkv).chunk(3, -1))
            if past is not None:
                k, v = torch.cat([past[layer][0], k], 2), torch.cat([past[layer][1], v], 2)
            kept.append((k, v))
            seen = torch.ones(n, before + n, dtype=torch.bool).tril(before)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            x = x + mixed.transpose(1, 2).reshape(batch, n, self.width)
            x = x + F.linear(F.gelu(F.linear(_normed(x), up)), down)
        return _normed(x), kept

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding) / 4

    def weights(self) -> list[nn.Parameter]:
        return list(self.parameters())

    @torch.inference_mode()
    def states(self, tokens: Any) -> Tensor:
        """Of `tokens (n,)` or `(batch, n)` the states of each, by one pass."""
        tokens = torch.as_tensor(tokens)
        return self.read(tokens, None)[0] if tokens.ndim == 2 else self.read(tokens[None], None)[0][0]

    @torch.inference_mode()
    def decoded(self, tokens: Tensor) -> Tensor:
        """Of `tokens (batch, n)`, one after the other."""
        past, rows = None, []
        for column in tokens.split(1, -1):
            hidden, past = self.read(column, past)
            rows.append(hidden)
        return torch.cat(rows, 1)

    def noisy(self, share: float, seed: int = 0) -> "Tiny":
        """Another model: each weight times 1 + share * a normal number."""
        other = copy.deepcopy(self)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in other.parameters():
                weight.copy_(weight.float() * (1 + share * torch.randn(weight.shape, generator=generator)))
        return other


def _normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])
