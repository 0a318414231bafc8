"""A policy of transformers: any causal language model in a folder, or in a .gguf file."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.rl.policy import Sample, Scored, aligned, check_sampling, padded, sampled, scored, vocabulary_digest


class Vocabulary:
    """A tokenizer of transformers as ours: a text gets no special tokens but those that it spells, and decoding leaves them out."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("this tokenizer has no end token (eos_token); a completion could never finish")
        self._tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)

    @cached_property
    def digest(self) -> bytes:
        ids: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary_digest([f"{i} {token}" for token, i in sorted(ids.items(), key=lambda item: item[1])])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat(self, question: str) -> str:
        """A question as the model's chat template puts it."""
        text: str = self._tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        return text


class Transformers:
    """The policy "hf:PATH", in float32 unless `dtype` says otherwise, without dropout: sampling and training see the same function.

    Raises `ModuleNotFoundError` without transformers, `ValueError` for a path that holds no model.
    """

    def __init__(self, path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> None:
        transformers: Any = importlib.import_module("transformers")
        folder, options = located(Path(path))
        self.tokenizer = Vocabulary(transformers.AutoTokenizer.from_pretrained(folder, **options))
        self.module: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).to(device)
        self.module.eval()

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def logprobs(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0) -> Scored:
        batch = padded(prompts, completions)
        tokens, real = batch.tokens[:, :-1].to(self.device), batch.real[:, :-1].to(self.device)
        told = self.module(
            input_ids=tokens,
            attention_mask=real.long(),
            position_ids=positions(real),
            use_cache=False,
            logits_to_keep=tokens.shape[1] - batch.start + 1,  # the vocabulary is large: no logits of prompts
        )
        return scored(told.logits, batch.targets.to(self.device), batch.mask.to(self.device), temperature=temperature)

    @torch.no_grad()
    def hidden(self, tokens: Tensor) -> Tensor:
        told = self.module(input_ids=tokens.to(self.device), use_cache=False, output_hidden_states=True, logits_to_keep=1)
        hidden: Tensor = told.hidden_states[-1]  # after the last norm
        return hidden

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
        tokens, real = (each.repeat_interleave(count, 0).to(self.device) for each in aligned(prompts))
        past: Any = None

        def following(drawn: Tensor | None) -> Tensor:
            nonlocal tokens, real, past
            if drawn is not None:
                tokens, real = drawn[:, None], torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
            told = self.module(
                input_ids=tokens,
                attention_mask=real.long(),
                position_ids=positions(real)[:, -tokens.shape[1] :],
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past = told.past_key_values
            logits: Tensor = told.logits[:, -1]
            return logits

        return sampled(following, tokenizer=self.tokenizer, count=count, max_new=max_new, temperature=temperature, generator=generator)


def positions(real: Tensor) -> Tensor:
    """Of each token in its row; padding has that of the first."""
    return (real.long().cumsum(1) - 1).clamp(min=0)


def located(path: Path) -> tuple[Path, dict[str, str]]:
    """The folder of a model, and the name of its .gguf file when it lies in one."""
    if path.suffix == ".gguf" and path.is_file():
        return path.parent, {"gguf_file": path.name}
    if (path / "config.json").is_file():
        return path, {}
    files = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(files) == 1:
        return path, {"gguf_file": files[0].name}
    raise ValueError(f"{path} holds no model: give a folder with config.json, or a .gguf file ({len(files)} of them in it)")
