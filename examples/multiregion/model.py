"""A byte-level GPT of 1.3 million parameters: small enough to train in minutes on a laptop's CPU, large enough to learn something."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT = 128  # bytes


class Block(nn.Module):
    """Attention and MLP, each on a normalised residual stream: `(batch, time, width)` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, time, width))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class GPT(nn.Module):
    """Bytes `(batch, time <= CONTEXT)` int64 to logits of the next byte `(batch, time, 256)`; 1,334,080 parameters by default.

    >>> GPT()(torch.zeros(1, 8, dtype=torch.int64)).shape
    torch.Size([1, 8, 256])
    """

    def __init__(self, width: int = 160, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.byte = nn.Embedding(256, width)
        self.position = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.apply(_initialise)

    def forward(self, text: Tensor) -> Tensor:
        x = self.byte(text) + self.position.weight[: text.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits

    def loss(self, text: Tensor) -> Tensor:
        """Mean cross-entropy in nats a byte of sequences `(batch, CONTEXT + 1)`."""
        return F.cross_entropy(self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)  # GPT-2's


def sha256(model: nn.Module) -> str:
    """The sha256 of all parameters' bytes: equal on two replicas exactly when they hold the same bits."""
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
