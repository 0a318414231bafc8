"""A sampler behind HTTP: any server of OpenAI's `/v1/completions` that tells token ids and log-probs, as vLLM does.

    vllm serve MODEL --logprobs-mode processed_logprobs

Every parameter that shapes the distribution is sent: vLLM takes those that are not from the model's generation_config.json, and log-probs
of another distribution than the sampled one make wrong importance weights. `return_token_ids` needs vLLM 0.10.2 or newer.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
import numpy as np
import torch
from msgspec import Struct

from examples.rl.policy import Sample, Tokenizer, by_prompt, check_sampling

MAX_NBYTES = 256 << 20  # of an answer


class EngineError(RuntimeError):
    """The engine cannot be reached, refuses, or says what cannot be; the samples of this call are lost."""


class _Logprobs(Struct, frozen=True):
    token_logprobs: list[float | None] = []


class _Choice(Struct, frozen=True):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Answer(Struct, frozen=True):
    choices: list[_Choice]


class Engine:
    """Samples of `model` at `url` ("http://host:8000/v1").

    - `tokenizer`: the policy's own; prompts are sent as its ids.
    - `processed`: the server was started with `--logprobs-mode processed_logprobs`. Without it log-probs are those of temperature 1, and
      any other temperature is refused.
    - `timeout_s`: for the whole batch of a call, whose completions arrive together.

    >>> from examples.rl.tiny import Characters
    >>> Engine("localhost:8000", model="m", tokenizer=Characters())
    Traceback (most recent call last):
    ValueError: 'localhost:8000' is no address of an engine; give http://HOST:PORT/v1
    """

    def __init__(
        self, url: str, *, model: str, tokenizer: Tokenizer, processed: bool = False, timeout_s: float = 600.0, key: str | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of an engine; give http://HOST:PORT/v1")
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/") + "/completions"
        self.tokenizer, self._model, self._processed, self._timeout_s, self._key = tokenizer, model, processed, timeout_s, key

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        count: int,
        max_new: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[list[Sample]]:
        """As `policy.Sampler`; with a generator, completions follow from it as far as the engine's arithmetic does, and equal prompts of a
        call get equal completions. Raises `EngineError` when the engine does not answer as it should."""
        check_sampling(prompts, count, max_new, temperature)
        if temperature != 1.0 and not self._processed:
            raise ValueError(
                f"temperature {temperature}: the log-probs of this engine are those of temperature 1; "
                "start it with --logprobs-mode processed_logprobs and give processed=True"
            )
        asked: dict[str, object] = {
            "model": self._model,
            "prompt": [list(prompt) for prompt in prompts],
            "n": count,
            "max_tokens": max_new,
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": [self.tokenizer.end],
        }
        if generator is not None:
            asked["seed"] = int(torch.randint(1 << 62, (), generator=generator))
        try:
            choices = msgspec.json.decode(self._post(msgspec.json.encode(asked)), type=_Answer).choices
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineError(f"the engine's answer is not that of /v1/completions: {error}") from None
        if sorted(choice.index for choice in choices) != list(range(len(prompts) * count)):
            raise EngineError(f"{len(choices)} completions for {len(prompts)} prompts, {count} each")
        return by_prompt([self._sample(choice, max_new) for choice in sorted(choices, key=lambda choice: choice.index)], count)

    def _post(self, body: bytes) -> bytes:
        connection = self._connect(self._host, self._port, timeout=self._timeout_s)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            told = response.read(MAX_NBYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"no answer from {self._host}: {error or type(error).__name__}; is the engine up?") from None
        finally:
            connection.close()
        if response.status != 200:
            raise EngineError(f"the engine answers {response.status}: {told[:200].decode(errors='replace')}")
        if len(told) > MAX_NBYTES:
            raise EngineError(f"an answer of more than {MAX_NBYTES} bytes; ask for fewer completions")
        return told

    def _sample(self, choice: _Choice, max_new: int) -> Sample:
        ids, told = choice.token_ids, choice.logprobs.token_logprobs if choice.logprobs else []
        if ids is None:
            raise EngineError("the engine tells no token ids; it needs `return_token_ids` (vLLM 0.10.2)")
        if not 1 <= len(ids) <= max_new or len(told) != len(ids) or not all(0 <= i < 1 << 31 for i in ids):
            raise EngineError(f"{len(ids)} token ids with {len(told)} log-probs, at most {max_new}")
        if any(one is None or not -math.inf < one <= 1e-4 for one in told):  # NaN is neither; rounding may leave a little above 0
            raise EngineError("a log-prob that is none")
        finished = choice.finish_reason == "stop"
        if finished and ids[-1] != self.tokenizer.end:
            raise EngineError(f"a completion that has stopped at token {ids[-1]}, not at the end token {self.tokenizer.end}")
        try:
            text = self.tokenizer.decode(ids)
        except (IndexError, OverflowError, ValueError) as error:
            raise EngineError(f"a token that is not in the vocabulary: {error}") from None
        return Sample(np.asarray(ids, np.int64), np.minimum(np.asarray(told, np.float32), 0.0), finished, text)
