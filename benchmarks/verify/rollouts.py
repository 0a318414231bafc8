"""Honest rollouts, made once: prompts from English text, sampled with a cache of keys and values; and one prefill of the same tokens."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from benchmarks.verify.model import Decoder


@dataclass(frozen=True, eq=False)
class Rollouts:
    """A batch: `tokens (batch, prompt + completion)` int64, `hidden (batch, completion, width)` bfloat16 and `logprobs (batch, completion)`
    float32 as decoded, and the processor seconds that took."""

    tokens: Tensor
    hidden: Tensor
    logprobs: Tensor
    prompt: int
    cpu_s: float


def prompts(ids: Sequence[int], count: int, length: int, seed: int) -> Tensor:
    """`(count, length)`: windows of a text's tokens that differ; the same for the same seed. Raises `ValueError` when it is too short."""
    places = len(ids) // length
    if count > places:
        raise ValueError(f"the text has {places} prompts of {length} tokens, {count} are asked for")
    chosen = torch.randperm(places, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.tensor(ids[: places * length]).view(places, length)[chosen]


@torch.inference_mode()
def decode(model: Decoder, prompt: Tensor, completion: int, seed: int) -> Rollouts:
    """Sample at temperature 1, one token after the other; the model reads its last token too, so that every token has a state."""
    began, generator = time.process_time(), torch.Generator().manual_seed(seed)
    hidden, past = model.read(prompt, None)
    tokens, states, logprobs = [prompt], list[Tensor](), list[Tensor]()
    for _ in range(completion):
        distribution = model.logits(hidden[:, -1]).float().log_softmax(-1)
        sampled = torch.multinomial(distribution.exp(), 1, generator=generator)
        hidden, past = model.read(sampled, past)
        tokens.append(sampled)
        states.append(hidden)
        logprobs.append(distribution.gather(1, sampled))
    took = time.process_time() - began
    return Rollouts(torch.cat(tokens, 1), torch.cat(states, 1), torch.cat(logprobs, 1), prompt.shape[1], took)


@torch.inference_mode()
def prefill(model: Decoder, tokens: Tensor, prompt: int) -> tuple[Tensor, float]:
    """`(batch, completion, width)` bfloat16 by one pass over tokens that are known, and the processor seconds it took."""
    began = time.process_time()
    hidden = model.read(tokens, None)[0].bfloat16()
    return hidden[:, prompt:], time.process_time() - began


def batches(model: Decoder, starts: Tensor, completion: int, batch: int, seed: int, cache: Path, first: int = 0) -> Iterator[Rollouts]:
    """Rollouts from these prompts; those that `cache` holds are read, others are made and kept there. `first` is the number of the first
    batch: it names the file, and no two numbers sample alike."""
    cache.mkdir(parents=True, exist_ok=True)
    for number, prompt in enumerate(starts.split(batch), first):
        file = cache / f"{number:04d}.npz"
        rollouts = _read(file, prompt)
        if rollouts is None:
            rollouts = decode(model, prompt, completion, seed * 1_000_003 + number)
            _write(file, rollouts)
        yield rollouts


def _write(file: Path, made: Rollouts) -> None:
    draft = file.with_suffix(".draft.npz")
    bits = made.hidden.view(torch.int16)
    np.savez(draft, tokens=made.tokens.numpy(), hidden=bits.numpy(), logprobs=made.logprobs.numpy(), cpu_s=np.float64(made.cpu_s))
    draft.replace(file)


def _read(file: Path, prompt: Tensor) -> Rollouts | None:
    """What was kept of these prompts, or None."""
    try:
        with np.load(file, allow_pickle=False) as held:
            tokens, hidden, logprobs = (torch.from_numpy(held[name]) for name in ("tokens", "hidden", "logprobs"))
            cpu_s = float(held["cpu_s"])
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    if not torch.equal(tokens[:, : prompt.shape[1]], prompt):
        return None
    return Rollouts(tokens, hidden.view(torch.bfloat16), logprobs, prompt.shape[1], cpu_s)
