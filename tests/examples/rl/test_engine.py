"""The engine against a server that answers as vLLM's `/v1/completions` (vllm/entrypoints/openai/completion/protocol.py)."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from examples.rl.engine import Engine, EngineError
from examples.rl.generate import generate
from examples.rl.tasks import Sort
from examples.rl.tiny import Characters, Tiny

SMALL = {"width": 16, "layers": 1, "heads": 2}
Spoil = Callable[[dict[str, Any]], Any]


class Server(ThreadingHTTPServer):
    """Serves a tiny policy; `asked` are the requests, `spoil` changes an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.policy = Tiny(**SMALL)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.spoil: Spoil = lambda answer: answer
        self.status = 200

    def engine(self, **options: Any) -> Engine:
        return Engine(f"http://127.0.0.1:{self.server_port}/v1/", model="tiny", tokenizer=Characters(), timeout_s=20, **options)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self.server.headers.append(self.headers["Authorization"])
        body = json.dumps(self.server.spoil(self.answer(asked))).encode()
        self.send_response(self.server.status if self.path == "/v1/completions" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(asked.get("seed", 0))
        told = self.server.policy.sample(
            asked["prompt"], count=asked["n"], max_new=asked["max_tokens"], temperature=asked["temperature"], generator=generator
        )
        choices = [
            {
                "index": index,
                "text": one.text.removesuffix("\n"),
                "finish_reason": "stop" if one.finished else "length",
                "stop_reason": None,
                "token_ids": one.ids.tolist(),
                "prompt_token_ids": None,
                "logprobs": {
                    "text_offset": list(range(len(one.ids))),
                    "token_logprobs": one.logprobs.tolist(),
                    "tokens": list(one.text),
                    "top_logprobs": [{} for _ in one.ids],
                },
            }
            for index, one in enumerate(sample for group in told for sample in group)
        ]
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": asked["model"],
            "choices": choices[::-1],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_samples_are_those_of_the_policy_behind_it(server: Server) -> None:
    prompts = [Characters().encode(prompt) for prompt in ("123=", "1=")]
    found = server.engine().sample(prompts, count=3, max_new=40, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(server.asked[0]["seed"])
    expected = server.policy.sample(prompts, count=3, max_new=40, generator=generator)
    assert {one.finished for group in expected for one in group} == {True, False}
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.logprobs, theirs.logprobs)
        assert ours.text == theirs.text
        assert ours.finished == theirs.finished


def test_nothing_of_the_distribution_is_left_to_the_engines_defaults(server: Server) -> None:
    server.engine(key="secret").sample([[1]], count=1, max_new=1)
    [asked] = server.asked
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert neutral.items() <= asked.items()
    assert asked["temperature"] == 1.0
    assert asked["return_token_ids"] is True
    assert asked["logprobs"] == 0
    assert asked["stop_token_ids"] == [0]
    assert "seed" not in asked
    assert server.headers == ["Bearer secret"]


def test_another_temperature_needs_log_probs_of_it(server: Server) -> None:
    with pytest.raises(ValueError, match="processed_logprobs"):
        server.engine().sample([[1]], count=1, max_new=1, temperature=0.7)
    server.engine(processed=True).sample([[1]], count=1, max_new=1, temperature=0.7)


def test_groups_are_made_through_an_engine_as_through_a_policy(server: Server) -> None:
    [group] = generate(server.engine(), Sort(), run="r", worker=bytes(32), version=0, numbers=[0], completions=4, max_new=6)
    assert len(group.completions) == 4
    assert group.tokenizer == Characters().digest


def every(**changes: Any) -> Spoil:
    def spoil(answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {"choices": [choice | changes for choice in answer["choices"]]}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda answer: {"error": "no"}, "not that of /v1/completions"),
        (lambda answer: [], "not that of /v1/completions"),
        (lambda answer: answer | {"choices": answer["choices"][1:]}, "1 completions for 1 prompts, 2 each"),
        (lambda answer: answer | {"choices": answer["choices"][:1] * 2}, "2 completions"),
        (every(token_ids=None), "return_token_ids"),
        (every(token_ids=[]), "0 token ids"),
        (every(token_ids=[1, 2, 3, 4]), "4 token ids"),
        (every(logprobs=None), "0 log-probs"),
        (every(token_ids=[1], logprobs={"token_logprobs": [None]}), "a log-prob that is none"),
        (every(token_ids=[1], logprobs={"token_logprobs": [0.5]}), "a log-prob that is none"),
        (every(token_ids=[1], logprobs={"token_logprobs": [float("nan")]}), "not that of /v1/completions"),
        (every(token_ids=[-1], logprobs={"token_logprobs": [-0.5]}), "1 token ids"),
        (every(token_ids=[5000], finish_reason="length", logprobs={"token_logprobs": [-0.5]}), "not in the vocabulary"),
        (every(token_ids=[1], finish_reason="stop", logprobs={"token_logprobs": [-0.5]}), "not at the end token"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(server: Server, spoil: Spoil, said: str) -> None:
    server.spoil = spoil
    with pytest.raises(EngineError, match=said):
        server.engine().sample([[1]], count=2, max_new=3)


def test_errors_and_an_engine_that_is_not_there_are_told(server: Server) -> None:
    server.status = 400
    with pytest.raises(EngineError, match="answers 400"):
        server.engine().sample([[1]], count=1, max_new=1)
    with pytest.raises(EngineError, match="answers 404"):
        Engine(f"http://127.0.0.1:{server.server_port}", model="m", tokenizer=Characters()).sample([[1]], count=1, max_new=1)
    gone = server.engine()
    server.socket.close()
    server.server_close()
    with pytest.raises(EngineError, match="is the engine up"):
        gone.sample([[1]], count=1, max_new=1)


@pytest.mark.parametrize("url", ["", "host", "ftp://host/v1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no address of an engine"):
        Engine(url, model="m", tokenizer=Characters())
