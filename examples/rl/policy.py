"""What is trained, seen from the outside: something that samples completions and says how likely they were; "tiny" or "hf:PATH"."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Sample:
    """One completion. `ids (T,)` int64, the end token among them when `finished`; `logprobs (T,)` float32, <= 0, each under the
    distribution that its token was drawn from, temperature included."""

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    finished: bool
    text: str


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def digest(self) -> bytes:
        """sha256 of the vocabulary: ids of two policies mean the same when it is equal."""
        ...

    @property
    def end(self) -> int:
        """The id that ends a completion."""
        ...

    @property
    def size(self) -> int:
        """All ids are below it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Raises `ValueError` for what the vocabulary cannot say."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Never raises for ids of the vocabulary."""
        ...


class Sampler(Protocol):
    """Makes completions: a policy, or an engine that serves one."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        count: int,
        max_new: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[list[Sample]]:
        """`count` completions of each prompt, of at most `max_new` tokens; the same ones for the same generator on the same machine."""
        ...


class Scored(NamedTuple):
    """Completions under the policy as it is, padded: all `(n, T)` float32. `entropy` has no gradient; `mask` is 1 on real tokens."""

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class Policy(Sampler, Protocol):
    """A sampler whose weights are here."""

    @property
    def module(self) -> nn.Module: ...

    def logprobs(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0) -> Scored:
        """How likely each token of `n` completions is, with gradient; `T` is the longest one's length."""
        ...

    def hidden(self, tokens: Tensor) -> Tensor:
        """`(n, t)` int64, unpadded, to the last hidden states `(n, t, width)` that logits are made of, for proofs; no gradient."""
        ...


def policy(name: str, *, seed: int = 0, device: str = "cpu") -> Policy:
    """The policy of a name: "tiny" (new weights, which follow from `seed`) or "hf:PATH" (a folder or .gguf file of transformers).

    Raises `ValueError` for another name or a device that it cannot be on, `ModuleNotFoundError` without the extra [rl].

    >>> sum(p.numel() for p in policy("tiny").module.parameters())
    341664
    """
    if name == "tiny":
        from examples.rl.tiny import Tiny

        if device != "cpu":
            raise ValueError(f"device is {device!r}; the tiny policy computes on the cpu, hf: policies anywhere")
        return Tiny(seed=seed)
    if name.startswith("hf:"):
        from examples.rl.hf import Transformers

        return Transformers(name.removeprefix("hf:"), device=device)
    raise ValueError(f"no policy is called {name!r}; choose tiny or hf:PATH")


def vocabulary_digest(tokens: Sequence[str]) -> bytes:
    """sha256 of a vocabulary in the order of its ids."""
    told = hashlib.sha256(b"thinwire rl vocabulary 1\n")
    for token in tokens:
        text = token.encode("utf-8", "surrogatepass")
        told.update(len(text).to_bytes(4, "little") + text)
    return told.digest()


def check_sampling(prompts: Sequence[Sequence[int]], count: int, max_new: int, temperature: float) -> None:
    """Raise `ValueError` for what no sampler can do."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("no prompt, or an empty one; give at least one token")
    if count < 1 or max_new < 1 or not 0 < temperature < float("inf"):
        raise ValueError(f"count={count}, max_new={max_new}, temperature={temperature}; all are positive")


def draw(logits: Tensor, *, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Tokens `(n,)` int64 from logits `(n, vocabulary)`, and their log-probs `(n,)` float32 under softmax(logits / temperature)."""
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    likely = logprobs.exp() if generator is None else logprobs.exp().to(generator.device)  # who draws decides where
    tokens = torch.multinomial(likely, 1, generator=generator).to(logits.device)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0].clamp(max=0.0)


def sampled(
    following: Callable[[Tensor | None], Tensor],
    *,
    tokenizer: Tokenizer,
    count: int,
    max_new: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[list[Sample]]:
    """Draw until all rows have ended or are `max_new` long, `count` rows a prompt.

    `following(tokens)` are the logits `(n, vocabulary)` after tokens `(n,)`; at first, after None, those behind the prompts.
    """
    ids: list[Tensor] = []
    logprobs: list[Tensor] = []
    drawn: Tensor | None = None
    ended: Tensor | None = None
    while len(ids) < max_new and (ended is None or not bool(ended.all())):
        drawn, likely = draw(following(drawn), temperature=temperature, generator=generator)
        ids.append(drawn)
        logprobs.append(likely)
        ended = drawn == tokenizer.end if ended is None else ended | (drawn == tokenizer.end)
    rows = zip(torch.stack(ids, 1), torch.stack(logprobs, 1), strict=True)
    return by_prompt([cut(row, likely, tokenizer) for row, likely in rows], count)


def by_prompt(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """`count` of each prompt, one prompt after the other."""
    return [list(samples[start : start + count]) for start in range(0, len(samples), count)]


def scored(logits: Tensor, targets: Tensor, mask: Tensor, *, temperature: float) -> Scored:
    """What logits `(n, T, vocabulary)` say of tokens `(n, T)` int64; zero where the mask is."""
    every = torch.log_softmax(logits.float() / temperature, dim=-1)
    chosen = every.gather(2, targets[..., None])[..., 0] * mask
    with torch.no_grad():
        entropy = -(every.exp() * every).sum(-1) * mask
    return Scored(chosen, entropy, mask)


class Padded(NamedTuple):
    """Prompts and completions as one batch, prompts right-aligned at column `start`, completions from there on: `tokens`, `real (n, t)`;
    `targets`, `mask (n, T)` are of the completions alone."""

    tokens: Tensor
    real: Tensor
    start: int
    targets: Tensor
    mask: Tensor


def padded(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Padded:
    """Lay `n` pairs side by side. Padding is id 0, and not `real`. Raises `ValueError` for an empty prompt or completion."""
    if len(prompts) != len(completions) or not prompts or not all(map(len, prompts)) or not all(map(len, completions)):
        raise ValueError(f"{len(prompts)} prompts and {len(completions)} completions, none of them may be empty")
    start, longest = max(map(len, prompts)), max(map(len, completions))
    tokens = torch.zeros(len(prompts), start + longest, dtype=torch.int64)
    real = torch.zeros(len(prompts), start + longest, dtype=torch.bool)
    tokens[:, :start], real[:, :start] = aligned(prompts)
    for row, completion in enumerate(completions):
        tokens[row, start : start + len(completion)] = torch.as_tensor(completion)
        real[row, start : start + len(completion)] = True
    return Padded(tokens, real, start, tokens[:, start:], real[:, start:].float())


def aligned(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts with padding on the left: `tokens (n, t)` int64 and `real (n, t)` bool."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        real[row, longest - len(prompt) :] = True
    return tokens, real


def cut(ids: Tensor, logprobs: Tensor, tokenizer: Tokenizer) -> Sample:
    """A sample from a row `(T,)` that may go on after its end token."""
    ends = (ids == tokenizer.end).nonzero()
    length = int(ends[0]) + 1 if len(ends) else len(ids)
    kept = ids[:length].cpu().numpy()
    return Sample(kept, logprobs[:length].cpu().numpy(), bool(len(ends)), tokenizer.decode(kept.tolist()))
